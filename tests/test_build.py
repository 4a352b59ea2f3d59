"""What runs is what stands in the source tree: extensions are not stale, and no other copy is tested.

Compiled modules win over the `.py` beside them, and the source tree wins over an installed copy; both would
silently test something else. `pip install -e .` brings the extensions up to date.
"""

import ast
import importlib.util
import json
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest

import slotproxy
from slotproxy import build
from tests.test_layers import imported_names

TREE = Path(__file__).resolve().parent.parent
PACKAGE = Path(slotproxy.__path__[0]).resolve()
REBUILD = "rebuild in place: pip install -e . (or SLOTPROXY_PURE=1 pip install -e .)"


@pytest.fixture(scope="module")
def setup_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slotproxy_setup", TREE / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_place_extensions(tree: Path) -> dict[str, Path]:
    """Extension modules that this interpreter would load from `tree`, by the source they stand for."""
    suffix = EXTENSION_SUFFIXES[0]
    return {
        f"{path.relative_to(tree).as_posix().removesuffix(suffix)}.py": path
        for path in (tree / "slotproxy").rglob(f"*{suffix}")
    }


def stale_sources(tree: Path, compiled: dict[str, str], current: dict[str, str]) -> list[str]:
    """Sources whose in-place extension was not built from them: changed, removed or never stamped."""
    shadowed = [source for source in in_place_extensions(tree) if "__mypyc" not in source]
    return sorted(source for source in shadowed if compiled.get(source) != current.get(source, ""))


def test_extensions_in_the_tree_match_their_sources(setup_py: ModuleType) -> None:
    if not in_place_extensions(TREE):
        pytest.skip("nothing was compiled in place")
    stamp = TREE / setup_py.STAMP
    compiled = json.loads(stamp.read_text()) if stamp.exists() else {}
    current = setup_py.digests()
    stale = stale_sources(TREE, compiled, current)
    missing = sorted(current.keys() - compiled.keys())
    assert not stale and not missing, f"stale: {stale}, not compiled: {missing}; {REBUILD}"


def test_an_edited_source_is_called_stale(setup_py: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "slotproxy" / "protocol"
    package.mkdir(parents=True)
    for name in ("same", "edited", "pure"):
        (package / f"{name}.py").write_text("x = 1\n")
    for name in ("same", "edited", "gone"):
        (package / f"{name}{EXTENSION_SUFFIXES[0]}").touch()
    compiled = setup_py.digests(tmp_path)
    (package / "edited.py").write_text("x = 2\n")
    stale = stale_sources(tmp_path, compiled, setup_py.digests(tmp_path))
    assert stale == ["slotproxy/protocol/edited.py", "slotproxy/protocol/gone.py"]


def test_the_installed_copy_is_the_one_under_test() -> None:
    """A non-editable install is compiled elsewhere, and the tree's own files shadow it in a test run."""
    for distribution in distributions(name="slotproxy"):
        copy = Path(str(distribution.locate_file("slotproxy")))
        if (copy / "__init__.py").exists():
            assert copy.resolve() == PACKAGE, f"installed in {copy}, tested in {PACKAGE}; {REBUILD}"


def test_every_listed_module_is_compiled_or_none_is(setup_py: ModuleType) -> None:
    names = [source.removesuffix(".py").replace("/", ".") for source in setup_py.compiled_modules()]
    assert names, "setup.py lists no modules to compile"
    assert {build.is_compiled(name) for name in names} == {build.flavour() == "compiled"}


def test_the_compiled_list_takes_the_data_path_and_leaves_what_waits(
    setup_py: ModuleType, tmp_path: Path
) -> None:
    for path in ("protocol/__init__.py", "protocol/frames.py", "cluster/refresher.py", "control/serve.py"):
        file = tmp_path / "slotproxy" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert setup_py.compiled_modules(tmp_path) == ["slotproxy/protocol/frames.py"]


def test_what_waits_is_not_compiled(setup_py: ModuleType) -> None:
    for source in setup_py.compiled_modules():
        names = imported_names(ast.parse((TREE / source).read_text()), source.split("/")[:-1])
        assert "trio" not in {name.split(".")[0] for name in names}, f"{source}: list it under INTERPRETED"


def test_flavour_follows_the_kind_of_file(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = "reactor.py"
    monkeypatch.setattr(build, "find_spec", lambda name: ModuleSpec(name, None, origin=origin))
    assert build.flavour() == "interpreted"
    origin = f"reactor{EXTENSION_SUFFIXES[0]}"
    assert build.flavour() == "compiled"


def test_asking_for_the_flavour_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    build.flavour()
    loaded = {name for name in set(sys.modules) - before if name.startswith("slotproxy.")}
    assert not loaded & set(build.PROBES)

"""Compiles the data path with mypyc; all else about the package stands in pyproject.toml.

The list of compiled modules (`COMPILED`, `INTERPRETED`) lives here and nowhere else.

- `SLOTPROXY_PURE=1` builds without extension modules; mypy is not imported then.
- Without a C compiler, or when compiling fails, the same build ends interpreted. It is all or nothing: a
  module's shim without the shared library behind it would not import, so one failure discards the rest.
- A type error in a compiled module stops the build: that is a defect of the tree, not of the machine.
- An editable install compiles in place. The extensions left by an earlier one are removed first (they would
  win over newer sources, also in a pure build), and `STAMP` keeps the hashes of what was compiled, which
  `tests/test_build.py` compares with the sources. `python setup.py build_ext --inplace` does the same without
  fetching anything, where mypy and setuptools are installed.
"""

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
COMPILED = ["slotproxy/protocol/*.py", "slotproxy/cluster/*.py", "slotproxy/dataplane/*.py"]
INTERPRETED = [
    "*/__init__.py",  # docstrings and names for import, nothing that runs per request
    "slotproxy/cluster/refresher.py",  # trio: waits, so there is nothing to gain
]
STAMP = "slotproxy/compiled.json"
GROUP = "slotproxy.native"  # the shared library is slotproxy/native__mypyc.*.so
# The build needs the modules' types, not the project's checks of style nor the runtime packages' types.
MYPY_OPTIONS = ["--config-file=", "--strict-bytes", "--ignore-missing-imports"]


def compiled_modules(root: Path = ROOT) -> list[str]:
    """The sources that mypyc compiles, relative to `root`, sorted; none where there are none yet."""
    found = {path.relative_to(root).as_posix() for pattern in COMPILED for path in root.glob(pattern)}
    return sorted(p for p in found if not any(fnmatch(p, pattern) for pattern in INTERPRETED))


def digests(root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of each compiled module's source, by its path."""
    return {p: hashlib.sha256((root / p).read_bytes()).hexdigest() for p in compiled_modules(root)}


def extensions() -> list[Extension]:
    """What to compile: empty for a pure build and where mypy is missing."""
    modules = compiled_modules()
    if not modules or os.environ.get("SLOTPROXY_PURE", "0") not in ("", "0"):
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        print("slotproxy: mypy is not installed, building interpreted", file=sys.stderr)
        return []
    made = mypycify([*MYPY_OPTIONS, *modules], opt_level="3", debug_level="0", group_name=GROUP)
    built = [extension for extension in made if isinstance(extension, Extension)]  # for mypy: all are
    for extension in built:
        extension.optional = True
        if sys.platform == "linux":
            extension.extra_link_args = [*(extension.extra_link_args or []), "-Wl,--strip-all"]
    return built


def in_place_artefacts() -> Iterator[Path]:
    """The extension modules of this interpreter that lie in the source tree, and their stamp."""
    yield from (ROOT / "slotproxy").rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}")
    yield ROOT / STAMP


def remove_in_place() -> None:
    for path in in_place_artefacts():
        path.unlink(missing_ok=True)


class BuildPy(build_py):
    """Also clears the tree of old extensions when a pure editable install is made."""

    def run(self) -> None:
        if self.editable_mode and not self.distribution.ext_modules:
            remove_in_place()
        super().run()


class BuildExt(build_ext):
    """All extensions or none, and a stamp beside those built in place."""

    failed = False

    def run(self) -> None:
        in_place = self.inplace
        if in_place:
            remove_in_place()
        sources = digests()
        super().run()
        if in_place and not self.failed:
            (ROOT / STAMP).write_text(json.dumps(sources, indent=1) + "\n")

    def build_extensions(self) -> None:
        super().build_extensions()
        if self.failed:
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            print("slotproxy: compiling failed, the build is interpreted", file=sys.stderr)

    def build_extension(self, ext: Extension) -> None:
        if self.failed:
            return
        try:
            super().build_extension(ext)
        except BaseException:
            self.failed = True
            raise


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_py": BuildPy, "build_ext": BuildExt})

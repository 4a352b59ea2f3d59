"""Imports point downwards only, and the layers that must not wait import nothing that waits.

Read from the syntax trees of all files, so imports inside functions and under TYPE_CHECKING count as well.
The same check runs over small trees with a planted violation each: it can fail.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import slotproxy

LAYERS = ["protocol", "cluster", "dataplane", "control", "demo", "cli", "__main__"]
"""Bottom to top: a layer imports itself and what stands before it. Any other top-level module is for
everybody and imports nothing of the package."""

WAITING = {"trio", "asyncio", "threading", "concurrent", "subprocess"}
FORBIDDEN = {
    "protocol": WAITING | {"socket", "ssl", "select", "selectors", "time", "datetime", "logging"},
    "dataplane": WAITING,
}


def imported_names(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Absolute dotted names that a file of `package` imports; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = [*base, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*prefix, alias.name]) for alias in node.names)


def layer_rank(top: str) -> int:
    return LAYERS.index(top) if top in LAYERS else -1


def violations(root: Path) -> list[str]:
    """One line for each forbidden import in the package at `root`."""
    found = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        own = inside.parts[0].removesuffix(".py")
        package = [root.name, *inside.parts[:-1]]
        for name in imported_names(ast.parse(path.read_text(), str(path)), package):
            first, *rest = name.split(".")
            if first in FORBIDDEN.get(own, ()):
                found.append(f"{inside}: {own} must not import {first}")
            elif first == root.name and rest and rest[0] != own and layer_rank(rest[0]) >= layer_rank(own):
                found.append(f"{inside}: {own} stands below {rest[0]}")
    return found


def test_imports_point_downwards() -> None:
    assert violations(Path(slotproxy.__path__[0])) == []


def plant(root: Path, path: str, code: str) -> Path:
    file = root / "slotproxy" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    return root / "slotproxy"


@pytest.mark.parametrize(
    ("path", "code", "complaint"),
    [
        ("protocol/slots.py", "import time", "protocol must not import time"),
        ("protocol/slots.py", "from select import epoll", "protocol must not import select"),
        ("protocol/slots.py", "def f():\n    import logging.handlers", "protocol must not import logging"),
        ("dataplane/reactor.py", "from trio import lowlevel", "dataplane must not import trio"),
        ("protocol/slots.py", "import slotproxy.cluster.slotmap", "protocol stands below cluster"),
        ("cluster/slotmap.py", "from slotproxy import dataplane", "cluster stands below dataplane"),
        ("cluster/slotmap.py", "from ..dataplane import client", "cluster stands below dataplane"),
        ("dataplane/deep/client.py", "from ... import control", "dataplane stands below control"),
        (
            "dataplane/client.py",
            "from typing import TYPE_CHECKING as T\nif T:\n    from slotproxy.control.config import Config",
            "dataplane stands below control",
        ),
        ("control/serve.py", "import slotproxy.demo", "control stands below demo"),
        ("demo/app.py", "from slotproxy.cli.main import main", "demo stands below cli"),
        ("build.py", "import slotproxy.protocol.slots", "build stands below protocol"),
        ("__init__.py", "from .build import flavour", "__init__ stands below build"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, code: str, complaint: str) -> None:
    found = violations(plant(tmp_path, path, code))
    assert [line.split(": ", 1)[1] for line in found] == [complaint]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("protocol/slots.py", "import binascii\nfrom . import frames\nfrom .frames import Frame"),
        ("cluster/refresher.py", "import time\nimport trio\nfrom slotproxy.protocol.slots import slot_of"),
        ("dataplane/reactor.py", "import socket, select\nfrom ..cluster.slotmap import SlotMap"),
        ("demo/app.py", "from slotproxy.control import serve\nfrom slotproxy.build import flavour"),
        ("cli/main.py", "import slotproxy.demo.app"),
        ("__main__.py", "from slotproxy.cli.main import main"),
    ],
)
def test_a_downward_import_is_not_a_violation(tmp_path: Path, path: str, code: str) -> None:
    assert violations(plant(tmp_path, path, code)) == []

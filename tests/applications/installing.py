"""Libraries that the tests' own environment has not, installed into a folder that is thrown away.

They are not in the test extra because it has to install fast for those who run the plain tests, because two versions of
redis-py exclude each other, and because npm's packages are none of pip's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

WITHIN = 240
NODE_PROJECT = Path(__file__).resolve().parent / "node"
LEAST_NODE = 18  # ioredis 6 and node-redis 6 ask for 20, and run on Debian 12's as well
# How npm says that it cannot reach its registry.
OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ENOTCACHED")


@contextmanager
def python_packages(*requirements: str) -> Iterator[dict[str, str]]:
    """What to set in the environment of a Python process that is to import them. By pip, fails without."""
    with TemporaryDirectory(prefix="slotproxy-test-") as folder:
        # An environment made by `venv --without-pip` is filled by the pip of the interpreter it was made from.
        python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        pip = [python, "-m", "pip", "--python", sys.executable, "--disable-pip-version-check"]
        done = _run([*pip, "install", "--quiet", "--target", folder, *requirements])
        if done.returncode:
            pytest.fail(f"pip could not install {' '.join(requirements)}:\n{done.stdout}{done.stderr}")
        yield {"PYTHONPATH": folder}


@contextmanager
def node_packages() -> Iterator[dict[str, str]]:
    """The same for Node.js, with what node/package-lock.json says. Skips where Node.js, npm or a network is missing."""
    if (npm := shutil.which("npm")) is None or (node := shutil.which("node")) is None:
        pytest.skip("no node and npm on PATH")
    version = _run([node, "--version"]).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < LEAST_NODE:
        pytest.skip(f"Node.js {LEAST_NODE} is needed, this is {version}")
    with TemporaryDirectory(prefix="slotproxy-test-") as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE_PROJECT / name, folder)
        options = ("--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
        done = _run([npm, "ci", *options])
        if done.returncode:
            said = done.stdout + done.stderr
            if (unreachable := next((word for word in OFFLINE if word in said), None)) is not None:
                pytest.skip(f"npm cannot reach its registry: {unreachable}")
            pytest.fail(f"npm ci failed:\n{said}")
        yield {"NODE_PATH": f"{folder}/node_modules"}


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=WITHIN)

"""Tells how this installation was built: with its data path compiled, or interpreted.

Looks at where modules would be loaded from and imports none of them, so that every layer may ask.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from typing import Literal

Flavour = Literal["compiled", "interpreted"]

PROBES = ("slotproxy.dataplane.reactor", "slotproxy.protocol.requests")
"""Modules of the hot path; the first that exists speaks for all, since they are compiled together."""


def is_compiled(module: str) -> bool | None:
    """Whether `module` is (or would be) loaded from an extension module; None if there is no such module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # its package is missing
        return None
    if spec is None or spec.origin is None:
        return None
    return spec.origin.endswith(tuple(EXTENSION_SUFFIXES))


def flavour() -> Flavour:
    """`compiled` when the data path runs as native code, else `interpreted` (slower, the same behaviour)."""
    known = [answer for answer in map(is_compiled, PROBES) if answer is not None]
    return "compiled" if known and known[0] else "interpreted"

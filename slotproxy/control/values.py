"""One setting's text to its value: numbers, sizes, durations, choices.

Each parser takes the text as the operator wrote it and raises ValueError with what was expected instead ("a
whole number from 1 to 64"); naming the flag or variable and the value is the caller's part. Knows no setting
by name.
"""

import re
from collections.abc import Callable
from typing import Final

_NUMBER: Final = re.compile(r"[0-9]{1,18}")  # ASCII digits only: int() takes any script's, signs and underscores
_SIZE: Final = re.compile(r"([0-9]{1,18})([KMG]?)", re.IGNORECASE)
_SECONDS: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)?")
_SIZE_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SECONDS_PER: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def number(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`, both included."""

    def parse(text: str) -> int:
        if _NUMBER.fullmatch(text) is None or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def size(low: int, high: int) -> Callable[[str], int]:
    """A parser of sizes in bytes, such as 65536, 64K, 16M or 1G, from `low` to `high` bytes."""

    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text)
        value = int(match[1]) * _SIZE_UNITS[match[2].upper()] if match else -1
        if not low <= value <= high:
            raise ValueError(
                f"a size from {shown_size(low)} to {shown_size(high)}, in bytes or with K, M, G, such as 64K"
            )
        return value

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A parser of durations, such as 30, 30s, 500ms or 5m, from `low` to `high` seconds."""

    def parse(text: str) -> float:
        match = _SECONDS.fullmatch(text)
        value = float(match[1]) * _SECONDS_PER[match[2] or "s"] if match else -1.0
        if not low <= value <= high:
            raise ValueError(f"a time from {low:g}s to {high:g}s, such as 30, 30s, 500ms or 5m")
        return value

    return parse


def choice(*words: str) -> Callable[[str], str]:
    """A parser of one of `words`, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(" or ".join(filter(None, [", ".join(words[:-1]), words[-1]])))
        return text.lower()

    return parse


def shown_size(value: int) -> str:
    """A size as short as it can be written: 65536 is 64K."""
    for letter in "GMK":
        unit = _SIZE_UNITS[letter]
        if value and value % unit == 0:
            return f"{value // unit}{letter}"
    return str(value)

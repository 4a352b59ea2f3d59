"""What the proxy says on stderr: one line per event, as text or as JSON.

    2026-03-01T12:00:00.123Z INFO slotproxy.refresher topology changed node=10.0.0.1:6379 slots=42
    {"time": "2026-03-01T12:00:00.123Z", "level": "info", "logger": "…", "message": "…", "node": "…", "slots":
    42}

An event is a constant message and fields: `log(logger, logging.INFO, "topology changed", node=name,
slots=42)`, or `extra={"fields": {...}}` with the standard library alone. Times are UTC.

Invariants: an event is one line whatever its values hold (a traceback follows it, indented, in text; in JSON
it is a field), so that nothing read from the network can forge a line; a field that is named like a secret is
not shown. Must not be used on the data path: a log call costs more than a request.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SECRETS: Final = ("password", "secret", "token", "credential")
_HIDDEN: Final = "***"
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@%+,*[]()-")
_OWN: Final = ("time", "level", "logger", "message", "exception")


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send all logging to `stream` (default: stderr as it is now) in `style` text or json.

    `level` (debug, info, warning, error) holds for the proxy; other packages are heard from warning on. May
    be called again; the last call holds.
    """
    handler = _Handler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("slotproxy").setLevel(LEVELS[level])


def log(logger: logging.Logger, level: int, event: str, /, exc_info: bool = False, **fields: object) -> None:
    """Log `event` with `fields`; their order is kept."""
    if logger.isEnabledFor(level):
        logger.log(level, event, exc_info=exc_info, extra={"fields": fields}, stacklevel=2)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """A reader that went away (a closed pipe) is nobody to complain to; a wrong log call still is an
        error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER MESSAGE key=value …`; values that hold anything unusual are JSON strings."""

    def format(self, record: logging.LogRecord) -> str:
        words = [_timestamp(record), record.levelname, record.name, _single_line(record.getMessage())]
        words += [f"{_word(name)}={_word(_plain(value))}" for name, value in _fields(record).items()]
        line = " ".join(words)
        if record.exc_info:
            line += "".join(f"\n    {part}" for part in self.formatException(record.exc_info).splitlines())
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line. A field that is called like one of the record's own gets a `_` behind it."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            entry[f"{name}_" if name in _OWN else name] = _plain(value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found: Any = getattr(record, "fields", None)
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name): _HIDDEN if any(word in str(name).lower() for word in _SECRETS) else value
        for name, value in found.items()
    }


def _timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _plain(value: object) -> object:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no word for NaN and the infinities.
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return str(value)


def _word(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if text and _BARE.issuperset(text) else json.dumps(text)


def _single_line(message: str) -> str:
    return message if message.isprintable() else json.dumps(message)[1:-1]

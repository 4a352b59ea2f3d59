import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from slotproxy.control.logs import configure, log

LOGGER = logging.getLogger("slotproxy.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("slotproxy")
    before = (root.handlers[:], root.level, own.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


def logging_to_text(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(level, "text", stream)
    return stream


def logging_to_json() -> io.StringIO:
    stream = io.StringIO()
    configure("info", "json", stream)
    return stream


def test_text_has_time_level_logger_message_and_fields_in_order() -> None:
    stream = logging_to_text()
    log(
        LOGGER,
        logging.INFO,
        "topology changed",
        node="10.0.0.1:7001",
        slots=42,
        ratio=0.5,
        covered=True,
        was=None,
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO slotproxy\.test topology changed "
        r"node=10\.0\.0\.1:7001 slots=42 ratio=0\.5 covered=true was=null\n",
        stream.getvalue(),
    )


def test_times_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = logging_to_text()
    record = LOGGER.makeRecord(LOGGER.name, logging.INFO, "f", 1, "x", (), None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    LOGGER.handle(record)
    assert stream.getvalue() == "2023-11-14T22:13:20.250Z INFO slotproxy.test x\n"


def test_json_is_one_object_per_line_with_typed_fields() -> None:
    stream = logging_to_json()
    LOGGER.warning("lost %d", 2, extra={"fields": {"node": "a b", "slots": [1, 2], "raw": b"\xff\n", "nan": 1e999}})
    entry = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "warning",
        "logger": "slotproxy.test",
        "message": "lost 2",
        "node": "a b",
        "slots": [1, 2],
        "raw": "\\xff\n",
        "nan": "inf",
    }
    assert stream.getvalue().count("\n") == 1


def test_a_field_cannot_replace_what_the_record_says() -> None:
    stream = logging_to_json()
    log(LOGGER, logging.INFO, "event", message="other", time="never")
    entry = json.loads(stream.getvalue())
    assert (entry["message"], entry["message_"], entry["time_"]) == ("event", "other", "never")


def test_nothing_from_the_network_can_forge_a_line_or_a_field() -> None:
    stream = logging_to_text()
    log(
        LOGGER,
        logging.INFO,
        "refused",
        reply="-MOVED 1 x:1\r\nnode=evil",
        name="a=b",
        empty="",
        esc="\x1b[2J",
    )
    LOGGER.info("from %s", "x\n2026 INFO forged\x1b[2J")
    first, second, rest = stream.getvalue().split("\n")
    assert first.endswith(r'reply="-MOVED 1 x:1\r\nnode=evil" name="a=b" empty="" esc="\u001b[2J"')
    assert second.endswith(r"from x\n2026 INFO forged\u001b[2J")
    assert rest == ""


def test_a_percent_sign_in_an_event_is_no_format() -> None:
    stream = logging_to_text()
    log(LOGGER, logging.INFO, "100%s sure")
    assert stream.getvalue().endswith(" 100%s sure\n")


@pytest.mark.parametrize("style", ["text", "json"])
def test_fields_called_like_secrets_are_not_shown(style: str) -> None:
    stream = io.StringIO()
    configure("info", style, stream)
    log(LOGGER, logging.INFO, "dialling", cluster_password=b"hunter2", AuthToken="hunter2", user="joe")
    assert "hunter2" not in stream.getvalue()
    assert "joe" in stream.getvalue()


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_is_shown_with_its_traceback(style: str) -> None:
    stream = io.StringIO()
    configure("info", style, stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log(LOGGER, logging.ERROR, "failed", exc_info=True, page="/x")
    first, *rest = stream.getvalue().splitlines()
    if style == "json":
        assert rest == []
        assert "RuntimeError: broken" in json.loads(first)["exception"]
    else:
        assert first.endswith(" ERROR slotproxy.test failed page=/x")
        assert rest[0] == "    Traceback (most recent call last):"
        assert rest[-1] == "    RuntimeError: broken"


def test_the_level_holds_for_the_proxy_and_others_are_heard_from_warning_on() -> None:
    stream = logging_to_text("debug")
    LOGGER.debug("ours")
    logging.getLogger("somebody").info("theirs")
    logging.getLogger("somebody").warning("their warning")
    assert [line.split()[3] for line in stream.getvalue().splitlines()] == ["ours", "their"]
    stream = logging_to_text("error")
    LOGGER.warning("unheard")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_what_was() -> None:
    old = logging_to_text()
    new = logging_to_json()
    LOGGER.info("once")
    assert old.getvalue() == ""
    assert new.getvalue().count("\n") == 1


def test_a_reader_that_went_away_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    configure("info", "text", Broken())
    LOGGER.info("into the void")
    assert capsys.readouterr().err == ""

"""The README's tables are the program's: flags and metrics stand there as the code has them.

`python -m tests.test_readme` writes them anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from slotproxy.control.config import settings_table
from slotproxy.control.metrics import metrics_table
from slotproxy.dataplane import errors
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.treatments import MEANINGS, treatment_of

README = Path(__file__).resolve().parent.parent / "README.md"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def flags() -> str:
    """The settings as a Markdown table."""
    rows = [
        (f"`{flag}`", f"`{variable}`", default if default in ("none", "required") else f"`{default}`", meaning)
        for flag, variable, default, meaning in settings_table()
    ]
    return _table(("flag", "variable", "default", "meaning"), rows)


def metrics() -> str:
    """The metrics as a Markdown table."""
    rows = [
        (f"`{name}`", kind, ", ".join(labels) or "-", meaning) for name, kind, labels, meaning in metrics_table()
    ]
    return _table(("metric", "type", "labels", "meaning"), rows)


def commands() -> str:
    """All commands of 7.0.15's table by treatment, as a Markdown table."""
    by_treatment: dict[str, list[str]] = {treatment: [] for treatment in MEANINGS}
    for command in CommandTable.snapshot().commands():
        if not command.subcommands:
            by_treatment[treatment_of(command)].append(command.name.upper().replace("|", " "))
    rows = [(name, MEANINGS[name], ", ".join(sorted(commands))) for name, commands in by_treatment.items()]
    return _table(("treatment", "what is done", "commands"), rows)


def _between(text: str, name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"README.md has no <!-- {name} --> … <!-- /{name} -->"
    return found[1]


def test_the_flags_in_the_readme_are_the_programs() -> None:
    assert _between(README.read_text(), "flags") == flags(), "python -m tests.test_readme"


def test_the_metrics_in_the_readme_are_the_programs() -> None:
    assert _between(README.read_text(), "metrics") == metrics(), "python -m tests.test_readme"


def test_the_commands_in_the_readme_are_treated_so() -> None:
    assert _between(README.read_text(), "commands") == commands(), "python -m tests.test_readme"


def test_every_command_of_the_server_stands_in_the_readme_once() -> None:
    rows = _between(README.read_text(), "commands").splitlines()[2:]
    listed = [name for row in rows for name in row.strip("| ").split(" | ")[2].split(", ")]
    table = CommandTable.snapshot().commands()
    of_server = [one.name.upper().replace("|", " ") for one in table if not one.subcommands]
    assert len(of_server) > 350
    assert sorted(listed) == sorted(of_server)


def test_the_errors_in_the_readme_are_the_programs() -> None:
    text = README.read_text()
    command = CommandTable.snapshot().get(b"SET")
    assert command is not None
    for reply in (
        errors.in_doubt(command, "node", "why"),
        errors.no_answer(command, "node", "why"),
        errors.not_served(1, 30.0, "last"),
        errors.invalid_redirect(1, "node", b"-MOVED x\r\n"),
    ):
        phrase = re.match(r"-ERR slotproxy: [a-z ]+: ", reply.decode())
        assert phrase is not None and f"`{phrase[0]}…`" in text


if __name__ == "__main__":
    text = README.read_text()
    for name, table in (("flags", flags()), ("metrics", metrics()), ("commands", commands())):
        text = text.replace(_between(text, name), table, 1) if _between(text, name) else text.replace(
            f"<!-- {name} -->\n", f"<!-- {name} -->\n{table}", 1
        )
    README.write_text(text)

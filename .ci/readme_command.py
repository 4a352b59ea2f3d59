"""Prints a command that README.md states: `readme_command.py README.md test-command`.

The first fenced block after the line `<!-- test-command -->`, verbatim: what readers copy is what CI runs.
"""

import re
import sys
from pathlib import Path


def stated_command(text: str, name: str) -> str:
    """Raises LookupError when there is no such marker, or no fenced block with something in it after it."""
    found = re.search(
        rf"^<!-- {re.escape(name)} -->\s*^(?P<fence>`{{3,}}|~{{3,}})[^\n]*\n(?P<block>.*?)^(?P=fence)\s*$",
        text,
        re.MULTILINE | re.DOTALL,
    )
    if found is None or not found["block"].strip():
        raise LookupError(f"no fenced block right after <!-- {name} -->")
    return found["block"]


if __name__ == "__main__":
    print(stated_command(Path(sys.argv[1]).read_text(), sys.argv[2]), end="")

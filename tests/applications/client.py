"""The side of an application that asks for work and reads the results, as a process of its own.

    python -m tests.applications.client MODULE

The module has `prepare()`, `perform(number)` and `finish()`. The first is for what waits in the queues before there is
a worker. Then come rounds, numbered from 0, until standard input ends, and at last what was begun early and is due by
then. Each of them is answered with one line on standard output: what it returned, as JSON.
"""

from __future__ import annotations

import importlib
import itertools
import json
import select
import sys
import time
from collections.abc import Callable

WITHIN = 30.0
INTERVAL = 0.01


def until(condition: Callable[[], bool]) -> None:
    """Ask again every ten milliseconds: for what an application cannot await without SUBSCRIBE."""
    deadline = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {WITHIN:g} seconds")
        time.sleep(INTERVAL)


def main(module: str) -> None:
    application = importlib.import_module(module)
    print(json.dumps(application.prepare()), flush=True)
    for number in itertools.count():
        # Readable: at its end, for nobody writes to it.
        if select.select([sys.stdin], [], [], 0)[0]:
            break
        print(json.dumps(application.perform(number)), flush=True)
    print(json.dumps(application.finish()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

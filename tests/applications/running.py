"""An application's processes: those that ask for work, those that do it, and what is left when they have ended.

Knows applications only by their command lines, their standard output and their signals.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from tests.applications.stages import Stage, State

ROOT = Path(__file__).resolve().parent.parent.parent
WITHIN = 60.0
STOP_TIMEOUT = 20.0


def python(*words: str) -> tuple[str, ...]:
    """The command line of a module and its arguments."""
    return (sys.executable, "-m", *words)


def python_client(module: str) -> tuple[str, ...]:
    return python("tests.applications.client", module)


def node(*words: str) -> tuple[str, ...]:
    """The command line of a script of node/ and its arguments."""
    return ("node", f"tests/applications/node/{words[0]}", *words[1:])


def node_client(module: str) -> tuple[str, ...]:
    return node("client.js", module)


class Program:
    """A command, run in the root of the repository. Its output goes to files in the guard's folder."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], guard: Guard) -> None:
        self.name = name
        self._guard = guard
        self._paths = [guard.folder / f"{name}.{stream}" for stream in ("stdout", "stderr")]
        with self._paths[0].open("wb") as stdout, self._paths[1].open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                cwd=ROOT,
                env={**os.environ, **environ},
                start_new_session=True,
            )
        guard.watch(self._process.pid)

    @property
    def running(self) -> bool:
        return not self._guard.has_ended(self._process)

    @property
    def output(self) -> str:
        """All that it wrote so far, standard output first."""
        return "".join(path.read_text(errors="replace") for path in self._paths)

    @property
    def answers(self) -> list[Any]:
        """The whole lines of its standard output, as JSON."""
        return [json.loads(line) for line in self._paths[0].read_text().splitlines(True) if line.endswith("\n")]

    def end_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def interrupt(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self, within: float = STOP_TIMEOUT) -> None:
        """Wait for it; fails when it ended with a status."""
        await until(lambda: not self.running, within=within)
        assert self._process.returncode == 0, f"{self.name} ended with {self._process.returncode}:\n{self.output}"

    def kill(self) -> None:
        self.end_input()
        if self.running:
            self._guard.kill(self._process)


@dataclass(frozen=True)
class Application:
    """`client`: a command that answers as `tests.applications.client` does. `worker`: a command in which the word URL
    stands for the address, or none. `keys`: some that it uses, also when they are empty. `stop`: ends the worker in
    peace."""

    client: tuple[str, ...]
    worker: tuple[str, ...]
    keys: tuple[str, ...]
    stop: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Outcome:
    """What the client was answered, what is left in Redis, and what the worker wrote, if there was one."""

    prepared: Any
    rounds: list[Any]
    finished: Any
    state: State
    log: str


def said(programs: Sequence[Program]) -> str:
    return "\n".join(f"--- {one.name} ({'runs' if one.running else 'ended'}):\n{one.output}" for one in programs)


async def run(application: Application, stage: Stage, guard: Guard, environ: Mapping[str, str]) -> Outcome:
    """Work is asked for, then a worker starts, then the stage does what it does, until all is done.

    APPLICATION_SUBSCRIBES stands in the environment where clients can subscribe: programs leave that out elsewhere.
    """
    environ = {"APPLICATION_URL": stage.url, **environ}
    if await stage.subscribes():
        environ["APPLICATION_SUBSCRIBES"] = "yes"
    client = Program("client", application.client, environ, guard)
    programs, workers = [client], list[Program]()

    async def answered(count: int) -> None:
        """Wait until the client has had so many more answers."""
        goal = len(client.answers) + count
        await until(lambda: len(client.answers) >= goal or not all(one.running for one in programs), within=WITHIN)
        assert all(one.running for one in programs), said(programs)

    try:
        with trio.fail_after(2 * WITHIN):
            await answered(1)
            if application.worker:
                command = [stage.url if word == "URL" else word for word in application.worker]
                workers.append(Program("worker", command, environ, guard))
                programs += workers
            await stage.happen(application.keys, answered)
            client.end_input()
            await client.ended(WITHIN)
            for worker in workers:
                worker.interrupt(application.stop)
                await worker.ended()
    except trio.TooSlowError:
        raise AssertionError(said(programs)) from None
    finally:
        for one in programs:
            one.kill()
    prepared, *rounds, finished = client.answers
    return Outcome(prepared, rounds, finished, await stage.state(), "".join(worker.output for worker in workers))

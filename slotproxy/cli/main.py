"""`slotproxy`: reads the command line and runs what it asks for.

Invariants: a wrong value is one line on stderr and exit status 2. What a command needs is imported when it runs, for a
sidecar's start-up time is what its imports cost.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

_DESCRIPTION = """\
A transparent proxy that lets applications which speak to one plain Redis run on a Redis Cluster, unchanged.
Redirects (MOVED, ASK, TRYAGAIN) are absorbed; a live reshard shows no error to the client.
"""
_EXAMPLES = """\
Each flag can also be given as the variable in brackets; the flag beats the variable. Repeatable flags take several
values separated by commas, too.

examples:
  slotproxy --cluster 10.0.0.1:6379,10.0.0.2:6379          clients connect to 127.0.0.1:6380
  slotproxy --cluster redis:6379 --listen unix:/run/redis.sock --admin 0.0.0.0:9180
  slotproxy demo --seconds 30                               see it work on a cluster of its own

Metrics are at http://127.0.0.1:9180/metrics, the slot map at /slots, readiness at /readyz.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's). Returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] == "demo":
        return _demo(words[1:])
    if words and words[0] == "serve":
        words = words[1:]
    return _serve(words)


def _serve(words: list[str]) -> int:
    from slotproxy.build import flavour
    from slotproxy.control.config import ConfigError, OneLineParser, add_arguments, from_arguments

    parser = OneLineParser(
        prog="slotproxy",
        usage="slotproxy [serve] --cluster HOST:PORT[,HOST:PORT...] [options]\n       slotproxy demo [options]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    number = version("slotproxy")
    parser.add_argument("--version", action="version", version=f"slotproxy {number} ({flavour()})")
    add_arguments(parser)
    namespace = parser.parse_args(words)
    try:
        config = from_arguments(namespace, os.environ)
        import trio

        from slotproxy.control.logs import configure
        from slotproxy.control.proxy import Proxy

        configure(config.log_level, config.log_format)

        async def serve() -> None:
            await Proxy(config, number).run()

        trio.run(serve)
    except ConfigError as problem:
        return _refused(str(problem))
    except BaseExceptionGroup as group:
        problems, rest = group.split(ConfigError)
        if rest is not None or problems is None:
            raise
        return _refused(str(_first(problems)))
    return 0


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _refused(text: str) -> int:
    print(f"slotproxy: {text}", file=sys.stderr)
    return 2


def _demo(words: list[str]) -> int:
    from slotproxy.control.config import OneLineParser
    from slotproxy.demo.command import add_arguments, run

    parser = OneLineParser(prog="slotproxy demo", description="A real cluster whose slots move under load.")
    add_arguments(parser)
    return run(parser.parse_args(words))

"""Waiting for a state of another process that announces nothing: asked again every ten milliseconds.

The only place that does so. Where an event exists (a reply, the end of a stream), wait for that instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

INTERVAL = 0.01


async def until(condition: Callable[[], bool | Awaitable[bool]], *, within: float) -> None:
    """Returns when the condition holds. Raises trio.TooSlowError after `within` seconds."""
    with trio.fail_after(within):
        while not await _holds(condition):  # noqa: ASYNC110 (there is no event to wait for)
            await trio.sleep(INTERVAL)


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return answer if isinstance(answer, bool) else await answer

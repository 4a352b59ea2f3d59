"""Transactions as clients send them: in one write, as pipelines do, or command by command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slotproxy.demo.connection import Argument, Connection, ErrorReply

Commands = Sequence[Sequence[Argument]]


async def execute(client: Connection, commands: Commands, *, stepwise: bool = False) -> Any:
    """MULTI, the commands, EXEC; the reply to EXEC, None when nothing was executed. Raises ErrorReply.

    Every command must be queued. `stepwise`: each reply is waited for before the next command is sent.
    """
    words = [("MULTI",), *commands, ("EXEC",)]
    if stepwise:
        replies = [reply for one in words for reply in await client.pipeline(one)]
    else:
        replies = await client.pipeline(*words)
    begun, *queued, result = replies
    assert begun == b"OK" and all(reply == b"QUEUED" for reply in queued), replies
    if isinstance(result, ErrorReply):
        raise result
    return result

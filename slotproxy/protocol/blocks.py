"""Blocks: MULTI, commands, EXEC, sent to a node as one contiguous unit, and what the node's replies to it mean.

Duty: put a block together and judge its replies. The node refuses a block as a whole, when a command is queued or at
EXEC; what commands answer stands inside EXEC's array and is never a refusal. So a block is never run by half, and a
script's own words cannot be mistaken for the node's in `MULTI, EVAL, EXEC`, though it can return any text after its
writes ran. (Redis Cluster specification; cluster.c and multi.c of 7.0.15: ASKING before MULTI holds until after EXEC.)
"""

from typing import Final

from slotproxy.protocol.redirects import refusal_of
from slotproxy.protocol.resp import OK

MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
QUEUED: Final = b"+QUEUED\r\n"
_ABORTED: Final = b"-EXECABORT Transaction discarded because of: "

LOOSE: Final = 0  # MULTI was denied (ACL): the commands ran one by one, before EXEC was an error
NOT_RUN: Final = 1
RUN: Final = 2


class Verdict:
    """`outcome`: LOOSE, NOT_RUN or RUN. `reply`: EXEC's, or the error for which the node did not run the block."""

    def __init__(self, outcome: int, reply: bytes) -> None:
        self.outcome: Final = outcome
        self.reply: Final = reply


def block_of(requests: list[bytes]) -> bytes:
    """The block of these commands."""
    return MULTI + b"".join(requests) + EXEC


def judge(before: list[bytes], executed: bytes) -> Verdict:
    """What the replies to MULTI and to each command (`before`) and to EXEC (`executed`) mean together.

    Of several errors at queueing, one that will not pass (NOPERM) comes before one that will (ASK).
    """
    if before[0] != OK:
        return Verdict(LOOSE, executed)
    error = b""
    for queued in before[1:]:
        if queued != QUEUED and (not error or (refusal_of(error) is not None and refusal_of(queued) is None)):
            error = queued
    if error:
        return Verdict(NOT_RUN, error)
    if executed.startswith(_ABORTED):  # READONLY, NOREPLICAS, MASTERDOWN and so on, found out at EXEC
        return Verdict(NOT_RUN, b"-" + executed[len(_ABORTED) :])
    return Verdict(NOT_RUN if executed[0] == 0x2D else RUN, executed)


def aborted(reason: bytes) -> bytes:
    """EXEC's error for a block that was not run because of the error frame `reason`, in Redis's words (multi.c)."""
    if reason.startswith(b"-EXECABORT"):
        return reason
    return _ABORTED + reason[1:].removeprefix(b"ERR ")

"""A script sent as a block of its own, so that the node's refusal can be told from the script's reply.

A script can return any text, after its writes ran: `-MOVED …` in reply to EVAL may be the node's word or the
script's. In `MULTI, EVAL, EXEC` it cannot be mistaken: the node refuses the command when it is queued, or EXEC as a
whole, and what the script returns stands inside EXEC's array. (Redis Cluster specification; cluster.c and multi.c of
7.0.15: ASKING before MULTI holds until after EXEC.)
"""

from typing import Final

from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.resp import OK, error

BEFORE: Final = b"*1\r\n$5\r\nMULTI\r\n"
BEHIND: Final = b"*1\r\n$4\r\nEXEC\r\n"
_QUEUED: Final = b"+QUEUED\r\n"
_ABORTED: Final = b"-EXECABORT Transaction discarded because of: "


class Verdict:
    """`reply` is the answer to the command. `by_node`: certainly the node's, it has not run. `by_script`: certainly the
    script's own, it has. Neither, where an ACL denies MULTI and the command ran by itself."""

    def __init__(self, reply: bytes, by_node: bool, by_script: bool) -> None:
        self.reply: Final = reply
        self.by_node: Final = by_node
        self.by_script: Final = by_script


def judge(before: list[bytes], executed: bytes) -> Verdict:
    """What the replies to MULTI and to the command (`before`) and to EXEC mean together."""
    opened, queued = before
    if opened != OK:
        return Verdict(queued, False, False)
    if queued != _QUEUED:
        return Verdict(queued, True, False)
    if executed.startswith(_ABORTED):  # READONLY, NOREPLICAS, MASTERDOWN and so on, found out at EXEC
        return Verdict(b"-" + executed[len(_ABORTED) :], True, False)
    if executed[0] == 0x2D:
        return Verdict(executed, True, False)
    try:
        replies = elements_of(executed)
    except ProtocolError:
        replies = None
    if replies is None or len(replies) != 1:
        return Verdict(error("ERR slotproxy: EXEC of a script was answered " + ascii(executed[:32])[1:]), False, True)
    return Verdict(replies[0], False, True)

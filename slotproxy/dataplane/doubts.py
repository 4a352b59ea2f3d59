"""What a script, a module command or a block was answered: its own reply, or the node's refusal?

Duty: tell the two apart before anything is sent a second time, and supply code that a node lacks. Nothing newer of the
client and slot is sent until it is known.

A script can return any text, after its writes ran. While its slot is in trouble it was sent as a block of its own,
which settles the question (`blocks`). Otherwise, and for modules, the control plane looks whether the node's own
state says the same as the reply; what it does not confirm goes to the client as it is.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.controlplane import Control
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.lanes import Node
from slotproxy.dataplane.order import Order
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.scripts import Scripts
from slotproxy.protocol.blocks import LOOSE, NOT_RUN, RUN, aborted, judge
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.redirects import Refusal, parse_redirect, refusal_of
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.resp import error

if TYPE_CHECKING:
    from slotproxy.dataplane.router import Router

_MOST_SUPPLIED: Final = 2  # times that the code of one request is brought, when it is missing again and again


class Doubts:
    """Takes the replies to scripts and module commands for a router."""

    def __init__(self, router: "Router", order: Order, scripts: Scripts, counters: Counters, control: Control) -> None:
        self._router: Final = router
        self._order: Final = order
        self._scripts: Final = scripts
        self._counters: Final = counters
        self._control: Final = control

    def settle(self, request: Request, node: Node, reply: bytes) -> None:
        """Take a reply."""
        by_node = False
        by_script = False
        before = request.block
        if before is not None:
            verdict = judge(before, reply)
            by_node = verdict.outcome == NOT_RUN
            by_script = not by_node and verdict.outcome != LOOSE
            reply = before[1] if verdict.outcome == LOOSE else verdict.reply
            if by_script:
                reply = _only_reply_in(reply)
            request.block = None
            request.around = 0
        refusal = None if by_script else refusal_of(reply)
        if refusal is None and request.command.script and reply[0] == 0x2D and request.supplied < _MOST_SUPPLIED:
            refusal = self._scripts.refusal_of(request.command.name, request.raw, reply)
        if refusal is None:
            self._router.accepted(request, reply)
        elif refusal == Refusal.NOSCRIPT:
            request.raw = self._scripts.as_eval(request.raw, request.command.name) or request.raw
            self._counters.scripts_supplied += 1
            self._router.flow_of(request, node).bounced.append(request)
            self._send_again(request)
        elif by_node:
            self._router.refused(request, node, refusal, reply)
        else:
            flow = self._router.flow_of(request, node)
            flow.barrier = request
            flow.bounced.append(request)  # its place, should it be the node's own; still outstanding until then
            self._control.confirm_nowait(request, node, refusal, reply)

    def settle_block(self, request: Request, node: Node, reply: bytes) -> None:
        """Take EXEC's reply to a block, and those to what stands before it."""
        before = request.block
        assert before is not None, "sent as a block"
        request.block = None
        request.around = 0
        verdict = judge(before, reply)
        if verdict.outcome == RUN:
            self._router.accepted(request, verdict.reply)
        elif verdict.outcome == LOOSE:
            self._router.accepted(request, errors.loose(node.name, before[0]))
        else:
            refusal = refusal_of(verdict.reply)
            if refusal is None:
                self._router.accepted(request, aborted(verdict.reply))
            else:
                self._router.refused(request, node, refusal, verdict.reply)

    def confirmed(self, request: Request, node: Node, refusal: Refusal, reply: bytes, genuine: bool) -> None:
        """The control plane has found out whether a refusal was the node's own."""
        flow = request.flow
        assert flow is not None, "asked about without a flow"
        if genuine and refusal == Refusal.NOFUNCTION:
            self._send_again(request)
        elif genuine or self._must_be_the_nodes(request, node, refusal, reply):
            self._router.refused(request, node, refusal, reply, placed=True)
        else:
            flow.bounced.remove(request)
            self._router.accepted(request, reply)

    def _must_be_the_nodes(self, request: Request, node: Node, refusal: Refusal, reply: bytes) -> bool:
        """Whether the script could not have said this, though the node says otherwise by now (a slot came back).

        A script that puts the words together deceives this once: the next time it is sent as a block.
        """
        if self._scripts.may_say(refusal.name.encode(), request.raw, request.command.name):
            return False
        if refusal != Refusal.MOVED and refusal != Refusal.ASK:
            return refusal != Refusal.NOFUNCTION
        redirect = parse_redirect(reply)
        if redirect is None or redirect.slot != request.slot:
            return False
        host = node.info.host if redirect.host == "" else redirect.host
        return self._router.territory.find(host, redirect.port) is not None

    def _send_again(self, request: Request) -> None:
        """The node lacked a script or function: the request is EVAL now, or the function is there."""
        flow = request.flow
        assert flow is not None, "it has its place in one"
        self._order.returned(request, flow)
        request.retries += 1
        request.supplied += 1
        flow.probing = True
        self._router.advance(flow)


def _only_reply_in(executed: bytes) -> bytes:
    """The one reply in EXEC's array."""
    try:
        replies = elements_of(executed)
    except ProtocolError:
        replies = None
    if replies is None or len(replies) != 1:
        return error("ERR slotproxy: EXEC of a script was answered " + ascii(executed[:32])[1:])
    return replies[0]

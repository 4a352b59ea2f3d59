"""Whoever sends requests to nodes, as the router sees it: a client, or the proxy itself on behalf of several."""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.reactor import Reactor, Stream
from slotproxy.dataplane.requests import Request

if TYPE_CHECKING:
    from slotproxy.dataplane.flows import Flow


class Sender(Stream):
    """`lane` is the number of the lane that it uses at every node. A stream, though the proxy's own have no socket."""

    def __init__(self, reactor: Reactor, id: int, lane: i64) -> None:
        super().__init__(reactor)
        self.id: Final = id
        self.lane: i64 = lane
        self.flows: dict[i64, Flow] = {}
        self.detours: i64 = 0  # reasons why its requests do not take the plain path: flows, a pause of writes

    def deliver(self, request: Request, reply: bytes) -> None:
        """A request of this sender, which is no part of another, has its reply."""
        raise AssertionError("a sender without deliver()")

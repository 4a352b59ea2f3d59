"""What the data plane asks of the control plane: the seam between the two, seen from below.

None of these waits: each starts something, and the answer comes back through a method of `Plane`.
"""

from typing import TYPE_CHECKING, Protocol

from slotproxy.protocol.redirects import Refusal

if TYPE_CHECKING:
    from slotproxy.dataplane.accounts import Grant
    from slotproxy.dataplane.lanes import Node
    from slotproxy.dataplane.logins import Login
    from slotproxy.dataplane.nodestreams import NodeStream, StreamKey
    from slotproxy.dataplane.requests import Request
    from slotproxy.dataplane.solitary import Asked


class Dialler(Protocol):
    """The control plane's side of connecting; the data plane never dials."""

    def dial_nowait(self, stream: "NodeStream") -> None:
        """Start connecting `stream`, with backoff, until it is attached or retired."""


class Control(Dialler, Protocol):
    """All that is asked."""

    def refresh_nowait(self, why: str) -> None:
        """Have the slot map refreshed soon; `Plane.refreshed` is called after the next refresh that starts."""

    def confirm_nowait(self, request: "Request", node: "Node", refusal: Refusal, reply: bytes) -> None:
        """Find out whether a script's or module's refusal is the node's own, then call `Plane.confirmed`.

        For NOFUNCTION also bring the function there from another node; confirmed only when it is there.
        """

    def supply_nowait(self, name: bytes, node: "Node", asked: "Asked") -> None:
        """See to it that a node has a function that a transaction is about to call, if any node has it.

        `Plane.supplied` is called when that has been tried.
        """

    def ask_aside_nowait(self, request: "Request", node: "Node", key: "StreamKey") -> None:
        """Send a request on a connection of its own, because a busy script may block the shared ones.

        `Plane.answered_aside` takes the reply.
        """

    def check_login_nowait(self, login: "Login") -> None:
        """Have a node say whether the credentials of an AUTH are right; `Plane.login_judged` is called then."""

    def forget_login_nowait(self, grant: "Grant") -> None:
        """Nobody needs the credentials any more by which this was granted."""

    def read_table_nowait(self) -> None:
        """Have a node's command table read; `Plane.table_read` is called when that has been tried."""

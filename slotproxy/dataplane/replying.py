"""The replies to one client, written in the order in which its commands came.

Duty: a queue of what awaits a reply, and the output; a reply that comes early waits in the queue for those before it.
What the requests are and where they went is of no concern here.
"""

from mypy_extensions import i64

from slotproxy.dataplane.reactor import Reactor
from slotproxy.dataplane.requests import Request, RequestQueue
from slotproxy.dataplane.senders import Sender


class ReplyWriter(Sender):
    """The output half of a client. While `silent` (CLIENT REPLY OFF and SKIP) replies are dropped."""

    def __init__(self, reactor: Reactor, id: int, lane: i64) -> None:
        super().__init__(reactor, id, lane)
        self.queue: RequestQueue = RequestQueue()
        self.silent: bool = False

    def deliver(self, request: Request, reply: bytes) -> None:
        """A request of this client has its reply: write it, and those behind it that were waiting for it."""
        queue = self.queue
        if queue.first() is not request:
            request.reply = reply
            return
        queue.drop_first()
        self.write(reply)
        while queue.size > 0:
            next_reply = queue.first().reply
            if next_reply is None:
                break
            queue.drop_first()
            self.write(next_reply)

    def local_address(self) -> str:
        """Our end's address; see Transport."""
        return "" if self.transport is None else self.transport.local_address()

    def write(self, frame: bytes) -> None:
        """The next reply in order."""
        if self.transport is None:
            return
        if not self.silent:
            self.out.append(frame)
            self.out_size += len(frame)
        if not self.touched:  # also by a dropped one: who waits for the end of a command is woken by the flush
            self.touched = True
            self.reactor.clients_touched.append(self)

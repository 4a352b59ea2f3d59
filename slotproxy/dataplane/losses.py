"""What a lost connection has cost: which of its requests may be sent again, and what the others are answered.

Not wholly sent cannot have run. A read may run twice, unless a write in doubt of the same client and slot follows it:
repeated behind that write it could see it, though the application sent the read first. Any other write that was sent
whole is in doubt. (Design, delivery contract.) Decides nothing else.
"""

from typing import Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.flows import Flow
from slotproxy.dataplane.requests import Request


class Losses:
    """`sent` and `unsent` as the lane gave them, all in flows. `requests` are in the order of sending."""

    def __init__(self, sent: list[Request], unsent: list[Request]) -> None:
        self.requests: Final[list[tuple[Request, Flow]]] = []
        self.flows: Final[dict[Flow, None]] = {}
        self.repeatable: Final[set[Request]] = {request for request in unsent if _is_patient(request)}
        for request in [*sent, *unsent]:
            flow = request.flow
            assert flow is not None, "a request in flight that is in no flow"
            self.requests.append((request, flow))
            self.flows[flow] = None
        doubtful: set[Flow | None] = set()
        for request in reversed(sent):
            if not request.command.repeatable:
                doubtful.add(request.flow)
            elif request.flow not in doubtful and _is_patient(request):
                self.repeatable.add(request)

    def reply_to(self, request: Request, node: str, why: str, counters: Counters) -> bytes:
        """The error for a request that is not repeatable."""
        if request.command.repeatable:
            return errors.no_answer(request.command, node, why)
        counters.in_doubt += 1
        return errors.in_doubt(request.command, node, why)


def _is_patient(request: Request) -> bool:
    return not request.unwanted and (request.split is None or request.split.merging.patient)

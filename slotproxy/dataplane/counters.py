"""What the data plane counts: plain integers that the metrics collector reads at scrape.

Nothing here is a metric object; names, labels and buckets as Prometheus sees them are the collector's business.
"""

from typing import Final

from mypy_extensions import i64

#: Upper bounds of the request duration histogram, in seconds.
DURATION_BOUNDS: Final[tuple[float, ...]] = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
#: Upper bounds of the histogram of retries per request.
RETRY_BOUNDS: Final[tuple[int, ...]] = (0, 1, 2, 3, 5, 10, 20, 50, 100)
#: Error codes that get a series of their own; all others are counted as "OTHER".
ERROR_CODES: Final[frozenset[str]] = frozenset(
    [
        "ASK", "BUSY", "BUSYGROUP", "BUSYKEY", "CLUSTERDOWN", "CROSSSLOT", "ERR", "EXECABORT", "IOERR", "LOADING",
        "MASTERDOWN", "MISCONF", "MOVED", "NOAUTH", "NOGROUP", "NOPERM", "NOPROTO", "NOREPLICAS", "NOSCRIPT", "NOTBUSY",
        "OOM", "READONLY", "TRYAGAIN", "UNKILLABLE", "WRONGPASS", "WRONGTYPE",
    ]
)  # fmt: skip


class Counters:
    """Monotonic counts since start, unless a comment says otherwise."""

    def __init__(self) -> None:
        self.clients_total: i64 = 0
        self.clients_refused: i64 = 0
        self.auth_failures: i64 = 0  # AUTH and HELLO AUTH with wrong credentials
        self.client_bytes_in: i64 = 0
        self.client_bytes_out: i64 = 0
        self.node_bytes_in: i64 = 0
        self.node_bytes_out: i64 = 0
        self.tryagain: i64 = 0
        self.clusterdown: i64 = 0
        self.in_doubt: i64 = 0
        self.transactions_partial: i64 = 0  # some of their slots' blocks have run and others have not
        self.scripts_supplied: i64 = 0  # EVALSHA sent as EVAL because the node lacked the script
        self.functions_supplied: i64 = 0  # libraries brought to a node that lacked them
        self.parked_expired: i64 = 0
        self.messages: i64 = 0  # of publish/subscribe, delivered: one for each client
        self.subscription_gaps: i64 = 0  # subscriptions that were interrupted, one for each client
        self.clients_cut_off: i64 = 0  # they did not take what was pushed to them
        self.topology_updates: i64 = 0
        self.moved: dict[str, int] = {}  # by the node that redirected
        self.ask: dict[str, int] = {}
        self.errors: dict[str, int] = {}  # by code, as clients got them
        self.requests: i64 = 0  # finished, local answers excepted
        self.duration_sum: float = 0.0  # seconds
        self.durations: list[int] = [0] * (len(DURATION_BOUNDS) + 1)
        self.retried: list[int] = [0] * (len(RETRY_BOUNDS) + 1)  # requests with at least one retry, by their number
        self.retries_sum: i64 = 0

    def observe(self, duration: float, count: i64) -> None:
        """`count` requests took `duration` seconds each."""
        self.requests += count
        self.duration_sum += duration * float(count)
        index = 0
        for bound in DURATION_BOUNDS:
            if duration <= bound:
                break
            index += 1
        self.durations[index] += int(count)

    def redirect(self, moved: bool, node: str) -> None:
        """A node answered with MOVED, or with ASK."""
        by_node = self.moved if moved else self.ask
        by_node[node] = by_node.get(node, 0) + 1

    def observe_retries(self, retries: i64) -> None:
        """A finished request had been sent `retries` times more than once."""
        self.retries_sum += retries
        index = 0
        for bound in RETRY_BOUNDS:
            if retries <= bound:
                break
            index += 1
        self.retried[index] += 1

    def error(self, code: str) -> None:
        """A client got an error reply with this code."""
        if code not in ERROR_CODES:
            code = "OTHER"
        self.errors[code] = self.errors.get(code, 0) + 1

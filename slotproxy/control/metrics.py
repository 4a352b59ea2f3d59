"""What Prometheus sees: one table of metric families, read from plain values at scrape.

METRICS gives names, types, labels and help (the README's table comes from it as well); each line says where
its samples come from. The data plane never touches a metric object; it counts in `Counters`.

Invariants: a family is exposed before anything happened (counters at 0), a labelled sample from the moment
its label value is known; label values come from bounded sets (nodes of the map, the command table, known
error codes). Runs in the thread of the data plane, whose dictionaries it reads: it must not await and must
not leave that thread.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.dataplane.counters import DURATION_BOUNDS, ERROR_CODES, RETRY_BOUNDS, Counters

Samples = Iterable[tuple[tuple[str, ...], float]]
"""(label values, value) pairs."""


class Sources(Protocol):
    """Where the figures come from; the running proxy is one."""

    @property
    def counters(self) -> Counters: ...

    @property
    def slot_map(self) -> SlotMap: ...

    def command_calls(self) -> dict[str, int]:
        """Requests per command, for names of the command table with at least one call."""
        ...

    def client_connections(self) -> int: ...

    def node_connections(self) -> dict[str, int]:
        """Open connections per node, by the node's name."""
        ...

    def in_flight(self) -> int:
        """Requests sent to nodes that await a reply."""
        ...

    def parked(self) -> int:
        """Requests that wait for a node to serve their slot."""
        ...

    def exclusive_connections(self) -> int: ...

    def blocked_clients(self) -> int: ...

    def private_clients(self) -> int: ...

    def migrating_slots(self) -> list[int]:
        """Slots that count as migrating: an ASK or TRYAGAIN was seen within the last minute."""
        ...

    def subscribed_clients(self) -> int: ...

    def subscription_connections(self) -> int: ...

    def script_cache_bytes(self) -> int: ...

    def refresh_failures(self) -> int: ...

    def version(self) -> str: ...

    def flavour(self) -> str:
        """`compiled` or `interpreted`."""
        ...


@dataclass(frozen=True)
class Histogram:
    """Counts per bucket, not cumulative: `counts` has one place more than `bounds`, for what exceeds them
    all."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float


@dataclass(frozen=True)
class Series:
    """One counter or gauge of the table."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[Sources], Samples]


@dataclass(frozen=True)
class Distribution:
    """One histogram of the table, without labels."""

    name: str
    meaning: str
    read: Callable[[Sources], Histogram]
    kind: Literal["histogram"] = "histogram"
    labels: tuple[str, ...] = ()


def _counter(name: str, read: Callable[[Sources], float], meaning: str) -> Series:
    return Series(name, "counter", meaning, (), lambda sources: [((), read(sources))])


def _gauge(name: str, read: Callable[[Sources], float], meaning: str) -> Series:
    return Series(name, "gauge", meaning, (), lambda sources: [((), read(sources))])


def _by(counts: dict[str, int], known: Iterable[str] = ()) -> Samples:
    """One sample for each label value of `counts`, and a zero for those that are `known` beforehand."""
    merged = {**dict.fromkeys(known, 0), **counts}
    return [((label,), merged[label]) for label in sorted(merged)]


def _nodes(sources: Sources, primaries_only: bool = False) -> list[str]:
    return [info.name for info in sources.slot_map.nodes.values() if info.primary or not primaries_only]


def _bytes(sources: Sources) -> Samples:
    counters = sources.counters
    return [
        (("client", "in"), int(counters.client_bytes_in)),
        (("client", "out"), int(counters.client_bytes_out)),
        (("node", "in"), int(counters.node_bytes_in)),
        (("node", "out"), int(counters.node_bytes_out)),
    ]


def _durations(sources: Sources) -> Histogram:
    counters = sources.counters
    return Histogram(DURATION_BOUNDS, counters.durations, counters.duration_sum)


def _retries(sources: Sources) -> Histogram:
    # Only requests with a retry are counted one by one; all others finished with none.
    counters = sources.counters
    without = max(0, int(counters.requests) - sum(counters.retried))
    return Histogram(RETRY_BOUNDS, [counters.retried[0] + without, *counters.retried[1:]], int(counters.retries_sum))


def _build(sources: Sources) -> Samples:
    return [((sources.version(), sources.flavour(), platform.python_version()), 1)]


METRICS: Final[tuple[Series | Distribution, ...]] = (
    Series("slotproxy_moved_total", "counter", "MOVED redirects absorbed, by the node that redirected.",
           ("node",), lambda s: _by(s.counters.moved, _nodes(s))),
    Series("slotproxy_ask_total", "counter", "ASK redirects absorbed, by the node that redirected.",
           ("node",), lambda s: _by(s.counters.ask, _nodes(s))),
    _counter("slotproxy_tryagain_total", lambda s: int(s.counters.tryagain), "TRYAGAIN replies absorbed."),
    _counter("slotproxy_clusterdown_total", lambda s: int(s.counters.clusterdown),
             "CLUSTERDOWN replies absorbed."),
    _counter("slotproxy_scripts_supplied_total", lambda s: int(s.counters.scripts_supplied),
             "EVALSHA sent as EVAL because the node did not have the script."),
    _counter("slotproxy_functions_supplied_total", lambda s: int(s.counters.functions_supplied),
             "Times that function libraries were brought to a node that lacked them."),
    _gauge("slotproxy_script_cache_bytes", lambda s: s.script_cache_bytes(),
           "Texts of scripts remembered, in bytes; bounded by --script-cache."),
    Distribution("slotproxy_request_retries",
                 "How many times more than once a finished request was sent.", _retries),
    Distribution("slotproxy_request_duration_seconds",
                 "Time from reading a request to its reply; those that the proxy answers itself excepted.",
                 _durations),
    Series("slotproxy_commands_total", "counter",
           "Requests by command; names of the cluster's command table only.",
           ("command",), lambda s: _by(s.command_calls())),
    Series("slotproxy_errors_total", "counter",
           "Error replies that clients got, by code; rare codes are OTHER.",
           ("code",), lambda s: _by(s.counters.errors, [*ERROR_CODES, "OTHER"])),
    _gauge("slotproxy_requests_in_flight", lambda s: s.in_flight(),
           "Requests sent to nodes that await a reply."),
    _gauge("slotproxy_requests_parked", lambda s: s.parked(),
           "Requests that wait for a node to serve their slot."),
    _counter("slotproxy_parked_expired_total", lambda s: int(s.counters.parked_expired),
             "Requests that no node served within the park timeout; their clients got an error."),
    _counter("slotproxy_in_doubt_total", lambda s: int(s.counters.in_doubt),
             "Writes answered with an error because a connection broke after they were sent: may have run."),
    _counter("slotproxy_transactions_partial_total", lambda s: int(s.counters.transactions_partial),
             "Transactions over several slots of which some slots' commands have run and others' have not."),
    _gauge("slotproxy_blocked_clients", lambda s: s.blocked_clients(), "Clients in a blocking command."),
    _gauge("slotproxy_private_clients", lambda s: s.private_clients(),
           "Clients with connections to nodes of their own (CLIENT TRACKING, CLIENT NO-TOUCH, MONITOR)."),
    _gauge("slotproxy_exclusive_connections", lambda s: s.exclusive_connections(),
           "Connections to nodes that are leased to one client (blocking commands, WATCH); at most --max-exclusive."),
    _gauge("slotproxy_subscribed_clients", lambda s: s.subscribed_clients(),
           "Clients that have subscribed to channels, patterns or shard channels."),
    _gauge("slotproxy_subscription_connections", lambda s: s.subscription_connections(),
           "Connections to nodes on which the proxy has subscribed for its clients."),
    _counter("slotproxy_messages_delivered_total", lambda s: int(s.counters.messages),
             "Messages of publish/subscribe passed to clients, once for each client."),
    _counter("slotproxy_subscription_gaps_total", lambda s: int(s.counters.subscription_gaps),
             "Clients' subscriptions that a lost node or a moved slot interrupted: messages may be missing."),
    _counter("slotproxy_clients_cut_off_total", lambda s: int(s.counters.clients_cut_off),
             "Clients closed because they left more than --max-output of messages, invalidations, MONITOR unread."),
    _gauge("slotproxy_slot_migrations", lambda s: len(s.migrating_slots()),
           "Slots that count as migrating: ASK or TRYAGAIN within the last minute, owner unchanged since."),
    _gauge("slotproxy_slots_covered", lambda s: s.slot_map.covered(),
           "Slots with an owner; 16384 is all of them."),
    _counter("slotproxy_topology_updates_total", lambda s: int(s.counters.topology_updates),
             "Changes of the slot map, by a redirect or by a refresh."),
    _counter("slotproxy_topology_refresh_failures_total", lambda s: s.refresh_failures(),
             "Refreshes of the topology that no node answered."),
    _gauge("slotproxy_client_connections", lambda s: s.client_connections(), "Clients connected."),
    _counter("slotproxy_clients_total", lambda s: int(s.counters.clients_total), "Clients accepted."),
    _counter("slotproxy_clients_refused_total", lambda s: int(s.counters.clients_refused),
             "Clients turned away because there were too many."),
    _counter("slotproxy_auth_failures_total", lambda s: int(s.counters.auth_failures),
             "AUTH and HELLO AUTH of clients with wrong credentials."),
    Series("slotproxy_backend_connections", "gauge",
           "Connections to nodes, by node; 0 for a primary without one.",
           ("node",), lambda s: _by(s.node_connections(), _nodes(s, primaries_only=True))),
    Series("slotproxy_bytes_total", "counter",
           "Bytes received (in) and sent (out) by the proxy, on the side of the clients and of the nodes.",
           ("side", "direction"), _bytes),
    Series("slotproxy_build_info", "gauge", "Always 1; the labels say what runs.",
           ("version", "flavour", "python"), _build),
)  # fmt: skip


def metrics_table() -> list[tuple[str, str, tuple[str, ...], str]]:
    """All metrics as (name, type, label names, meaning), process_* and python_info excepted."""
    return [(one.name, one.kind, one.labels, one.meaning) for one in METRICS]


class ProxyCollector(Collector):
    """Yields the families of the table, as they stand at the moment of the scrape."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        for one in METRICS:
            if isinstance(one, Distribution):
                yield _histogram(one, self._sources)
            else:
                yield _series(one, self._sources)


def build_registry(sources: Sources) -> CollectorRegistry:
    """A registry of its own with the proxy's families, process_* (Linux only) and python_info."""
    registry = CollectorRegistry()
    registry.register(ProxyCollector(sources))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def _series(one: Series, sources: Sources) -> Metric:
    family: CounterMetricFamily | GaugeMetricFamily
    if one.kind == "counter":
        family = CounterMetricFamily(one.name, one.meaning, labels=one.labels)
    else:
        family = GaugeMetricFamily(one.name, one.meaning, labels=one.labels)
    for labels, value in one.read(sources):
        family.add_metric(labels, value)
    return family


def _histogram(one: Distribution, sources: Sources) -> Metric:
    figures = one.read(sources)
    buckets: list[tuple[str, float]] = []
    seen = 0
    for bound, count in zip((*figures.bounds, float("inf")), figures.counts, strict=True):
        seen += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), seen))
    return HistogramMetricFamily(one.name, one.meaning, buckets=buckets, sum_value=figures.total)

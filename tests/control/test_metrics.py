import math

import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.control.metrics import build_registry, metrics_table
from slotproxy.dataplane.counters import DURATION_BOUNDS, ERROR_CODES, RETRY_BOUNDS
from tests.control.sources import IDS, FixedSources, three_nodes

PROMISED = {
    "slotproxy_moved_total": ("counter", ("node",)),
    "slotproxy_ask_total": ("counter", ("node",)),
    "slotproxy_tryagain_total": ("counter", ()),
    "slotproxy_clusterdown_total": ("counter", ()),
    "slotproxy_topology_updates_total": ("counter", ()),
    "slotproxy_topology_refresh_failures_total": ("counter", ()),
    "slotproxy_slot_migrations": ("gauge", ()),
    "slotproxy_slots_covered": ("gauge", ()),
    "slotproxy_request_retries": ("histogram", ()),
    "slotproxy_request_duration_seconds": ("histogram", ()),
    "slotproxy_commands_total": ("counter", ("command",)),
    "slotproxy_scripts_supplied_total": ("counter", ()),
    "slotproxy_functions_supplied_total": ("counter", ()),
    "slotproxy_script_cache_bytes": ("gauge", ()),
    "slotproxy_transactions_partial_total": ("counter", ()),
    "slotproxy_blocked_clients": ("gauge", ()),
    "slotproxy_private_clients": ("gauge", ()),
    "slotproxy_exclusive_connections": ("gauge", ()),
    "slotproxy_subscribed_clients": ("gauge", ()),
    "slotproxy_subscription_connections": ("gauge", ()),
    "slotproxy_messages_delivered_total": ("counter", ()),
    "slotproxy_subscription_gaps_total": ("counter", ()),
    "slotproxy_clients_cut_off_total": ("counter", ()),
    "slotproxy_errors_total": ("counter", ("code",)),
    "slotproxy_client_connections": ("gauge", ()),
    "slotproxy_clients_total": ("counter", ()),
    "slotproxy_clients_refused_total": ("counter", ()),
    "slotproxy_auth_failures_total": ("counter", ()),
    "slotproxy_backend_connections": ("gauge", ("node",)),
    "slotproxy_requests_in_flight": ("gauge", ()),
    "slotproxy_requests_parked": ("gauge", ()),
    "slotproxy_parked_expired_total": ("counter", ()),
    "slotproxy_in_doubt_total": ("counter", ()),
    "slotproxy_bytes_total": ("counter", ("side", "direction")),
    "slotproxy_build_info": ("gauge", ("version", "flavour", "python")),
}


def scrape(sources: FixedSources) -> dict[str, Metric]:
    """Families by name, parsed from the text that a scraper gets."""
    text = generate_latest(build_registry(sources)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(sources: FixedSources) -> dict[str, float]:
    """`name{label values, in the order of the labels' names}` to value."""
    return {
        sample.name + ("{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""): sample.value
        for family in scrape(sources).values()
        for sample in family.samples
    }


def test_the_table_is_what_was_promised() -> None:
    assert {name: (kind, labels) for name, kind, labels, _ in metrics_table()} == PROMISED
    assert all(meaning.endswith(".") for *_, meaning in metrics_table())


def test_the_exposition_is_the_table_and_the_process() -> None:
    families = scrape(FixedSources())
    for name, kind, _, meaning in metrics_table():
        family = families.pop(name.removesuffix("_total") if kind == "counter" else name)
        assert (family.type, family.documentation) == (kind, meaning)
    assert {"python_info", "process_resident_memory_bytes", "process_open_fds"} <= families.keys()
    assert all(name.startswith(("process_", "python_")) for name in families)


def test_samples_carry_the_labels_of_the_table() -> None:
    sources = FixedSources()
    sources.slot_map = three_nodes()
    sources.calls = {"get": 1}
    families = scrape(sources)
    for name, kind, labels, _ in metrics_table():
        family = families[name.removesuffix("_total") if kind == "counter" else name]
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(labels)


def test_openmetrics_reads_it_too() -> None:
    sources = FixedSources()
    sources.slot_map = three_nodes()
    sources.calls = {"get": 1}
    sources.counters.observe(0.2, 3)
    text = generate_openmetrics(build_registry(sources)).decode()  # type: ignore[no-untyped-call]
    names = {family.name for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert {name.removesuffix("_total") for name in PROMISED} <= names


def test_counters_are_there_at_zero_before_anything_happened() -> None:
    sources = FixedSources()
    sources.slot_map = three_nodes()
    values = samples(sources)
    for name, (kind, labels) in PROMISED.items():
        if kind == "counter" and not labels:
            assert values[name] == 0
    for code in [*ERROR_CODES, "OTHER"]:
        assert values[f"slotproxy_errors_total{{{code}}}"] == 0
    for port in (7001, 7002, 7003):
        assert values[f"slotproxy_moved_total{{10.0.0.1:{port}}}"] == 0
        assert values[f"slotproxy_ask_total{{10.0.0.1:{port}}}"] == 0
    for side in ("client", "node"):
        for direction in ("in", "out"):
            assert values[f"slotproxy_bytes_total{{{direction},{side}}}"] == 0


def test_each_figure_is_read_from_its_own_place() -> None:
    sources = FixedSources()
    counters = sources.counters
    sources.slot_map = three_nodes()
    sources.calls = {"get": 21, "json.set": 22}
    sources.connections = {"10.0.0.1:7001": 23}
    sources.clients, sources.waiting, sources.failures = 24, (25, 26), 27
    sources.migrating = [1, 2, 3]
    counters.tryagain, counters.clusterdown, counters.topology_updates = 1, 2, 3
    counters.clients_total, counters.clients_refused = 4, 5
    counters.client_bytes_in, counters.client_bytes_out = 6, 7
    counters.node_bytes_in, counters.node_bytes_out = 8, 9
    counters.parked_expired, counters.in_doubt = 10, 11
    counters.moved, counters.ask = {"10.0.0.1:7001": 12}, {"gone:1": 13}
    counters.errors = {"ERR": 14}
    expected = {
        "slotproxy_tryagain_total": 1,
        "slotproxy_clusterdown_total": 2,
        "slotproxy_topology_updates_total": 3,
        "slotproxy_clients_total": 4,
        "slotproxy_clients_refused_total": 5,
        "slotproxy_bytes_total{in,client}": 6,
        "slotproxy_bytes_total{out,client}": 7,
        "slotproxy_bytes_total{in,node}": 8,
        "slotproxy_bytes_total{out,node}": 9,
        "slotproxy_parked_expired_total": 10,
        "slotproxy_in_doubt_total": 11,
        "slotproxy_moved_total{10.0.0.1:7001}": 12,
        "slotproxy_ask_total{gone:1}": 13,  # what was counted stays, also when its node left
        "slotproxy_errors_total{ERR}": 14,
        "slotproxy_commands_total{get}": 21,
        "slotproxy_commands_total{json.set}": 22,
        "slotproxy_backend_connections{10.0.0.1:7001}": 23,
        "slotproxy_backend_connections{10.0.0.1:7002}": 0,  # a primary that has none
        "slotproxy_client_connections": 24,
        "slotproxy_requests_in_flight": 25,
        "slotproxy_requests_parked": 26,
        "slotproxy_topology_refresh_failures_total": 27,
        "slotproxy_slot_migrations": 3,
        "slotproxy_slots_covered": 16383,
    }
    values = samples(sources)
    assert {name: values.get(name) for name in expected} == expected
    assert "slotproxy_backend_connections{10.0.0.1:7003}" not in values  # a replica needs none


def test_a_scrape_shows_the_moment_not_the_start() -> None:
    sources = FixedSources()
    registry = build_registry(sources)
    assert registry.get_sample_value("slotproxy_slots_covered") == 0
    sources.slot_map = three_nodes()
    sources.slot_map.patch(16383, sources.slot_map.nodes[IDS[0]])
    sources.counters.tryagain += 2
    assert registry.get_sample_value("slotproxy_slots_covered") == 16384
    assert registry.get_sample_value("slotproxy_tryagain_total") == 2


def buckets(sources: FixedSources, name: str) -> list[tuple[float, float]]:
    return [
        (float(sample.labels["le"]), sample.value)
        for sample in scrape(sources)[name].samples
        if sample.name == f"{name}_bucket"
    ]


def test_durations_are_cumulative() -> None:
    sources = FixedSources()
    for duration, count in ((0.0001, 2), (0.0002, 3), (60.0, 4)):
        sources.counters.observe(duration, count)
    name = "slotproxy_request_duration_seconds"
    found = buckets(sources, name)
    assert [bound for bound, _ in found] == [*DURATION_BOUNDS, math.inf]
    assert [value for _, value in found] == [2] + [5] * (len(DURATION_BOUNDS) - 1) + [9]
    values = samples(sources)
    assert values[f"{name}_count"] == 9
    assert values[f"{name}_sum"] == pytest.approx(240.0008)


def test_requests_without_a_retry_are_the_rest() -> None:
    sources = FixedSources()
    sources.counters.observe(0.001, 10)
    sources.counters.observe_retries(1)
    sources.counters.observe_retries(4)
    sources.counters.observe_retries(1000)
    found = dict(buckets(sources, "slotproxy_request_retries"))
    assert list(found) == [*map(float, RETRY_BOUNDS), math.inf]
    assert (found[0], found[1], found[3], found[5], found[100], found[math.inf]) == (7, 8, 8, 9, 9, 10)
    values = samples(sources)
    assert (values["slotproxy_request_retries_count"], values["slotproxy_request_retries_sum"]) == (10, 1005)


def test_a_retry_counted_before_its_request_makes_no_negative_bucket() -> None:
    sources = FixedSources()
    sources.counters.observe_retries(1)
    assert buckets(sources, "slotproxy_request_retries")[0] == (0.0, 0)


def test_build_info_names_version_flavour_and_python() -> None:
    (sample,) = scrape(FixedSources())["slotproxy_build_info"].samples
    assert sample.value == 1
    assert (sample.labels["version"], sample.labels["flavour"]) == ("1.2.3", "compiled")
    assert sample.labels["python"].startswith("3.")


def test_an_empty_map_has_no_nodes() -> None:
    sources = FixedSources()
    sources.slot_map = SlotMap()
    assert scrape(sources)["slotproxy_moved"].samples == []

"""CLUSTER SLOTS and CLUSTER NODES: all forms of an address, and only TopologyError for what is no reply."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.cluster.topology import Topology, TopologyError, decode_topology
from slotproxy.demo.cluster import EmbeddedCluster

A, B, C = (letter * 40 for letter in "abc")
ASKED = ("10.0.0.1", 7000)


def row(first: int, last: int, *entries: list[Any]) -> list[Any]:
    return [first, last, *entries]


def entry(host: bytes | None, port: int, id: str, *metadata: bytes) -> list[Any]:
    """One node of CLUSTER SLOTS, as 7.0 gives it; without `metadata` as 6.2 does."""
    return [host, port, id.encode(), *([list(metadata)] if metadata else [])]


def nodes(*lines: str) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def line(id: str, address: str, flags: str = "master", *slots: str, primary: str = "-") -> str:
    return " ".join([id, address, flags, primary, "0", "1426238317239", "4", "connected", *slots])


TWO_SLOTS = [
    row(0, 8191, entry(b"10.0.0.1", 7000, A), entry(b"10.0.0.3", 7002, C)),
    row(8192, 16383, entry(b"10.0.0.2", 7001, B)),
]
TWO_NODES = nodes(
    line(A, "10.0.0.1:7000@17000", "myself,master", "0-8191"),
    line(B, "10.0.0.2:7001@17001", "master", "8192-16383"),
    line(C, "10.0.0.3:7002@17002", "slave", primary=A),
)


def addresses(topology: Topology, id: str) -> set[tuple[str, int]]:
    return set(topology.nodes[id].addresses)


# ---- the ordinary


def test_owners_replicas_and_ranges_are_read() -> None:
    topology = decode_topology(TWO_SLOTS, TWO_NODES, ASKED)
    assert topology.ranges == [(0, 8191, A), (8192, 16383, B)]
    assert topology.covered() == 16384
    assert {id: (info.name, info.primary, info.failing) for id, info in topology.nodes.items()} == {
        A: ("10.0.0.1:7000", True, False),
        B: ("10.0.0.2:7001", True, False),
        C: ("10.0.0.3:7002", False, False),
    }
    assert all(info.id == id for id, info in topology.nodes.items())
    assert topology.migrating == {}
    assert topology.answered_by == "10.0.0.1:7000"


def test_a_primary_without_slots_is_known_from_cluster_nodes() -> None:
    topology = decode_topology([], nodes(line(A, "10.0.0.1:7000@17000", "myself,master")), ASKED)
    assert topology.nodes[A].name == "10.0.0.1:7000"
    assert topology.nodes[A].primary
    assert topology.covered() == 0


def test_a_node_that_only_cluster_slots_knows_is_primary_where_it_owns() -> None:
    topology = decode_topology(TWO_SLOTS, b"", ASKED)
    assert [topology.nodes[id].primary for id in (A, B, C)] == [True, True, False]


def test_failing_is_a_fact_and_not_a_suspicion() -> None:
    text = nodes(
        line(A, "10.0.0.1:7000@17000", "master,fail"), line(B, "10.0.0.2:7001@17001", "master,fail?")
    )
    topology = decode_topology([], text, ASKED)
    assert topology.nodes[A].failing
    assert not topology.nodes[B].failing


def test_nodes_without_an_address_are_left_out() -> None:
    text = nodes(
        line(A, ":0@0", "master,noaddr"),
        line(B, "10.0.0.2:7001@17001", "handshake"),
        line(C, ":0@0", "slave,fail"),
    )
    assert decode_topology([], text, ASKED).nodes == {}


def test_slots_that_the_answering_node_migrates_are_read_and_imports_are_not() -> None:
    text = nodes(
        line(A, "10.0.0.1:7000@17000", "myself,master", "0-8191", "9000", f"[77->-{B}]", f"[93-<-{B}]")
    )
    assert decode_topology([], text, ASKED).migrating == {77: B}


@pytest.mark.parametrize(
    "slot", ["16384", "-1", "", "x", "\u00b2", "\u0661", "0" * 6, "0" * 6 + "9" * 5000, "9" * 5000]
)
def test_a_migrating_slot_that_is_none_is_passed_over(slot: str) -> None:
    text = nodes(line(A, "10.0.0.1:7000@17000", "myself,master", f"[{slot}->-{B}]"))
    assert decode_topology([], text, ASKED).migrating == {}


# ---- addresses


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.9:7000@17000", "10.0.0.9", 7000),
        ("::1:7000@17000", "::1", 7000),
        ("2001:db8::7:7000@17000", "2001:db8::7", 7000),
        (":7000@17000", "10.0.0.1", 7000),  # a node that never met another does not know its address
        ("10.0.0.9:7000", "10.0.0.9", 7000),  # before the bus port was shown
    ],
)
def test_the_address_in_cluster_nodes_is_read(address: str, host: str, port: int) -> None:
    topology = decode_topology([], nodes(line(A, address)), ASKED)
    assert (topology.nodes[A].host, topology.nodes[A].port) == (host, port)
    assert addresses(topology, A) == {(host, port)}


@pytest.mark.parametrize(
    "names", ["one.example", "one.example,shard-id=cafe", "one.example,future=1,shard-id=cafe"]
)
def test_a_hostname_is_another_address_of_the_same_node(names: str) -> None:
    text = nodes(line(A, f"10.0.0.9:7000@17000,{names}"))
    assert addresses(decode_topology([], text, ASKED), A) == {("10.0.0.9", 7000), ("one.example", 7000)}


@pytest.mark.parametrize("names", ["", ",shard-id=cafe", "shard-id=cafe"])
def test_what_follows_an_address_is_not_always_a_hostname(names: str) -> None:
    text = nodes(line(A, f"10.0.0.9:7000@17000,{names}"))
    assert addresses(decode_topology([], text, ASKED), A) == {("10.0.0.9", 7000)}


def test_the_endpoint_of_cluster_slots_comes_first_and_the_ip_is_known() -> None:
    text = nodes(line(A, "10.0.0.9:7000@17000,one.example"))
    topology = decode_topology([row(0, 1, entry(b"one.example", 7000, A, b"ip", b"10.0.0.9"))], text, ASKED)
    assert topology.nodes[A].name == "one.example:7000"
    assert addresses(topology, A) == {("10.0.0.9", 7000), ("one.example", 7000)}


@pytest.mark.parametrize("host", [None, b""])
def test_null_and_empty_mean_the_host_that_answered(host: bytes | None) -> None:
    topology = decode_topology([row(0, 1, entry(host, 7005, A, b"ip", b"10.0.0.9"))], b"", ASKED)
    assert topology.nodes[A].name == "10.0.0.1:7005"


def test_with_unknown_endpoints_the_real_ip_stays_an_address() -> None:
    text = nodes(line(A, "10.0.0.9:7005@17005"))
    topology = decode_topology([row(0, 1, entry(None, 7005, A))], text, ASKED)
    assert topology.nodes[A].name == "10.0.0.1:7005"
    assert addresses(topology, A) == {("10.0.0.1", 7005), ("10.0.0.9", 7005)}


def test_a_question_mark_is_resolved_by_the_metadata_then_by_cluster_nodes_then_by_who_answered() -> None:
    text = nodes(line(A, "10.0.0.8:7000@17000"))
    by_metadata = entry(b"?", 7000, A, b"hostname", b"", b"ip", b"10.0.0.9")
    for slots_entry, known, host in (
        (by_metadata, text, "10.0.0.9"),
        (entry(b"?", 7000, A, b"hostname", b""), text, "10.0.0.8"),
        (entry(b"?", 7000, A), text, "10.0.0.8"),
        (entry(b"?", 7000, A), b"", "10.0.0.1"),
        (entry(b"?", 7000, A, b"ip"), b"", "10.0.0.1"),
    ):
        topology = decode_topology([row(0, 1, slots_entry)], known, ASKED)
        assert topology.nodes[A].name == f"{host}:7000"


def test_without_ids_the_address_is_the_id() -> None:
    topology = decode_topology([row(0, 1, [b"10.0.0.9", 7000])], b"", ASKED)
    assert topology.ranges == [(0, 1, "10.0.0.9:7000")]
    assert topology.nodes["10.0.0.9:7000"].name == "10.0.0.9:7000"


# ---- hostile replies


@pytest.mark.parametrize(
    "slots",
    [
        *(None, b"", 7, "text", {}, [None], [[]], [b"0"], [[0, 1]], [row(0, 1, [])]),
        *(
            [row(1, 0, entry(b"h", 1, A))],
            [row(-1, 0, entry(b"h", 1, A))],
            [row(0, 16384, entry(b"h", 1, A))],
        ),
        *([[b"0", 1, entry(b"h", 1, A)]], [[0, None, entry(b"h", 1, A)]], [row(0, 2**64, entry(b"h", 1, A))]),
        *([[0, 1, None]], [[0, 1, [b"h"]]], [[0, 1, [b"h", b"1"]]], [[0, 1, [7, 1]]], [[0, 1, ["h", 1, A]]]),
        *(
            [row(0, 1, entry(b"h", 0, A))],
            [row(0, 1, entry(b"h", 65536, A))],
            [row(0, 1, entry(b"h", -1, A))],
        ),
        [row(0, 1, entry(b"h", 1, A), [b"h"])],
        [row(0, 1, entry(b"h", 1, A)), b"x" * 1000],
    ],
)
def test_a_bad_cluster_slots_is_refused_as_a_whole(slots: object) -> None:
    with pytest.raises(TopologyError, match=r"^CLUSTER SLOTS ") as caught:
        decode_topology(slots, TWO_NODES, ASKED)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        *(None, 7, "text", [], b"x", b"\n", b"\xff\xfe", b"a b c d e f g\n"),
        *(
            nodes(line(A, address))
            for address in ("", "h", "h:", "h:0", "h:65536", "h:-1", "h:x", "@1", ":0@0")
        ),
        *(
            nodes(line(A, f"h:{port}@1"))
            for port in ("\u00b2", "\u0661", "000080123456", "1" * 5000, "000001" + "0" * 5000)
        ),
        TWO_NODES + b"truncat",
    ],
)
def test_a_bad_cluster_nodes_is_refused_as_a_whole(text: object) -> None:
    with pytest.raises(TopologyError, match=r"^CLUSTER NODES ") as caught:
        decode_topology(TWO_SLOTS, text, ASKED)
    assert len(str(caught.value)) < 700


ATOM = st.one_of(
    st.none(),
    st.integers(-2, 16385),
    st.integers(),
    st.sampled_from([b"", b"?", b"ip", b"hostname", b"10.0.0.9", b"\xff", A.encode(), B.encode()]),
    st.binary(max_size=8),
    st.text(max_size=4),
)
NESTED = st.recursive(ATOM, lambda inner: st.lists(inner, max_size=5), max_leaves=20)
ENTRIES = st.lists(NESTED, max_size=5) | st.builds(
    entry, st.none() | st.binary(max_size=6), st.integers(-1, 65537), st.sampled_from([A, B, ""])
)
ROWS = st.tuples(st.integers(-1, 16385), st.integers(-1, 16385), ENTRIES).map(list) | st.lists(
    NESTED, max_size=4
)
WORDS = st.sampled_from(
    [A, B, "h:1@2", ":1@2", "::1:7@17,name", "h:0@0", "master", "myself,master,fail", "slave", "-", "0"]
)
SLOT_WORDS = st.sampled_from(
    ["0-16383", "7", "[7->-x]", "[->-]", "[\u00b2->-x]", "[99999->-x]", "[7-<-x]", "->-", "["]
)
TEXT_LINES = st.tuples(
    st.lists(WORDS | st.text(max_size=5), min_size=6, max_size=9), st.lists(SLOT_WORDS, max_size=3)
).map(lambda both: " ".join([*both[0], *both[1]]))
TEXTS = st.lists(TEXT_LINES, max_size=4).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


@given(NESTED | st.lists(ROWS, max_size=4), NESTED | TEXTS | st.just(TWO_NODES))
def test_hostile_replies_raise_nothing_but_topology_error(slots: object, text: object) -> None:
    try:
        topology = decode_topology(slots, text, ASKED)
    except TopologyError as error:
        assert len(str(error)) < 700
        return
    for first, last, id in topology.ranges:
        assert 0 <= first <= last < 16384
        assert id in topology.nodes
    for id, info in topology.nodes.items():
        assert info.id == id
        assert 0 < info.port < 65536
        assert info.host
        assert (info.host, info.port) in info.addresses
    assert all(0 <= slot < 16384 for slot in topology.migrating)


# ---- real servers


async def test_a_real_cluster_is_read_as_it_is(cluster: EmbeddedCluster) -> None:
    for node in cluster.nodes:
        slots, text = await node.pipeline(("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"))
        topology = decode_topology(slots, text, (node.host, node.port))
        assert topology.covered() == 16384
        assert {id: info.name for id, info in topology.nodes.items()} == {
            other.id: other.address for other in cluster.nodes
        }
        for other in cluster.nodes:
            owned = {
                slot
                for first, last, id in topology.ranges
                if id == other.id
                for slot in range(first, last + 1)
            }
            assert owned == await cluster.slots_of(other)
            assert topology.nodes[other.id].primary


async def test_a_real_migration_is_seen_at_its_source_alone(cluster: EmbeddedCluster) -> None:
    source, target, other = cluster.nodes
    slot = min(await cluster.slots_of(source))
    await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    for node, migrating in ((source, {slot: target.id}), (target, {}), (other, {})):
        slots, text = await node.pipeline(("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"))
        assert decode_topology(slots, text, (node.host, node.port)).migrating == migrating

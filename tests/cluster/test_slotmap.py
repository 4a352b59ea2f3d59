"""The slot map: what a MOVED and a refresh change, and which of the two prevails."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Address, NodeInfo, Topology
from slotproxy.protocol.slots import SLOTS


def node(
    id: str, port: int, *others: Address, host: str = "h", primary: bool = True, failing: bool = False
) -> NodeInfo:
    return NodeInfo(id, host, port, primary, failing, frozenset({(host, port), *others}))


def view(*ranges: tuple[int, int, NodeInfo], empty: tuple[NodeInfo, ...] = ()) -> Topology:
    infos = {info.id: info for info in [*(owner for _, _, owner in ranges), *empty]}
    return Topology(infos, [(first, last, owner.id) for first, last, owner in ranges], {}, "h:1")


A, B, C = node("a", 1), node("b", 2), node("c", 3)
HALVES = view((0, 8191, A), (8192, 16383, B), empty=(C,))


def filled() -> SlotMap:
    slots = SlotMap()
    slots.apply(HALVES, slots.version)
    return slots


def owner_ids(slots: SlotMap) -> list[str | None]:
    return [None if owner is None else owner.id for owner in slots.owners]


def consistent(slots: SlotMap) -> None:
    assert slots.covered() == sum(owner is not None for owner in slots.owners)
    assert len(slots.owners) == SLOTS
    ranges = slots.ranges()
    assert ranges[0][0] == 0 and ranges[-1][1] == SLOTS - 1
    for (_, last, owner), (first, _, follower) in pairwise(ranges):
        assert first == last + 1
        assert follower is not owner
    for first, last, owner in ranges:
        assert all(slots.owners[slot] is owner for slot in range(first, last + 1))


# ---- filling


def test_an_empty_map_owns_nothing() -> None:
    slots = SlotMap()
    assert slots.covered() == 0
    assert slots.ranges() == [(0, 16383, None)]
    assert slots.find("h", 1) is None
    assert slots.find_by_port(1) is None
    consistent(slots)


def test_a_first_view_changes_the_slots_it_covers() -> None:
    slots = SlotMap()
    assert slots.apply(view((5, 7, A), (9, 9, B)), 0) == [5, 6, 7, 9]
    assert slots.covered() == 4
    assert slots.ranges() == [(0, 4, None), (5, 7, A), (8, 8, None), (9, 9, B), (10, 16383, None)]
    consistent(slots)


def test_the_same_view_again_changes_nothing() -> None:
    slots = filled()
    version = slots.version
    assert slots.apply(HALVES, version) == []
    assert slots.version == version
    assert slots.owners[0] is A


def test_equal_nodes_keep_their_object() -> None:
    slots = filled()
    assert slots.apply(view((0, 8191, node("a", 1)), (8192, 16383, node("b", 2))), slots.version) == []
    assert slots.owners[0] is A and slots.nodes["a"] is A and slots.find("h", 1) is A


def test_a_slot_that_a_view_leaves_out_loses_its_owner() -> None:
    slots = filled()
    assert slots.apply(view((0, 8191, A), (8193, 16383, B)), slots.version) == [8192]
    assert slots.owners[8192] is None
    assert slots.covered() == 16383
    consistent(slots)


def test_empty_primaries_are_known_until_a_view_lacks_them() -> None:
    slots = filled()
    assert slots.find("h", 3) is C
    assert slots.nodes["c"] is C
    slots.apply(view((0, 8191, A), (8192, 16383, B)), slots.version)
    assert slots.find("h", 3) is None
    assert "c" not in slots.nodes


# ---- addresses


def test_a_renumbered_node_keeps_its_slots_under_its_new_address() -> None:
    slots = filled()
    moved = node("a", 9)
    assert slots.apply(view((0, 8191, moved), (8192, 16383, B)), slots.version) == []
    assert slots.owners[0] is moved
    assert slots.find("h", 9) is moved
    assert slots.find("h", 1) is None
    consistent(slots)


def test_every_change_of_a_node_makes_a_new_object() -> None:
    for changed in (
        node("a", 1, ("10.0.0.1", 1)),
        node("a", 1, primary=False),
        node("a", 1, failing=True),
        NodeInfo("a", "other", 1, True, False, A.addresses),
    ):
        slots = filled()
        slots.apply(view((0, 8191, changed), (8192, 16383, B)), slots.version)
        assert slots.owners[0] is slots.nodes["a"] is changed


def test_nodes_that_swap_addresses_are_found_at_their_new_ones() -> None:
    slots = filled()
    slots.apply(view((0, 8191, node("a", 2)), (8192, 16383, node("b", 1))), slots.version)
    found = slots.find("h", 1)
    assert found is not None and found.id == "b"
    assert owner_ids(slots)[0] == "a"


def test_a_node_is_found_by_each_of_its_addresses() -> None:
    both = node("a", 1, ("name.example", 1))
    slots = SlotMap()
    slots.apply(view((0, 1, both)), 0)
    assert slots.find("h", 1) is slots.find("name.example", 1) is both
    assert slots.find("h", 2) is None


def test_at_an_address_of_two_ids_the_living_one_is_found() -> None:
    """A node that came back without its nodes.conf has a new id; the old one stays listed as failed."""
    old, new = node("a", 1, failing=True), node("z", 1)
    old_last, new_first = node("z", 1, failing=True), node("a", 1)
    for dead, living in ((old, new), (old_last, new_first)):
        for order in ((dead, living), (living, dead)):
            slots = SlotMap()
            slots.apply(view(empty=order), 0)
            assert slots.find("h", 1) is living


def test_a_port_finds_the_only_node_that_has_it() -> None:
    slots = SlotMap()
    two_names = node("a", 1, ("name.example", 1))
    slots.apply(view((0, 1, two_names), empty=(node("b", 2), node("c", 2, host="other"))), 0)
    assert slots.find_by_port(1) is two_names
    assert slots.find_by_port(2) is None
    assert slots.find_by_port(3) is None


# ---- patches


def test_a_patch_changes_its_slot_alone_and_at_once() -> None:
    slots = filled()
    assert slots.patch(5, B)
    assert slots.owners[4] is A and slots.owners[5] is B and slots.owners[6] is A
    assert slots.ranges() == [(0, 4, A), (5, 5, B), (6, 8191, A), (8192, 16383, B)]
    consistent(slots)


def test_a_patch_that_says_what_is_known_is_no_news() -> None:
    slots = filled()
    assert not slots.patch(5, A)
    assert slots.patch(5, B)
    assert not slots.patch(5, B)


def test_a_patch_covers_a_slot_without_owner() -> None:
    slots = SlotMap()
    assert slots.patch(16383, A)
    assert slots.covered() == 1
    assert not slots.patch(16383, A)
    assert slots.covered() == 1
    consistent(slots)


def test_a_refresh_that_started_before_a_patch_does_not_undo_it() -> None:
    slots = filled()
    started = slots.version
    slots.patch(5, B)
    assert slots.apply(HALVES, started) == []
    assert slots.owners[5] is B
    consistent(slots)


def test_a_confirmed_owner_is_stamped_too() -> None:
    """A MOVED to the owner that the map holds already is newer than a view that says otherwise."""
    slots = filled()
    started = slots.version
    assert not slots.patch(5, A)
    assert slots.apply(view((0, 16383, B)), started) == [slot for slot in range(8192) if slot != 5]
    assert slots.owners[5] is A


def test_a_refresh_that_started_after_a_patch_prevails() -> None:
    slots = filled()
    slots.patch(5, B)
    assert slots.apply(HALVES, slots.version) == [5]
    assert slots.owners[5] is A


def test_a_refresh_takes_the_other_slots_beside_a_younger_patch() -> None:
    slots = filled()
    slots.patch(1, B)
    started = slots.version
    slots.patch(2, B)
    assert slots.apply(HALVES, started) == [1]
    assert owner_ids(slots)[:4] == ["a", "a", "b", "a"]


def test_a_patched_owner_is_the_object_that_stands_for_it_now() -> None:
    slots = filled()
    started = slots.version
    slots.patch(5, C)
    renumbered = node("c", 33)
    slots.apply(view((0, 8191, A), (8192, 16383, B), empty=(renumbered,)), started)
    assert slots.owners[5] is renumbered


def test_a_patched_owner_that_the_view_does_not_know_stays() -> None:
    slots = filled()
    started = slots.version
    slots.patch(5, C)
    assert slots.apply(view((0, 8191, A), (8192, 16383, B)), started) == []
    assert slots.owners[5] is C
    assert slots.find("h", 3) is None


def test_a_slot_in_doubt_without_owner_stays_without_owner() -> None:
    slots = SlotMap()
    slots.apply(view((0, 1, A)), 0)
    started = slots.version
    slots.patch(2, A)
    slots.apply(view((0, 1, A)), slots.version)
    assert slots.owners[2] is None
    assert slots.apply(view((0, 2, A)), started) == []
    assert slots.owners[2] is None


def test_the_version_grows_with_every_patch_and_every_change() -> None:
    slots = SlotMap()
    versions = [slots.version]
    for act in (
        lambda: slots.apply(HALVES, slots.version),
        lambda: slots.patch(0, B),
        lambda: slots.patch(0, B),
        lambda: slots.apply(HALVES, slots.version),
    ):
        act()
        versions.append(slots.version)
    assert versions == sorted(set(versions))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("patch"), st.integers(0, 9), st.sampled_from("abc")),
        st.tuples(st.just("begin"), st.just(0), st.just("")),
        st.tuples(st.just("apply"), st.integers(0, 9), st.sampled_from("abc")),
    ),
    max_size=15,
)


@given(STEPS)
def test_the_last_word_on_a_slot_is_its_newest(steps: list[tuple[str, int, str]]) -> None:
    """Against a model that keeps, for each slot, when its owner was said."""
    infos = {"a": A, "b": B, "c": C}
    slots = SlotMap()
    slots.apply(view((0, 9, A), empty=(B, C)), 0)
    owners, said = ["a"] * 10, [0] * 10
    began, began_at = slots.version, 0
    for now, (act, slot, id) in enumerate(steps, 1):
        if act == "patch":
            assert slots.patch(slot, infos[id]) == (owners[slot] != id)
            owners[slot], said[slot] = id, now
        elif act == "begin":
            began, began_at = slots.version, now
        else:
            ranges = [(0, slot, infos[id]), *([(slot + 1, 9, C)] if slot < 9 else [])]
            told = [id] * (slot + 1) + ["c"] * (9 - slot)
            changed = [at for at in range(10) if said[at] <= began_at and owners[at] != told[at]]
            assert slots.apply(view(*ranges, empty=(A, B, C)), began) == changed
            for at in changed:
                owners[at] = told[at]
        assert owner_ids(slots)[:10] == owners
    consistent(slots)

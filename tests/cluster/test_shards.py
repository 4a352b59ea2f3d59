"""Shard numbers and SCAN's cursors: whatever the topologies do, a walk ends and passes over no shard that stays."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from slotproxy.cluster.shards import NODE_CURSORS, Shard, Shards
from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import NodeInfo
from slotproxy.protocol.slots import SLOTS

LIMIT = 2**53


class Group:
    """A primary, its replicas, and how many parts of the slots it has."""

    def __init__(self, name: str, replicas: int, parts: int) -> None:
        self.members = [f"{name}{number}" for number in range(replicas + 1)]
        self.primary = self.members[0]
        self.parts = parts
        self.dead: set[str] = set()
        self.demoted: set[str] = set()  # of whom it is not known yet everywhere


def view(groups: Sequence[Group]) -> tuple[dict[str, NodeInfo], list[NodeInfo | None]]:
    """All nodes, and the owners of the slots: each group has one range, in the groups' order."""
    infos: dict[str, NodeInfo] = {}
    for group in groups:
        for id in group.members:
            # What died as a primary is shown as one until it comes back, what was demoted until it has said so.
            primary = id == group.primary or id in group.dead or id in group.demoted
            replicates = "" if primary else group.primary
            infos[id] = NodeInfo(id, "h", 1, primary, id in group.dead, frozenset({("h", 1)}), replicates)
    total = sum(group.parts for group in groups)
    owners: list[NodeInfo | None] = []
    given = 0
    for group in groups:
        given += group.parts
        owners += [infos[group.primary]] * (given * SLOTS // total - len(owners))
    return infos, owners


class World:
    """A proxy's shards over a cluster that changes."""

    def __init__(self, *groups: Group) -> None:
        self.groups = list(groups)
        self.shards = Shards()
        self._map = SlotMap()
        self._names = len(groups)
        self.refresh()

    def refresh(self) -> None:
        # As SlotMap.apply leaves it, which takes its time.
        self._map.nodes, self._map.owners = view(self.groups)
        self.shards.follow(self._map)

    def add(self, parts: int) -> None:
        self.groups.append(Group(chr(ord("a") + self._names % 26) * (1 + self._names // 26), 1, parts))
        self._names += 1

    def at(self, cursor: int) -> tuple[str, int]:
        """Which node a cursor asks, and with which cursor of its own; ("", 0) behind the last."""
        shard, inner = self.shards.find(cursor)
        return ("", 0) if shard is None else (shard.node, inner)

    def step(self, cursor: int, inner: int) -> int:
        """The client's next cursor when the node's is `inner`."""
        shard, _ = self.shards.find(cursor)
        assert shard is not None
        if inner:
            return shard.cursor(inner)
        following = self.shards.after(shard.number)
        return 0 if following is None else following.cursor(0)


def three() -> World:
    return World(Group("a", 1, 1), Group("b", 1, 1), Group("c", 1, 1))


def fail_over(group: Group, killed: bool = False) -> None:
    old = group.primary
    group.primary = next(id for id in group.members if id != old)
    if killed:
        group.dead.add(old)


# ---- one by one


def test_no_topology_no_shard() -> None:
    shards = Shards()
    assert not shards.known()
    assert shards.find(0) == (None, 0)
    assert shards.after(0) is None


def test_a_walk_goes_from_shard_to_shard_and_comes_back_to_zero() -> None:
    world = three()
    assert world.at(0) == ("a0", 0)
    inside = world.step(0, 17)
    assert world.at(inside) == ("a0", 17)
    second = world.step(inside, 0)
    assert world.at(second) == ("b0", 0)
    third = world.step(second, 0)
    assert world.at(third) == ("c0", 0)
    assert world.step(third, 0) == 0


def test_the_largest_cursor_of_a_node_fits() -> None:
    world = three()
    cursor = world.step(0, NODE_CURSORS - 1)
    assert 0 < cursor < LIMIT
    assert world.at(cursor) == ("a0", NODE_CURSORS - 1)


def test_a_shard_that_was_taken_over_is_begun_anew() -> None:
    world = three()
    cursor = world.step(0, 17)
    fail_over(world.groups[0], killed=True)
    world.refresh()
    assert world.at(cursor) == ("a1", 0)
    inside = world.step(cursor, 5)
    assert world.at(inside) == ("a1", 5)
    world.groups[0].dead.clear()
    world.refresh()
    assert world.at(inside) == ("a1", 5)
    fail_over(world.groups[0])
    world.refresh()
    assert world.at(inside) == ("a0", 0)
    assert world.at(cursor) == ("a0", 0), "it was away in between"


def test_a_primary_that_lost_its_slots_to_its_replica_is_no_shard_though_it_is_still_shown_as_a_primary() -> None:
    world = three()
    cursor = world.step(0, 17)
    group = world.groups[0]
    fail_over(group)
    for shown_as_primary in (True, True, False, True):  # of the nodes that are asked one lags behind another
        group.demoted = {"a0"} if shown_as_primary else set()
        world.refresh()
        assert world.at(cursor) == ("a1", 0)
        assert walk(world) == ["a1", "b0", "c0"]
    # With slots of its own it has keys of its own.
    group.members.remove("a0")
    world.groups.append(Group("a", 0, 1))
    world.refresh()
    assert walk(world) == ["a1", "b0", "c0", "a0"]


def test_an_emptied_primary_is_still_walked_and_one_that_left_is_passed_over() -> None:
    world = three()
    cursor = world.step(0, 17)
    world.groups[0].parts = 0
    world.refresh()
    assert world.at(cursor) == ("a0", 17)
    del world.groups[0]
    world.refresh()
    assert world.at(cursor) == ("b0", 0)


def test_a_shard_that_appears_is_behind_every_other_whatever_slots_it_gets() -> None:
    world = three()
    world.groups.insert(0, Group("z", 0, 1))
    world.refresh()
    visited = walk(world)
    assert visited == ["a0", "b0", "c0", "z0"]


def test_a_number_is_not_given_twice() -> None:
    """A cursor of the last shard, which has gone, is no cursor of the one that came after it."""
    world = three()
    cursor = walk_to(world, "c0")
    inside = world.step(cursor, 17)
    world.groups[2] = Group("d", 0, 1)
    world.refresh()
    assert world.at(inside) == ("d0", 0)


def test_a_replica_that_was_never_seen_as_one_is_another_shard() -> None:
    """It joined and took over between two refreshes. Nothing says whose keys it has: all of it is walked."""
    world = three()
    inside = world.step(walk_to(world, "c0"), 17)
    last = world.groups[2]
    last.members.append("c9")
    last.primary = "c9"
    last.dead = {"c0"}
    world.refresh()
    assert world.at(inside) == ("c9", 0)


def test_after_a_thousand_replaced_shards_cursors_still_fit() -> None:
    world = three()
    for number in range(1_030):
        world.groups[number % 3] = Group(f"n{number}-", 0, 1)
        world.refresh()
        cursors = [shard.cursor(NODE_CURSORS - 1) for shard in shards_of(world.shards)]
        assert len(cursors) == 3
        assert all(0 < cursor < LIMIT for cursor in cursors)
        assert cursors == sorted(set(cursors))


def test_a_cursor_that_nobody_gave_is_taken_for_some_place() -> None:
    world = three()
    for cursor in (1, 5 << 39, 1 << 52, LIMIT - 1, LIMIT, 2**64 - 1):
        node, inner = world.at(cursor)
        assert node in ("a0", "b0", "c0", "") and 0 <= inner < NODE_CURSORS


def shards_of(shards: Shards) -> list[Shard]:
    found = []
    shard, _ = shards.find(0)
    while shard is not None:
        found.append(shard)
        assert len(found) < 100, "it does not end"
        shard = shards.after(shard.number)
    return found


def walk_to(world: World, node: str) -> int:
    """A cursor at the beginning of a node, from 0 on."""
    cursor = 0
    while world.at(cursor)[0] != node:
        cursor = world.step(cursor, 0)
        assert cursor
    return cursor


def walk(world: World) -> list[str]:
    """The nodes of a walk in which nothing changes."""
    visited = []
    cursor = 0
    while True:
        visited.append(world.at(cursor)[0])
        assert len(visited) < 100, "it does not end"
        cursor = world.step(cursor, 0)
        if cursor == 0:
            return visited


# ---- any history

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "fail over", "kill", "come back", "empty", "fill", "nothing"]),
        st.integers(0, 9),
    ),
    max_size=20,
)
INNER = st.lists(st.integers(0, 3), min_size=60, max_size=60)


def change(world: World, what: str, which: int) -> None:
    groups = world.groups
    group = groups[which % len(groups)]
    if what == "join" and len(groups) < 8:
        world.add(which % 2)
    elif what == "leave" and len(groups) > 1:
        groups.remove(group)
    elif what == "fail over" or what == "kill":
        if not group.dead:
            fail_over(group, killed=what == "kill")
    elif what == "come back":
        group.dead.clear()
    elif what == "empty":
        group.parts = 0
    elif what == "fill":
        group.parts = 1 + which
    if not any(group.parts for group in groups):
        groups[0].parts = 1
    world.refresh()


@settings(max_examples=100, deadline=None)
@given(CHANGES, INNER)
def test_a_walk_ends_and_visits_every_shard_that_stays(changes: list[tuple[str, int]], inner: list[int]) -> None:
    """And each shard from the first bucket of its primary to the last: another primary is begun anew."""
    world = three()
    begun = list(world.groups)
    complete: set[str] = set()  # groups that were walked from 0 to the end
    reached: dict[str, int] = {}  # group -> how far the walk of its present primary has come
    walked: dict[str, str] = {}  # group -> primary to which `reached` belongs
    cursor, seen, steps = 0, [0], 0
    pending = list(changes)
    while True:
        node, at = world.at(cursor)
        if not node:
            break
        group = next(group for group in world.groups if node in group.members)
        name = group.members[0]
        if at == 0:
            reached[name], walked[name] = 0, node
        assert walked.get(name) == node and reached[name] == at, "buckets were passed over"
        # The node goes on by some buckets, or is at its end.
        far = inner[steps % len(inner)]
        following = at + far if far and at + far < 6 else 0
        cursor = world.step(cursor, following)
        reached[name] = following
        if not following:
            complete.add(name)
        steps += 1
        assert 0 <= cursor < LIMIT
        if cursor == 0:
            break
        seen.append(cursor)
        if pending:
            change(world, *pending.pop(0))
        assert steps < 7 * (len(changes) + 9), "it does not end"
    for group in begun:
        if group in world.groups:
            assert group.members[0] in complete, "a shard was passed over"


@settings(max_examples=100, deadline=None)
@given(CHANGES)
def test_numbers_stay_and_generations_count_the_primaries(changes: list[tuple[str, int]]) -> None:
    world = three()
    number_of: dict[int, Group] = {}
    for what, which in changes:
        before = {shard.number: (shard.node, shard.generation) for shard in shards_of(world.shards)}
        change(world, what, which)
        shards = shards_of(world.shards)
        assert [shard.number for shard in shards] == sorted({shard.number for shard in shards})
        assert {shard.node for shard in shards} == {group.primary for group in world.groups}
        for shard in shards:
            group = next(group for group in world.groups if shard.node == group.primary)
            assert number_of.setdefault(shard.number, group) is group, "a number was given twice"
            if shard.number in before:
                node, generation = before[shard.number]
                assert (node == shard.node) == (generation == shard.generation)

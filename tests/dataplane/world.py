"""A world in which anything may happen between any two steps, and the history that must come out of it nevertheless.

Duty: a seeded scheduler moves bytes, executes commands, migrates slots, refreshes the map from nodes that lag behind,
refuses, drops connections and lets time pass, one random step after the other; then everything becomes quiet, and
`problems` holds the history against the contract:

- replies in order, one for each command; none but in-doubt errors, and these only where connections were dropped;
- commands of one client on one key ran in the order they were sent;
- what was acknowledged ran exactly once, what is in doubt at most once;
- the commands of a MULTI block ran together or not at all;
- nothing is stuck, and no flow or gate is left.

Some commands are sent in MULTI blocks; blocking pops are in `queues`.

Each client has keys of its own (for the order) and shares counters with the others (for "exactly once"). What the
contract excludes does not happen: a node that refused a slot, or had given it away, does not accept it again while a
stream of commands that were sent in good faith is on its way there (of that it would bounce the head and run the tail),
nor while an ASK of its earlier days is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import hiredis

from slotproxy.cluster.topology import Topology
from tests.dataplane.queues import Queues
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import decode, pack
from tests.scripted_node import NodeLink, ScriptedCluster, ScriptedMigration, slot_of
from tests.scripted_strings import SCRIPT, run_on

TAGS = ("a", "b", "f")
IN_DOUBT = "ERR slotproxy: in doubt:"
NO_ANSWER = "ERR slotproxy: no answer:"


class Chaos(NamedTuple):
    """What may happen, beside migrations. `queues`: clients wait in blocking pops."""

    drops: bool = False
    refusals: bool = True
    vanishing: bool = False
    queues: bool = False


class Sent(NamedTuple):
    """A command as sent: its words, and what a lone server with this client's keys would have answered."""

    words: list[bytes]
    expected: Any
    block: list[list[bytes]]  # EXEC's commands


def _plain(sent: Sent, reply: Any) -> Any:
    """A reply without the values of the counters that clients share."""
    if sent.block and isinstance(reply, list):
        return [_plain(Sent(words, None, []), one) for words, one in zip(sent.block, reply, strict=True)]
    shared = len(sent.words) > 1 and sent.words[1].startswith(b"shared") and isinstance(reply, int)
    return "a number" if shared else reply


class Talker:
    """One client, what it has sent and a model of its own keys."""

    def __init__(self, name: str, client: ScriptedClient) -> None:
        self.name = name
        self.client = client
        self.sent: list[Sent] = []
        self.model: dict[bytes, bytes] = {}
        self.block: list[list[bytes]] | None = None  # sent since MULTI
        self.serial = 0
        self.gone = False

    def key(self, letter: str, tag: str) -> bytes:
        """One of its own keys: `n` counts, `s` is appended to, `p`, `q`, `x` and `y` hold the serials of writes."""
        return f"{self.name}:{letter}:{{{tag}}}".encode()

    def say(self, words: list[bytes]) -> bytes:
        """Send a command, and note what a lone server would answer."""
        block: list[list[bytes]] = []
        expected: Any = b"OK"
        if words[0] == b"MULTI":
            self.block = block
        elif words[0] == b"EXEC" and self.block is not None:
            block, self.block = self.block, None
            expected = [self._run(queued) for queued in block]
        elif self.block is not None:
            self.block.append(words)
            expected = b"QUEUED"
        else:
            expected = self._run(words)
        self.sent.append(Sent(words, expected, block))
        return pack(*words)

    def _run(self, words: list[bytes]) -> Any:
        return decode(run_on(self.model, words))[0]

    def effects(self) -> list[tuple[list[bytes], Any]]:
        """Every command that was to run, with its reply; those of a block that failed have EXEC's error."""
        found: list[tuple[list[bytes], Any]] = []
        queued = False
        unanswered = [None] * (len(self.sent) - len(self.client.replies))
        for sent, reply in zip(self.sent, [*self.client.replies, *unanswered], strict=True):
            if sent.words[0] == b"MULTI":
                queued = True
            elif sent.words[0] == b"EXEC":
                queued = False
                replies = reply if isinstance(reply, list) else [reply] * len(sent.block)
                found += zip(sent.block, replies, strict=True)
            elif not queued:
                found.append((sent.words, reply))
        return found

    def waiting(self) -> int:
        return 0 if self.gone else len(self.sent) - len(self.client.replies)


class World:
    """`World(seed, chaos).play()`; then `problems` is empty or says what broke."""

    def __init__(self, seed: int, chaos: Chaos, steps: int = 1500) -> None:
        self.random = random.Random(seed)
        self.chaos = chaos
        self.problems: list[str] = []
        self._steps = steps
        self._rig = Rig(3, owning=2, lanes=self.random.choice([1, 2]), park_timeout=100_000.0, max_in_flight=300)
        self._rig.dialling = self._rig.reading = False
        self._cluster: ScriptedCluster = self._rig.cluster
        self._cluster.before_7 = self.random.random() < 0.3
        self._talkers = [Talker(f"c{number}", self._rig.client()) for number in range(3)]
        self._queues = Queues(self._rig, TAGS, self.random) if chaos.queues else None
        self._migrations: dict[int, ScriptedMigration] = {}
        self._owned: set[tuple[int, str]] = set()  # (slot, node): was its owner once
        self._query: tuple[int, Topology] | None = None  # a refresh under way: the map's version, a node's answer
        self._started: int | None = None
        self._eager = self.random.choice([0.05, 0.3, 1.0])  # how much is executed at once
        self._pace = self.random.choice([1, 5, 30])  # commands per burst
        if self.random.random() < 0.5:
            self._forget_the_empty_node()

    def play(self) -> None:
        actions = self._actions()
        steps, weights = [step for step, _ in actions], [weight for _, weight in actions]
        try:
            for step in self.random.choices(steps, weights, k=self._steps):
                step()
            self._calm_down()
            self._check()
        finally:
            self._rig.close()

    def _actions(self) -> list[tuple[Callable[[], None], float]]:
        pace = self.random.choice([0.3, 1, 3]) * (1 if self._queues is None else 0.1)  # waits begin in calm times
        actions: list[tuple[Callable[[], None], float]] = [
            (self._talk, 12 if self._queues is None else 4), (self._read, 10),
            (self._tick, 40), (self._execute, 40), (self._deliver, 25),
            (self._pass_time, 5), (self._connect, 5), (self._confirm, 3), (self._refresh, 4),
            (self._migrate, 8 * pace), (self._chop, 1),
        ]  # fmt: skip
        if self.chaos.refusals:
            actions.append((self._refuse, 1 * pace))
        if self.chaos.drops:
            actions.append((self._drop, 0.6 * pace))
        if self.chaos.vanishing:
            actions.append((self._vanish, 0.3))
        if self._queues is not None:
            unblocks, connects = self.random.choice([0.5, 6]), self.random.choice([0.5, 15])
            actions += [(self._queues.push, 12), (self._queues.pop, 20), (self._queues.unblock, unblocks)]
            actions += [(self._look, 5), (self._connect, connects), (self._settle, 3)]
            if self.chaos.vanishing:
                actions.append((self._queues.leave, 0.5))
        return actions

    # Clients

    def _talk(self) -> None:
        talker = self.random.choice(self._talkers)
        if talker.gone:
            return
        data = b""
        for _ in range(self.random.randint(1, self._pace)):
            commands = self._command(talker)
            if self.random.random() < 0.1 and not any(words[0] == b"EVAL" for words in commands):
                commands = [[b"MULTI"], *self._block(talker), [b"EXEC"]]
            for words in commands:
                data += talker.say(words)
        talker.client.send_bytes(data)

    def _block(self, talker: Talker) -> list[list[bytes]]:
        """Commands of one slot; `u` and `v` are only written together."""
        tag = self.random.choice(TAGS)
        serial = b"%d" % (talker.serial + 1)
        talker.serial += 1
        n, s, u, v = (talker.key(letter, tag) for letter in "nsuv")
        commands = [[b"SET", u, serial], [b"INCR", n], [b"SET", v, serial], [b"APPEND", s, serial + b";"], [b"GET", n]]
        if self.random.random() < 0.3:
            commands.append([b"INCR", f"shared:{{{tag}}}".encode()])
        return commands

    def _command(self, talker: Talker) -> list[list[bytes]]:
        tag = self.random.choice(TAGS)
        talker.serial += 1
        serial = b"%d" % talker.serial

        def key(letter: str, its: str = tag) -> bytes:
            return talker.key(letter, its)

        return self.random.choices(
            [
                [[b"INCR", key("n")]],
                [[b"INCR", f"shared:{{{tag}}}".encode()]],
                [[b"APPEND", key("s"), serial + b";"]],
                [[b"GET", key("n")]],
                [[b"GET", key("s")]],
                [[b"MSET", key("p"), serial, key("q"), serial]],
                [[b"MSET", *(word for its in TAGS for word in (key("p", its), serial))]],
                [[b"MGET", key("p"), key("q"), key("n"), key("none")]],
                [[b"MGET", *(key(letter, its) for letter in "npq" for its in TAGS)]],
                [[b"SET", key("x"), serial], [b"RENAME", key("x"), key("y")], [b"GET", key("y")]],
                [[b"DEL", key("x"), key("none")], [b"EXISTS", key("p"), key("x")]],
                [[b"EVAL", SCRIPT.encode(), b"1", key("n")]],
                [[b"EVAL", SCRIPT.encode(), b"1", key("n"), b"MOVED %d 10.9.9.9:1" % slot_of(key("n"))]],
            ],
            [30, 8, 15, 8, 8, 3, 2, 3, 3, 1, 1, 1, 0.5],
        )[0]

    def _read(self) -> None:
        talker = self.random.choice(self._talkers)
        talker.client.pump()
        talker.client.read()

    def _vanish(self) -> None:
        talker = self.random.choice(self._talkers[1:])
        talker.gone = True
        talker.client.vanish()

    def _chop(self) -> None:
        """Change how much a connection takes or gives at once."""
        sock = self.random.choice(self._rig.sockets)
        sock.chunk = self.random.choice([None, 1, 7, 100])
        sock.room = None

    # The proxy

    def _tick(self) -> None:
        for talker in self._talkers:
            talker.client.pump()
        if self._queues is not None:
            self._queues.pump()
        self._rig.tick()

    def _settle(self) -> None:
        """Nothing is in the way for once."""
        for talker in self._talkers:
            talker.client.pump()
        for _ in range(3):
            self._rig.tick()
            self._cluster.serve()

    def _look(self) -> None:
        """A node looks after those who wait there."""
        self.random.choice(self._cluster.nodes).look_at_waiting()

    def _pass_time(self) -> None:
        self._rig.clock.now += self.random.choice([0.0001, 0.002, 0.05, 0.3, 3.0])

    def _connect(self) -> None:
        if self._rig.control.dials:
            lane = self._rig.control.dials.pop(self.random.randrange(len(self._rig.control.dials)))
            if not lane.retired:
                self._rig.connect_lane(lane)

    def _confirm(self) -> None:
        pending = self._rig.control.confirmations
        if pending:
            self.random.shuffle(pending)
            self._rig.confirm(genuine=b"10.9.9.9:1" not in pending[0][3])

    def _refresh(self) -> None:
        """A refresh takes three steps: it starts, a node answers from its own view, the answer is applied."""
        rig = self._rig
        if self._started is None:
            if rig.control.refreshes or self.random.random() < 0.2:
                rig.control.refreshes.clear()
                self._started = rig.plane.router.slot_map.version
        elif self._query is None:
            self._query = (self._started, self.random.choice(self._cluster.nodes).topology())
        else:
            started, topology = self._query
            self._started = self._query = None
            rig.plane.apply(topology, started)
            rig.plane.refreshed()

    def _forget_the_empty_node(self) -> None:
        """The proxy has not heard of the third node, as when it has just joined."""
        topology = self._cluster.nodes[0].topology()
        infos = {id: info for id, info in topology.nodes.items() if id != self._cluster.nodes[2].id}
        self._rig.refresh(topology=Topology(infos, topology.ranges, {}, "test"))

    # Nodes

    def _links(self) -> list[NodeLink]:
        return [link for node in self._cluster.nodes for link in node.open_links()]

    def _execute(self) -> None:
        link = self.random.choice(self._links() or [None])
        if link is None:
            return
        link.receive()
        while link.can_execute():
            link.execute()
            if self.random.random() > self._eager:
                break

    def _deliver(self) -> None:
        link = self.random.choice(self._links() or [None])
        if link is not None:
            link.send(self.random.choice([None, None, None, 1, 10, 200]))

    def _refuse(self) -> None:
        node = self.random.choice(self._cluster.nodes)
        if not node.down and not node.loading:
            node.down = self.random.random() < 0.5
            node.loading = not node.down
        elif not self._rig.streams_to(node):
            node.down = node.loading = False

    def _drop(self) -> None:
        rig = self._rig
        how = self.random.randrange(3)
        if how == 0:  # the node closes, if possible with something that it had to say
            links = self._links()
            link = self.random.choice([link for link in links if link.outbox] or links or [None])
            if link is not None:
                link.drop()
        elif how == 1:  # the proxy's side breaks; what it had sent can still run
            socks = [sock for sock in rig.sockets if sock.fileno() >= 0 and sock not in self._client_ends()]
            if socks:
                self.random.choice(socks).cut = self.random.choice([0, 0, 5, 100])
        else:
            node = self.random.choice(self._cluster.nodes)
            others = ["GET", "MSET"] if self._queues is None else ["LPOP", "BLPOP", "EXISTS", "RPUSH"]
            node.drop_at(self.random.choice(["INCR", "EXEC", *others]), runs=self.random.random() < 0.5)

    def _client_ends(self) -> list[Any]:
        ends = [talker.client.proxy_end for talker in self._talkers]
        return ends if self._queues is None else ends + self._queues.ends()

    # Migrations

    def _migrate(self) -> None:
        slot = slot_of(b"{%b}" % self.random.choice(TAGS).encode())
        migration = self._migrations.get(slot)
        if migration is None:
            self._begin(slot)
        elif migration.left():
            migration.move(*self.random.sample(migration.left(), 1))
        else:
            self._finish_some(slot, migration)

    def _begin(self, slot: int) -> None:
        nodes = self._cluster.nodes
        source = next(node for node in nodes if node.owner(slot) is node)
        target = self.random.choice([node for node in nodes if node is not source])
        returns = (slot, target.name) in self._owned
        if returns and self._rig.in_flight(slot):
            return
        self._owned |= {(slot, source.name), (slot, target.name)}
        self._migrations[slot] = migration = self._cluster.migration(slot, source, target)
        migration.returns = returns

    def _finish_some(self, slot: int, migration: ScriptedMigration) -> None:
        source_done = migration.source.owner(slot) is not migration.source
        target_done = migration.target.owner(slot) is migration.target
        if source_done and target_done:
            migration.finish_others()
            del self._migrations[slot]
        elif target_done or (not source_done and self.random.random() < 0.5):
            migration.finish_source()
        elif not migration.returns or not self._rig.streams_to(migration.target, slot):
            migration.finish_target()

    # The end

    def _calm_down(self) -> None:
        rig = self._rig
        rig.dialling = rig.reading = True
        for sock in rig.sockets:
            sock.chunk = sock.room = sock.cut = None
        for node in self._cluster.nodes:
            node.forget_rules()
        rig.run()  # nothing is on its way to a node any more
        for node in self._cluster.nodes:
            node.down = node.loading = False
        for slot, migration in list(self._migrations.items()):
            migration.move()
            while slot in self._migrations:
                self._finish_some(slot, migration)
        for _ in range(40):
            rig.advance(0.5, step=0.1)
            while rig.control.confirmations:
                self._confirm()
            rig.refresh()
        rig.advance(75, step=30.0)

    def _check(self) -> None:
        if self._queues is not None:
            self._queues.pump()
            self.problems += self._queues.problems(self._cluster, self.chaos.drops)
            self._queues.close()
            self._rig.advance(30, step=5.0)
        self.problems += self._rig.left_over()
        for talker in self._talkers:
            if talker.gone:
                continue
            if talker.waiting():
                self.problems.append(f"{talker.name}: {talker.waiting()} commands were not answered")
            elif self.chaos.drops:
                self._check_bounds(talker)
            else:
                self._check_exactly(talker)
        self._check_shared()
        self._check_blocks()

    def _check_exactly(self, talker: Talker) -> None:
        for number, (sent, reply) in enumerate(zip(talker.sent, talker.client.replies, strict=True)):
            if str(_plain(sent, reply)) != str(_plain(sent, sent.expected)):
                self.problems.append(
                    f"{talker.name}: {number}: {sent.words} was answered {reply!r}, not {sent.expected!r}"
                )

    def _check_shared(self) -> None:
        for tag in TAGS:
            key = f"shared:{{{tag}}}".encode()
            counted: list[int] = []
            doubtful = 0
            for talker in self._talkers:
                for words, reply in talker.effects():
                    if words[1] == key:
                        if isinstance(reply, int):
                            counted.append(reply)
                        else:
                            doubtful += 1
            value = int(self._cluster.value(key) or b"0")
            if len(set(counted)) != len(counted) or any(not 0 < count <= value for count in counted):
                self.problems.append(f"{key!r}: acknowledged twice or never counted: {sorted(counted)}, now {value}")
            if not len(counted) <= value <= len(counted) + doubtful:
                self.problems.append(f"{key!r} is {value}: {len(counted)} acknowledged, {doubtful} in doubt")

    def _check_blocks(self) -> None:
        for talker in self._talkers:
            for tag in TAGS:
                u, v = self._cluster.value(talker.key("u", tag)), self._cluster.value(talker.key("v", tag))
                if u != v:
                    self.problems.append(f"{talker.name}: half of a block ran: {u!r} and {v!r}")

    def _check_bounds(self, talker: Talker) -> None:
        History(talker, self.problems).check()


class History:
    """What one client with in-doubt writes must have seen: for each of its keys, a window of possible states."""

    def __init__(self, talker: Talker, problems: list[str]) -> None:
        self._talker = talker
        self._problems = problems
        self._least: dict[bytes, int] = {}  # counters: INCRs that ran for sure; serials: the last that ran for sure
        self._most: dict[bytes, int] = {}  # ... and what may have run
        self._number = 0

    def check(self) -> None:
        for number, (words, reply) in enumerate(self._talker.effects()):
            self._number = number
            if words[1].startswith(b"shared"):
                self._check_error(words, reply)
            else:
                self._take(words, reply)

    def _complain(self, words: list[bytes], reply: Any) -> None:
        window = {key: (self._least.get(key, 0), self._most.get(key, 0)) for key in words[1:]}
        self._problems.append(f"{self._talker.name}: {self._number}: {words} was answered {reply!r}; window {window}")

    def _check_error(self, words: list[bytes], reply: Any) -> bool:
        """Whether it is an error; one that may not be is a problem."""
        if not isinstance(reply, hiredis.ReplyError):
            return False
        text = str(reply)
        name = words[0]
        forged = name == b"EVAL" and len(words) > 4 and text == words[4].decode()
        reads = name in (b"GET", b"MGET", b"EXISTS")
        renamed = name == b"RENAME" and text == "ERR no such key"
        in_block = text.startswith(f"{IN_DOUBT} EXEC ")
        if not (forged or renamed or in_block or text.startswith(NO_ANSWER if reads else IN_DOUBT)):
            self._complain(words, reply)
        return not forged

    def _take(self, words: list[bytes], reply: Any) -> None:
        failed = self._check_error(words, reply)
        name = words[0]
        if name in (b"INCR", b"EVAL"):
            self._count(words[1] if name == b"INCR" else words[3], reply, words, failed)
        elif name == b"APPEND":
            self._wrote(words[1], int(words[2][:-1]), failed)
        elif name == b"MSET":
            for key, serial in zip(words[1::2], words[2::2], strict=True):
                self._wrote(key, int(serial), failed)
        elif name == b"SET":
            self._wrote(words[1], int(words[2]), failed)
        elif name in (b"GET", b"MGET") and not failed:
            for key, value in zip(words[1:], [reply] if name == b"GET" else reply, strict=True):
                self._saw(key, value, words, reply)

    def _count(self, key: bytes, reply: Any, words: list[bytes], failed: bool) -> None:
        least, most = self._least.get(key, 0), self._most.get(key, 0) + 1
        if isinstance(reply, int):
            if not least + 1 <= reply <= most:
                self._complain(words, reply)
            least, most = reply, reply
        elif not failed:  # a forged redirect: it ran
            least += 1
        self._least[key], self._most[key] = least, most

    def _wrote(self, key: bytes, serial: int, failed: bool) -> None:
        self._most[key] = serial
        if not failed:
            self._least[key] = serial

    def _saw(self, key: bytes, value: bytes | None, words: list[bytes], reply: Any) -> None:
        letter = key.split(b":")[1]
        if letter in (b"x", b"y", b"none"):
            return
        if letter == b"s":
            serials = [int(word) for word in (value or b"").split(b";") if word]
            if serials != sorted(set(serials)):
                self._complain(words, reply)
            seen = serials[-1] if serials else 0
        else:
            seen = int(value or b"0")
        least, most = self._least.get(key, 0), self._most.get(key, 0)
        if not least <= seen <= most:
            self._complain(words, reply)
        self._least[key] = max(least, seen)
        if letter == b"n":
            self._most[key] = min(most, seen)

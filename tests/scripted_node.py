"""Scripted Redis Cluster nodes for tests of the data plane: synchronous, in this process, without real time.

Duty: say about slots, word by word, what a server says (7.0.15, or 6.2.14): MOVED, ASK, TRYAGAIN, CLUSTERDOWN,
CROSSSLOT, LOADING, ASKING for one command. `tests/test_scripted_node.py` plays one playbook to it and to real servers.

Each connection is one end of a socket pair; the other end is what `ScriptedNode.connect` returns. Nothing happens by
itself: a connection reads (`receive`), executes one command (`execute`) and sends (`send`) when it is told to, so a
test chooses every interleaving; `serve` does all three for all connections until nothing is left.

Invariants: every node has its own view of who owns a slot, which only CLUSTER SETSLOT (and `ScriptedCluster`) changes;
`executed` holds exactly what ran and changed or read data, in the order in which it ran: a command that waited stands
where it got something. What commands do to keys: `tests/scripted_strings.py` and `tests/scripted_lists.py`; no
replicas, no expiry.
"""

from __future__ import annotations

import binascii
import hashlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import hiredis

from slotproxy.cluster.topology import NodeInfo, Topology
from tests import scripted_lists, scripted_pubsub
from tests.scripted_frames import NIL, NO_ARRAY, OK, array, bulk, error
from tests.scripted_lists import DEMOTED, UNBLOCKED, WRONG_TYPE, Remembered, Waits
from tests.scripted_strings import COMMANDS, OF_STRINGS, READS, SCRIPTS
from tests.watched_socket import WatchedSocket, socket_pair

SLOTS: Final = 16384
HOST: Final = "127.0.0.1"


def slot_of(key: bytes) -> int:
    """The key's hash slot, as the specification writes it down; deliberately not the proxy's."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


class Executed(NamedTuple):
    """One command that ran. `connection` is the CLIENT ID of the connection it came on."""

    connection: int
    words: tuple[bytes, ...]
    reply: bytes


class Rule:
    """What a test told a node to do with the next `times` commands called `name`."""

    def __init__(self, name: str, times: int, reply: bytes | None, runs: bool, drop: bool) -> None:
        self.name = name.upper().encode()
        self.times = times
        self.reply = reply
        self.runs = runs
        self.drop = drop


class NodeLink:
    """The node's end of one connection. `id` is what CLIENT ID says."""

    def __init__(self, node: ScriptedNode, sock: socket.socket, id: int) -> None:
        self.node = node
        self.id = id
        self.inbox: deque[list[bytes]] = deque()  # received, not executed
        self.outbox = b""  # executed, not sent
        self.received: list[list[bytes]] = []  # every command that came in, ASKING and refused ones too
        self.closed = False
        self._ended = False  # the other side has closed; what it sent before still runs
        self._socket = sock
        self._reader = hiredis.Reader()
        self.memory = Remembered()
        self.behind = b""  # to be sent behind the reply to the command that is executed
        self.protocol = 2  # RESP version; of RESP3 it knows the null
        self.user = ""  # as whom it has logged in, for tests only: "" is the proxy's own
        self.topics: dict[tuple[bytes, bytes], None] = {}  # subscribed: letter of the kind, name
        self._asking = False
        self._block: list[tuple[list[bytes], Rule | None]] | None = None  # between MULTI and EXEC
        self._aborted = False

    def receive(self) -> int:
        """Take what has arrived. Returns how many commands are complete that were not before; the end counts as one."""
        count = 0
        while not self.closed and not self._ended:
            try:
                data = self._socket.recv(65_536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._ended = True
                count += 1
                self._end()
                break
            self._reader.feed(data)
            while (words := self._reader.gets()) is not False:
                assert isinstance(words, list), words
                self.inbox.append(words)
                self.received.append(words)
                count += 1
        return count

    def can_execute(self) -> bool:
        """Whether there is a command, and none before it that waits."""
        return bool(self.inbox) and self.memory.waits is None

    def execute(self) -> None:
        """Run the oldest command that was received; its reply goes to `outbox`."""
        self._run(self.inbox.popleft())
        self.node.serve_waiting()
        self._end()

    def _end(self) -> None:
        if self._ended and not self.can_execute():  # also one that waits
            self.send()  # the server frees a client when what it had answered is written
            self.drop()

    def _run(self, words: list[bytes]) -> None:
        asking = self._asking
        name = words[0].upper()
        if self._block is None and name != b"MULTI":  # it holds until after EXEC
            self._asking = name == b"ASKING"
        rule = self.node.rule_for(words)
        if rule is not None and rule.drop:
            if rule.runs:
                self._reply_to(name, words, None, asking)
            self.drop()
            return
        reply = self._reply_to(name, words, rule, asking)
        self.outbox += reply + self.behind
        self.behind = b""
        if self._block is None and name not in (b"CLIENT", b"MULTI"):
            self.memory.caching = b""

    def tell(self, data: bytes, by: NodeLink | None) -> None:
        """Say what nobody asked for; to the connection whose command it comes from, behind the reply."""
        if by is self:
            self.behind += data
        else:
            self.outbox += data

    def _reply_to(self, name: bytes, words: list[bytes], rule: Rule | None, asking: bool) -> bytes:
        if self._block is not None or name == b"MULTI":
            return self._in_block(name, words, rule, asking)
        if rule is None:
            return self.node.run(self, words, asking)
        reply = self.node.run(self, words, asking) if rule.runs else b""
        return reply if rule.reply is None else rule.reply

    def _in_block(self, name: bytes, words: list[bytes], rule: Rule | None, asking: bool) -> bytes:
        """multi.c: commands are checked when they are queued, and once more, all together, at EXEC."""
        if rule is not None and not rule.runs and rule.reply is not None and name in (b"MULTI", b"EXEC"):
            if rule.reply.startswith(b"-EXECABORT"):
                self._block = None
            return rule.reply
        if self._block is None:
            self._block, self._aborted = [], False
            return OK
        if name != b"EXEC":
            refused = rule.reply if rule is not None and not rule.runs else self.node.refusal_of(words, asking)
            if refused:
                self._aborted = True
                return refused
            self._block.append((words, rule))
            return b"+QUEUED\r\n"
        block, self._block, self._asking = self._block, None, False
        dirty = self.memory.dirty
        self.memory.unwatch()
        if refused := self.node.refusal_of_block([queued for queued, _ in block], asking):
            return refused
        if self._aborted:
            return error("EXECABORT Transaction discarded because of previous errors.")
        if dirty:
            return NO_ARRAY
        replies = []
        for queued, rule in block:
            reply = self.node.run(self, queued, asking, waiting=False)
            replies.append(rule.reply if rule is not None and rule.reply is not None else reply)
        return array(replies)

    def send(self, size: int | None = None) -> int:
        """Send up to `size` bytes of what is in `outbox`; how many were sent."""
        if self.closed or not self.outbox:
            return 0
        if self.protocol == 3:
            self.outbox = self.outbox.replace(b"$-1\r\n", b"_\r\n").replace(b"*-1\r\n", b"_\r\n")
        try:
            sent = self._socket.send(self.outbox if size is None else self.outbox[:size])
        except BlockingIOError:
            return 0
        except OSError:
            self.drop()
            return 0
        self.outbox = self.outbox[sent:]
        return sent

    def say(self, data: bytes) -> None:
        """Send bytes that nobody asked for, behind what is in `outbox`."""
        self.outbox += data
        self.send()

    def drop(self) -> None:
        """Close. What was received and not executed never runs; what is in `outbox` is lost."""
        if not self.closed:
            self.closed = True
            self.memory = Remembered()
            if self in self.node.waiting:
                self.node.waiting.remove(self)
            self.inbox.clear()
            self.outbox = b""
            self._socket.close()


class ScriptedNode:
    """One primary. `keys` is its data; `migrating` and `importing` map slots to the other node."""

    def __init__(self, cluster: ScriptedCluster, name: str, port: int) -> None:
        self.cluster = cluster
        self.name = name
        self.id = (name.encode().hex() + "0" * 40)[:40]
        self.port = port
        self.keys: dict[bytes, bytes] = {}
        self.owners: dict[int, ScriptedNode | None] = {}  # where its view differs from the cluster's first layout
        self.migrating: dict[int, ScriptedNode] = {}
        self.importing: dict[int, ScriptedNode] = {}
        self.down = False  # cluster state: fail
        self.loading = False
        self.replica = False  # to WAIT
        self.holding = False  # `serve` executes and keeps the replies
        self.stopped = False  # `serve` does nothing: a silent node
        self.links: list[NodeLink] = []
        self.executed: list[Executed] = []
        self.scripts: set[bytes] = set()  # SHA1s of the scripts that it has
        self.functions: set[bytes] = set()  # each does what `SCRIPT` does
        self.waiting: list[NodeLink] = []  # blocked, the first one first
        self._rules: list[Rule] = []
        self._last_id = 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    # Connections

    def connect(self) -> WatchedSocket:
        """A new connection; returns the client's end."""
        theirs, ours = socket_pair()
        self._last_id += 1
        self.links.append(NodeLink(self, ours, self._last_id))
        return theirs

    @property
    def last_id(self) -> int:
        """CLIENT ID of the newest connection."""
        return self._last_id

    def open_links(self) -> list[NodeLink]:
        return [link for link in self.links if not link.closed]

    def received(self) -> list[list[bytes]]:
        """Every command that came in, connection by connection."""
        return [words for link in self.links for words in link.received]

    def serve(self) -> int:
        """Receive, execute and send as far as possible; returns how many commands and bytes moved."""
        if self.stopped:
            return 0
        moved = 0
        for link in self.links:
            if link.closed:
                continue
            moved += link.receive()
            while link.can_execute():
                link.execute()
                moved += 1
            if not self.holding:
                moved += link.send()
        return moved + self.look_at_waiting()

    def drop_links(self) -> None:
        for link in self.links:
            link.drop()

    # Scripting

    def answer(self, name: str, reply: bytes, times: int = 1, runs: bool = False) -> None:
        """Answer the next `times` commands called `name` with `reply`; they run first only if `runs`."""
        self._rules.append(Rule(name, times, reply, runs, drop=False))

    def drop_at(self, name: str, runs: bool, times: int = 1) -> None:
        """Close the connection at the next command called `name`, before or after it ran."""
        self._rules.append(Rule(name, times, None, runs, drop=True))

    def forget_rules(self) -> None:
        self._rules.clear()

    def rule_for(self, words: list[bytes]) -> Rule | None:
        for rule in self._rules:
            if rule.name == words[0].upper():
                rule.times -= 1
                if rule.times == 0:
                    self._rules.remove(rule)
                return rule
        return None

    # What a server does

    def owner(self, slot: int) -> ScriptedNode | None:
        """Who owns `slot`, in this node's opinion."""
        return self.owners[slot] if slot in self.owners else self.cluster.layout(slot)

    def run(self, link: NodeLink, words: list[bytes], asking: bool, waiting: bool = True) -> bytes:
        """Execute one command as a server does; returns its reply, b"" when it waits (if it may: `waiting`)."""
        name = words[0].upper()
        if name == b"ASKING":
            return OK
        if name == b"CLUSTER":
            return self._cluster([word.decode() for word in words])
        if name == b"MIGRATE":
            return self._migrate(words)
        if name == b"CLIENT":
            return self._client(link, words)
        if name == b"UNWATCH":
            link.memory.unwatch()
            return OK
        if name == b"WAIT":
            return error("ERR WAIT cannot be used with replica instances.") if self.replica else b":0\r\n"
        if name in scripted_pubsub.COMMANDS:
            return self._without_slot(name, words) or scripted_pubsub.run(link, name, words)
        if name == b"MONITOR":
            link.memory.monitors = True
            return OK
        if refusal := self.refusal_of(words, asking):
            return refusal
        if missing := self._missing_code(name, words):
            return missing
        if name == b"WATCH":
            link.memory.watched.update(words[1:])
            return OK
        seconds = scripted_lists.patience(words) if waiting else None
        if seconds is not None:
            words = scripted_lists.fixed(self.keys, words)
        reply = self._apply(link, words, reading=link.memory.reads())
        if seconds is not None and reply in (NIL, NO_ARRAY):
            deadline = self.cluster.clock() + seconds if seconds else None
            link.memory.waits = Waits(words, COMMANDS[name][0](words), deadline)
            self.waiting.append(link)
            return b""
        self.executed.append(Executed(link.id, tuple(words), reply))
        for other in self.open_links():
            if other.memory.monitors:
                other.outbox += b"+1.5 [0 10.0.0.1:1] " + b" ".join(b'"%b"' % word for word in words) + b"\r\n"
        return reply

    def _apply(self, link: NodeLink, words: list[bytes], reading: bool = False) -> bytes:
        """What the command does to the data, and who is told of it."""
        name = words[0].upper()
        keys, body = COMMANDS[name]
        before = dict.fromkeys(self.keys) if name == b"FLUSHALL" else {}
        concerned = [key for key in keys(words) if key in self.keys]
        if name in OF_STRINGS and any(type(self.keys[key]) is not bytes for key in concerned):
            return WRONG_TYPE
        reply = body(self.keys, words)
        if name in READS:
            if reading:
                link.memory.tracked.update(keys(words))
        elif reply[0] != 0x2D or name in SCRIPTS:
            for key in dict.fromkeys([*concerned, *(key for key in keys(words) if key in self.keys)]):
                self.touch(key, link)
        if name == b"FLUSHALL":
            for other in self.open_links():
                self.tell_of(other, other.memory.flushed(list(before)), link)
        return reply

    # Connections that wait, watch or are told

    def touch(self, key: bytes, by: NodeLink | None = None) -> None:
        """A key has changed: whoever watches it will know, whoever has read it on a tracking connection is told."""
        for link in self.open_links():
            self.tell_of(link, link.memory.changed(key, None if by is None else by.memory), by)

    def tell_of(self, link: NodeLink, data: bytes, by: NodeLink | None) -> None:
        """Say something that a connection is to know, to the one that REDIRECT names if it does."""
        redirect = link.memory.redirect
        for target in self.open_links():
            if data and target.id == (redirect or link.id):
                target.tell(data, by)

    def serve_waiting(self) -> None:
        """Give what there is now to the connections that wait for it, the one that has waited longest first."""
        for link in self.waiting[:]:
            waits = link.memory.waits
            assert waits is not None
            reply = self._apply(link, waits.words)
            if reply not in (NIL, NO_ARRAY, WRONG_TYPE):
                self.executed.append(Executed(link.id, tuple(waits.words), reply))
                self._unblock(link, reply)

    def look_at_waiting(self) -> int:
        """What a server does every now and then: time out, and redirect those whose slot has gone. How many ended."""
        ended = 0
        for link in self.waiting[:]:
            waits = link.memory.waits
            assert waits is not None
            slot = slot_of(waits.keys[0])
            owner = self.owner(slot)
            if waits.deadline is not None and self.cluster.clock() >= waits.deadline:
                self._unblock(link, NO_ARRAY)
            elif self.down:
                self._unblock(link, error("CLUSTERDOWN The cluster is down"))
            elif owner is not self and owner is not None and slot not in self.importing:
                self._unblock(link, error(f"MOVED {slot} {owner.address}"))
            else:
                continue
            ended += 1
        return ended

    def demote(self) -> None:
        """It becomes a replica: who waits is told, and hung up on. Who owns its slots is the test's to say."""
        for link in self.force_unblock():
            link.send()
            link.drop()

    def force_unblock(self) -> list[NodeLink]:
        """Who waits is told that it is no primary any more, and is to be hung up on."""
        links = self.waiting[:]
        for link in links:
            self._unblock(link, DEMOTED)
        return links

    def _unblock(self, link: NodeLink, reply: bytes) -> None:
        self.waiting.remove(link)
        link.memory.waits = None
        link.outbox += reply

    def _client(self, link: NodeLink, words: list[bytes]) -> bytes:
        what = words[1].upper()
        if what == b"ID":
            return b":%d\r\n" % link.id
        if what == b"TRACKING":
            link.memory.track(words)
            return OK
        if what == b"CACHING":
            link.memory.caching = words[2].upper()
            return OK
        if what == b"INFO":
            return bulk(b"id=%d flags=%b multi=-1\n" % (link.id, b"d" if link.memory.dirty else b"N"))
        found = [one for one in self.open_links() if b"%d" % one.id in words[2:4]]
        if what == b"KILL":
            for one in found:
                one.drop()
            return b":%d\r\n" % len(found)
        assert what == b"UNBLOCK", words
        found = [one for one in found if one.memory.waits is not None]
        for one in found:
            self._unblock(one, UNBLOCKED if words[-1].upper() == b"ERROR" else NO_ARRAY)
        return b":%d\r\n" % len(found)

    # Refusing

    def refusal_of_block(self, block: list[list[bytes]], asking: bool) -> bytes:
        """Why a block is not executed: at EXEC the keys of all its commands are looked at together."""
        keys = [key for words in block for key in COMMANDS[words[0].upper()][0](words)]
        if keys and (refusal := self._refusal(keys, asking)):
            return refusal
        loading = "EXECABORT Transaction discarded because of: LOADING Redis is loading the dataset in memory"
        return error(loading) if self.loading else b""

    def refusal_of(self, words: list[bytes], asking: bool) -> bytes:
        """server.c, processCommand: why a command is not executed, or queued; empty when it is."""
        name = words[0].upper()
        if name == b"EXEC":
            return error("ERR EXEC without MULTI")
        if name not in COMMANDS:
            return error(f"ERR unknown command '{words[0].decode()}', with args beginning with: ")
        keys = COMMANDS[name][0](words)
        if keys and (refusal := self._refusal(keys, asking)):
            return refusal
        return error("LOADING Redis is loading the dataset in memory") if self.loading else b""

    def _without_slot(self, name: bytes, words: list[bytes]) -> bytes:
        """Shard channels are never ASKed: the owner of the slot has them, also while it migrates."""
        owner = self.owner(slot_of(words[1])) if name in scripted_pubsub.SHARDED else self
        if owner is None:
            return error("CLUSTERDOWN Hash slot not served")
        return b"" if owner is self else error(f"MOVED {slot_of(words[1])} {owner.address}")

    def _missing_code(self, name: bytes, words: list[bytes]) -> bytes:
        """script.c, function.c; empty when there is the code. EVAL brings its own."""
        if name == b"EVAL":
            self.scripts.add(hashlib.sha1(words[1]).hexdigest().encode())
        elif name == b"EVALSHA" and words[1].lower() not in self.scripts:
            return error("NOSCRIPT No matching script. Please use EVAL.")
        elif name == b"SCRIPT":
            self.scripts.clear()
        elif name == b"FCALL" and words[1].lower() not in self.functions:
            return error("ERR Function not found")
        return b""

    def _refusal(self, keys: list[bytes], asking: bool) -> bytes:
        """cluster.c, getNodeByQuery; empty when the command may run here."""
        slot = slot_of(keys[0])
        owner = self.owner(slot)
        if owner is None:
            return error("CLUSTERDOWN Hash slot not served")
        if any(slot_of(key) != slot for key in keys):
            return error("CROSSSLOT Keys in request don't hash to the same slot")
        if self.down:
            return error("CLUSTERDOWN The cluster is down")
        several = len(set(keys)) > 1
        missing = [key for key in keys if key not in self.keys]
        if owner is self and slot in self.migrating and missing:
            if len(missing) < len(keys) and not self.cluster.before_7:
                return error("TRYAGAIN Multiple keys request during rehashing of slot")
            return error(f"ASK {slot} {self.migrating[slot].address}")
        if owner is not self and slot in self.importing and asking:
            if several and missing:
                return error("TRYAGAIN Multiple keys request during rehashing of slot")
            return b""
        return b"" if owner is self else error(f"MOVED {slot} {owner.address}")

    def _cluster(self, words: list[str]) -> bytes:
        if words[1].upper() == "GETKEYSINSLOT":
            found = [key for key in self.keys if slot_of(key) == int(words[2])]
            return array([bulk(key) for key in found[: int(words[3])]])
        assert words[1].upper() == "SETSLOT", words
        slot, what = int(words[2]), words[3].upper()
        if what == "STABLE":
            self.migrating.pop(slot, None)
            self.importing.pop(slot, None)
            return OK
        other = self.cluster.by_id(words[4])
        if what == "MIGRATING":
            if self.owner(slot) is not self:
                return error(f"ERR I'm not the owner of hash slot {slot}")
            self.migrating[slot] = other
        elif what == "IMPORTING":
            if self.owner(slot) is self:
                return error(f"ERR I'm already the owner of hash slot {slot}")
            self.importing[slot] = other
        else:
            holds = any(slot_of(key) == slot for key in self.keys)
            if self.owner(slot) is self and other is not self and holds:
                return error(
                    f"ERR Can't assign hashslot {slot} to a different node while I still hold keys for this hash slot."
                )
            if not holds:
                self.migrating.pop(slot, None)
            if other is self:
                self.importing.pop(slot, None)
            self.owners[slot] = other
        return OK

    def _migrate(self, words: list[bytes]) -> bytes:
        """MIGRATE host port "" 0 timeout KEYS key ...; the target takes keys only of slots it owns or imports."""
        target = self.cluster.by_port(int(words[2]))
        keys = [key for key in words[7:] if key in self.keys]
        for key in keys:
            assert target.owner(slot_of(key)) is target or slot_of(key) in target.importing
            self.give(key, target)
        return OK if keys else b"+NOKEY\r\n"

    def give(self, key: bytes, target: ScriptedNode) -> None:
        """Move a key."""
        target.keys[key] = self.keys.pop(key)
        self.touch(key)
        target.touch(key)
        target.serve_waiting()

    def topology(self) -> Topology:
        """What this node says about the cluster, decoded."""
        owners = [self.owner(slot) for slot in range(SLOTS)]
        ranges: list[tuple[int, int, str]] = []
        first = 0
        for slot in range(1, SLOTS + 1):
            if slot == SLOTS or owners[slot] is not owners[first]:
                owner = owners[first]
                if owner is not None:
                    ranges.append((first, slot - 1, owner.id))
                first = slot
        infos = {node.id: node.info() for node in self.cluster.nodes}
        migrating = {slot: target.id for slot, target in self.migrating.items()}
        return Topology(infos, ranges, migrating, self.address)

    def info(self) -> NodeInfo:
        return NodeInfo(self.id, HOST, self.port, True, False, frozenset({(HOST, self.port)}))


class ScriptedCluster:
    """Nodes named A, B, C, …; the first `owning` of them share the slots in equal, consecutive ranges."""

    def __init__(self, count: int = 2, owning: int | None = None) -> None:
        self.clock: Callable[[], float] = lambda: 0.0  # seconds
        self.before_7 = False  # Redis 6.2: a migrating source that has some of the keys says ASK, not TRYAGAIN
        self.nodes = [ScriptedNode(self, chr(ord("A") + index), 7001 + index) for index in range(count)]
        self._owning = count if owning is None else owning

    def layout(self, slot: int) -> ScriptedNode:
        """Who owned `slot` at first."""
        return self.nodes[slot * self._owning // SLOTS]

    def by_id(self, id: str) -> ScriptedNode:
        return next(node for node in self.nodes if node.id == id)

    def by_port(self, port: int) -> ScriptedNode:
        return next(node for node in self.nodes if node.port == port)

    def serve(self) -> int:
        return sum(node.serve() for node in self.nodes)

    def executed(self) -> list[Executed]:
        """Node by node."""
        return [entry for node in self.nodes for entry in node.executed]

    def value(self, key: bytes) -> bytes | None:
        """The key's value wherever it is; it is at most at one node."""
        found = [node.keys[key] for node in self.nodes if key in node.keys]
        assert len(found) < 2, f"{key!r} is at several nodes"
        return found[0] if found else None

    def own(self, slot: int, owner: ScriptedNode | None) -> None:
        """All nodes agree at once."""
        for node in self.nodes:
            node.owners[slot] = owner
            node.migrating.pop(slot, None)
            node.importing.pop(slot, None)
            if owner is not node:
                scripted_pubsub.take_away(node, lambda name: slot_of(name) == slot)

    def migration(self, slot: int, source: ScriptedNode, target: ScriptedNode) -> ScriptedMigration:
        """Begin to move a slot: IMPORTING at the target, MIGRATING at the source."""
        migration = ScriptedMigration(self, slot, source, target)
        migration.open()
        return migration


class ScriptedMigration:
    """One slot on its way, step by step."""

    def __init__(self, cluster: ScriptedCluster, slot: int, source: ScriptedNode, target: ScriptedNode) -> None:
        self.slot = slot
        self.source = source
        self.target = target
        self.returns = False  # for the test's own notes: the target has had the slot before
        self._cluster = cluster

    def open(self) -> None:
        self.target.importing[self.slot] = self.source
        self.source.migrating[self.slot] = self.target

    def move(self, *keys: bytes) -> None:
        """Move these keys, or all that the source has."""
        for key in keys or [key for key in self.source.keys if slot_of(key) == self.slot]:
            if key in self.source.keys:
                self.source.give(key, self.target)

    def left(self) -> list[bytes]:
        """Keys still at the source."""
        return [key for key in self.source.keys if slot_of(key) == self.slot]

    def finish_source(self) -> None:
        """SETSLOT NODE at the source, which must be empty."""
        assert not self.left()
        self.source.owners[self.slot] = self.target
        self.source.migrating.pop(self.slot, None)
        scripted_pubsub.take_away(self.source, lambda name: slot_of(name) == self.slot)

    def finish_target(self) -> None:
        """SETSLOT NODE at the target."""
        self.target.owners[self.slot] = self.target
        self.target.importing.pop(self.slot, None)

    def finish_others(self) -> None:
        for node in self._cluster.nodes:
            if node is not self.source and node is not self.target:
                node.owners[self.slot] = self.target

    def finish(self, source_first: bool = False) -> None:
        """Move what is left and make the target the owner everywhere."""
        self.move()
        ends = [self.finish_target, self.finish_source]
        for end in reversed(ends) if source_first else ends:
            end()
        self.finish_others()

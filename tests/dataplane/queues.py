"""Queues in a random world: many push, a few wait in blocking pops over the queues of several slots.

Duty: send pushes and blocking pops, and hold what came of them against the contract:

- an element that was pushed (acknowledged once) is delivered once, or still in its queue; one whose push is in doubt at
  most once;
- what is missing was taken by a pop that is in doubt, or for a consumer that left: one for each at most;
- of one producer each consumer gets a queue's elements in the order in which they were pushed, and what is left in the
  queue was pushed behind everything that was delivered;
- nobody is left waiting at a queue that holds something.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import hiredis

from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_lists import ListValue
from tests.scripted_node import ScriptedCluster

IN_DOUBT = "ERR slotproxy: in doubt:"


def queue(tag: str) -> bytes:
    return f"queue:{{{tag}}}".encode()


class Consumer:
    """One client that pops; `asked` holds the queues of each of its commands."""

    def __init__(self, client: ScriptedClient) -> None:
        self.client = client
        self.asked: list[list[bytes]] = []
        self.gone = False

    def waits_at(self) -> list[bytes]:
        """The queues of its last command, when that is not answered."""
        return [] if self.gone or len(self.client.replies) == len(self.asked) else self.asked[-1]

    def delivered(self) -> list[tuple[bytes, bytes]]:
        return [(reply[0], reply[1]) for reply in self.client.replies if isinstance(reply, list)]


class Queues:
    """The queues of some tags, who pushes and who pops."""

    def __init__(self, rig: Rig, tags: tuple[str, ...], chance: random.Random) -> None:
        self.consumers = [Consumer(rig.client()) for _ in range(3)]
        self._rig = rig
        self._tags = tags
        self._random = chance
        self._producer = rig.client()
        self._pushed: list[tuple[bytes, bytes]] = []  # queue, element; in the order of the producer's replies

    def ends(self) -> list[Any]:
        """The proxy's ends of its clients."""
        return [client.proxy_end for client in (self._producer, *(consumer.client for consumer in self.consumers))]

    def pump(self) -> None:
        for client in (self._producer, *(consumer.client for consumer in self.consumers)):
            client.pump()
            client.read()

    # Steps

    def push(self) -> None:
        tag = self._random.choice(self._tags)
        element = b"%d" % len(self._pushed)
        self._pushed.append((queue(tag), element))
        self._producer.send("RPUSH", queue(tag), element)

    def pop(self) -> None:
        consumer = self._random.choice(self.consumers)
        consumer.client.read()
        if consumer.gone or consumer.waits_at():
            return
        tags = self._random.sample(self._tags, self._random.choice([1, 1, 1, 2, len(self._tags)]))
        keys = [queue(tag) for tag in tags]
        consumer.asked.append(keys)
        consumer.client.send("BLPOP", *keys, self._random.choice(["0", "0", "0", "0.3", "20"]))

    def unblock(self) -> None:
        consumer = self._random.choice(self.consumers)
        if consumer.waits_at():
            number = self._rig.clients.index(consumer.client) + 1
            self._producer.send("CLIENT", "UNBLOCK", number)
            self._pushed.append((b"", b""))  # its reply stands among those to pushes

    def leave(self) -> None:
        consumer = self._random.choice(self.consumers)
        if not consumer.gone:
            consumer.client.read()
            consumer.gone = True
            consumer.client.vanish()
            self.consumers.append(Consumer(self._rig.client()))

    # The end

    def problems(self, cluster: ScriptedCluster, drops: bool) -> list[str]:
        found: list[str] = []
        replies = self._producer.replies
        if len(replies) != len(self._pushed):
            return [f"{len(self._pushed) - len(replies)} pushes were not answered"]
        certain: list[tuple[bytes, bytes]] = []
        doubtful: list[tuple[bytes, bytes]] = []
        for pushed, reply in zip(self._pushed, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                doubtful.append(pushed)
                if not drops or not str(reply).startswith(IN_DOUBT):
                    found.append(f"a push was answered {reply}")
            elif pushed[0]:
                certain.append(pushed)
        delivered = [entry for consumer in self.consumers for entry in consumer.delivered()]
        left = self._left(cluster)
        seen = Counter(delivered) + Counter(left)
        found += [f"{entry} was there {times} times" for entry, times in seen.items() if times > 1]
        found += [f"{entry} was never pushed" for entry in seen if entry not in {*certain, *doubtful}]
        missing = [entry for entry in certain if entry not in seen]
        excuses = self._excuses(found, drops)
        if len(missing) > excuses:
            found.append(f"{missing} are lost; {excuses} pops are in doubt or had nobody to be delivered to")
        return found + self._disorder(left) + self._stuck(cluster)

    def _left(self, cluster: ScriptedCluster) -> list[tuple[bytes, bytes]]:
        found = []
        for tag in self._tags:
            value = cluster.value(queue(tag))
            if value is not None:
                assert isinstance(value, ListValue)
                found += [(queue(tag), element) for element in value.elements]
        return found

    def _excuses(self, found: list[str], drops: bool) -> int:
        """How many elements may be missing."""
        count = 0
        for consumer in self.consumers:
            for reply in consumer.client.replies:
                if isinstance(reply, hiredis.ReplyError):
                    count += 1
                    if not drops or not str(reply).startswith(IN_DOUBT):
                        found.append(f"a pop was answered {reply}")
        return count + sum(consumer.gone for consumer in self.consumers)

    def _disorder(self, left: list[tuple[bytes, bytes]]) -> list[str]:
        found = []
        for tag in self._tags:
            last = -1
            for consumer in self.consumers:
                serials = [int(element) for name, element in consumer.delivered() if name == queue(tag)]
                if serials != sorted(serials):
                    found.append(f"{queue(tag)!r} gave one consumer {serials}")
                last = max([last, *serials])
            if behind := [int(element) for name, element in left if name == queue(tag) and int(element) < last]:
                found.append(f"{queue(tag)!r} still holds {behind} and gave {last}")
        return found

    def _stuck(self, cluster: ScriptedCluster) -> list[str]:
        return [
            f"a consumer waits at {key!r}, which holds {cluster.value(key)!r}"
            for consumer in self.consumers
            for key in consumer.waits_at()
            if cluster.value(key) is not None
        ]

    def close(self) -> None:
        """Everybody leaves."""
        for consumer in self.consumers:
            consumer.client.vanish()

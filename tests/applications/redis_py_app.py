"""What programs do with redis-py, done with its plain client and with its asyncio client, of whatever version is there.

REDIS_PROTOCOL says which protocol is asked for, else it is the library's default. Each round is the same work again, on
the same keys, and says by an exception when a reply is wrong; the counters `ran:…` are looked at afterwards.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

import redis
import redis.asyncio

from tests.applications.client import WITHIN

SUBSCRIBES = "APPLICATION_SUBSCRIBES" in os.environ
KINDS = {"plain": redis.Redis, "asyncio": redis.asyncio.Redis}
TEXTS = 8
OPTIONS: dict[str, Any] = {"decode_responses": True}
if "REDIS_PROTOCOL" in os.environ:
    OPTIONS["protocol"] = int(os.environ["REDIS_PROTOCOL"])


async def got(reply: Any) -> Any:
    """The two clients differ in this alone."""
    return await reply if inspect.isawaitable(reply) else reply


async def each(iterator: Any) -> AsyncIterator[Any]:
    if hasattr(iterator, "__aiter__"):
        async for one in iterator:
            yield one
    else:
        for one in iterator:
            yield one


class Program:
    """`kind` begins the names of its keys."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind = kind
        self.number = number
        self.client = self.connect()
        self.group_exists = number > 0

    def connect(self) -> Any:
        client: Any = KINDS[self.kind]
        return client.from_url(os.environ["APPLICATION_URL"], **OPTIONS)

    async def close(self, client: Any) -> None:
        await got(client.aclose() if self.kind == "asyncio" else client.close())

    async def round(self) -> None:
        popped: list[tuple[str, str]] = []
        waiting = threading.Thread(target=asyncio.run, args=(self.pop(popped),))
        waiting.start()
        await self.pipelines()
        await self.push()
        await self.transactions()
        await self.watching()
        await self.scripts()
        await self.streams()
        await self.values()
        await self.locks()
        if SUBSCRIBES:
            await self.subscriptions()
        await asyncio.to_thread(waiting.join, WITHIN)
        assert sorted(popped) == [(name, str(place)) for name in ("a", "b") for place in range(4)], popped
        await self.close(self.client)

    async def pipelines(self) -> None:
        pipe = self.client.pipeline(transaction=False)
        for place in range(TEXTS):
            text = f"{self.kind}:text:{place}"
            pipe.incr(f"ran:{self.kind}:pipe:{place}").set(text, self.number).append(text, "!").get(text)
        shown = f"{self.number}!"
        assert await got(pipe.execute()) == [self.number + 1, True, len(shown), shown] * TEXTS

    async def push(self) -> None:
        for place in range(4):
            for name in ("a", "b"):
                await got(self.client.rpush(f"{self.kind}:queue:{name}", place))
        await got(self.client.zadd(f"{self.kind}:ready", {"it": 1.5}))

    async def pop(self, popped: list[tuple[str, str]]) -> None:
        client = self.connect()
        queues = [f"{self.kind}:queue:{name}" for name in ("a", "b")]
        while len(popped) < 8:
            queue, element = await got(client.blpop(queues, timeout=WITHIN))
            popped.append((queue[-1], element))
        ready = f"{self.kind}:ready"
        assert list(await got(client.bzpopmin(ready, timeout=WITHIN))) == [ready, "it", 1.5]
        await self.close(client)

    async def transactions(self) -> None:
        pipe = self.client.pipeline()
        pipe.incr(f"ran:{self.kind}:{{block}}:a").incr(f"ran:{self.kind}:{{block}}:b").lrange("{block}:none", 0, -1)
        assert await got(pipe.execute()) == [self.number + 1, self.number + 1, []]

    async def watching(self) -> None:
        """Somebody else writes the key between WATCH and EXEC, the first time."""
        key = f"ran:{self.kind}:watched"
        pipe = self.client.pipeline()
        attempts = 0
        while True:
            attempts += 1
            await got(pipe.watch(key))
            value = int(await got(pipe.get(key)) or 0)
            if attempts == 1:
                await got(self.client.incr(key))
            pipe.multi()
            pipe.set(key, value + 1)
            try:
                assert await got(pipe.execute()) == [True]
            except redis.WatchError:
                continue
            break
        assert attempts > 1

    async def scripts(self) -> None:
        """EVALSHA, and SCRIPT LOAD where that is not known."""
        add = self.client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert await got(add(keys=[f"ran:{self.kind}:script"], args=[3])) == 3 * self.number + 3

    async def streams(self) -> None:
        stream = f"{self.kind}:stream"
        if not self.group_exists:
            assert await got(self.client.xgroup_create(stream, "group", id="0", mkstream=True))
        added = [await got(self.client.xadd(stream, {"place": place})) for place in range(4)]
        read: list[Any] = []
        while len(read) < len(added):
            reply = await got(self.client.xreadgroup("group", "consumer", {stream: ">"}, count=2, block=1000))
            # A list of pairs in RESP2, a map of lists of lists in RESP3.
            read += reply[stream][0] if isinstance(reply, dict) else reply[0][1]
        assert [(name, dict(fields)) for name, fields in read] == [
            (name, {"place": str(place)}) for place, name in enumerate(added)
        ]
        assert await got(self.client.xack(stream, "group", *added)) == len(added)
        assert (await got(self.client.xpending(stream, "group")))["pending"] == 0

    async def values(self) -> None:
        many = {f"{self.kind}:many:{place}": str(place + self.number) for place in range(6)}
        assert await got(self.client.mset(many)) is True
        assert await got(self.client.mget(list(many))) == list(many.values())
        assert await got(self.client.delete(*many)) == len(many)
        hashed, ranked = f"{self.kind}:hash", f"{self.kind}:ranked"
        await got(self.client.hset(hashed, mapping={"number": self.number, "name": "it"}))
        assert await got(self.client.hgetall(hashed)) == {"number": str(self.number), "name": "it"}
        await got(self.client.zadd(ranked, {"a": 1, "b": 2.5}))
        assert dict(await got(self.client.zrange(ranked, 0, -1, withscores=True))) == {"a": 1.0, "b": 2.5}

    async def locks(self) -> None:
        lock = self.client.lock(f"{self.kind}:lock", timeout=WITHIN)
        assert await got(lock.acquire()) is True
        other = self.client.lock(f"{self.kind}:lock", timeout=WITHIN)
        assert await got(other.acquire(blocking=False)) is False
        assert await got(lock.extend(WITHIN)) is True
        await got(lock.release())

    async def subscriptions(self) -> None:
        listener = self.client.pubsub()

        async def heard(kind: str) -> Any:
            while True:
                message = await got(listener.get_message(timeout=WITHIN))
                assert message is not None, "nothing heard"
                if message["type"] == kind:
                    return message["data"]

        channel = f"{self.kind}:news"
        await got(listener.subscribe(channel))
        assert await heard("subscribe") == 1
        await got(listener.psubscribe(f"{self.kind}:new?:*"))
        assert await heard("psubscribe") == 2
        for place in range(4):
            await got(self.client.publish(channel, place))
        assert [await heard("message") for _ in range(4)] == ["0", "1", "2", "3"]
        await got(self.client.publish(f"{channel}:today", "sunny"))
        assert await heard("pmessage") == "sunny"
        await got(listener.unsubscribe())
        assert await heard("unsubscribe") == 1
        await got(listener.aclose() if self.kind == "asyncio" else listener.close())

    async def scan(self) -> None:
        """When no key is on its way from one node to another."""
        found = sorted([key async for key in each(self.client.scan_iter(match=f"{self.kind}:text:*", count=10))])
        assert found == [f"{self.kind}:text:{place}" for place in range(TEXTS)], found
        await self.close(self.client)


def prepare() -> str:
    return str(redis.__version__)


def perform(number: int) -> None:
    for kind in KINDS:
        asyncio.run(Program(kind, number).round())


def finish() -> None:
    for kind in KINDS:
        asyncio.run(Program(kind, 0).scan())

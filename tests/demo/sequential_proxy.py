"""The simplest proxy that is correct, so that the demo and its clients can be tested without slotproxy.

One command of a client at a time, connections per client, redirects followed until they end. Takes the same
three flags as `slotproxy serve`, and `--fault` to be wrong on purpose: the demo must notice each of them.

    error   every 500th reply is an error
    value   every 1000th INCR is executed twice
    swap    two replies of a long pipeline are sent in the wrong order
    die     ends after 2000 commands
    unready says why on stderr and ends
    mute    never gets ready
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from functools import partial
from typing import Any

import hiredis
import trio

from slotproxy.demo.connection import Connection, ErrorReply, connect

SPLIT = {b"MGET", b"DEL", b"EXISTS"}

absorbed = {"MOVED": 0, "ASK": 0, "TRYAGAIN": 0}
served = itertools.count(1)
counted = itertools.count(1)


class Session:
    """One client's view: its connections, and the owners it learned."""

    def __init__(self, seed: str, fault: str | None) -> None:
        self.seed = seed
        self.fault = fault
        self.connections: dict[str, Connection] = {}
        self.owners: dict[bytes, str] = {}

    async def node(self, address: str) -> Connection:
        if address not in self.connections:
            host, _, port = address.rpartition(":")
            self.connections[address] = await connect(host, int(port))
        return self.connections[address]

    async def execute(self, command: list[bytes]) -> Any:
        """The reply, decoded; an error reply as a value."""
        name, keys = command[0].upper(), command[1:]
        number = next(served)
        if self.fault == "die" and number > 2000:
            sys.exit("dying on purpose")
        if self.fault == "error" and number % 500 == 0:
            return ErrorReply("ERR on purpose")
        if self.fault == "value" and name == b"INCR" and next(counted) % 1000 == 0:
            await self.route(command)
        if name in SPLIT and len(keys) > 1:
            parts = [await self.route([name, key]) for key in keys]
            return [part[0] for part in parts] if name == b"MGET" else sum(parts)
        return await self.route(command)

    async def route(self, command: list[bytes]) -> Any:
        tag = command[1] if len(command) > 1 else b""
        address = self.owners.get(tag, self.seed)
        asking = False
        while True:
            node = await self.node(address)
            replies = await node.pipeline(*([("ASKING",)] if asking else []), command)
            reply, asking = replies[-1], False
            code = reply.code if isinstance(reply, ErrorReply) else ""
            if code in absorbed:
                absorbed[code] += 1
            if code == "MOVED":
                address = self.owners[tag] = str(reply).split()[2]
            elif code == "ASK":
                address, asking = str(reply).split()[2], True
            elif code == "TRYAGAIN":
                address = self.owners.get(tag, self.seed)
                await trio.sleep(0.002)
            else:
                return reply

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()


def encode(reply: Any) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
        case _:
            return f"-{reply}\r\n".encode()


async def serve_client(stream: trio.SocketStream, seed: str, fault: str | None) -> None:
    session, reader = Session(seed, fault), hiredis.Reader()
    try:
        async for data in stream:
            reader.feed(bytes(data))
            replies = []
            while (command := reader.gets()) is not False:
                replies.append(encode(await session.execute(command)))
            if fault == "swap" and len(replies) > 100:
                replies[7], replies[8] = replies[8], replies[7]
            await stream.send_all(b"".join(replies))
    except (trio.BrokenResourceError, ConnectionError):
        return
    finally:
        session.close()
        await trio.aclose_forcefully(stream)


async def serve_admin(stream: trio.SocketStream, fault: str | None) -> None:
    request = await stream.receive_some()
    body = "".join(
        f'slotproxy_{name.lower()}_total{{node="{node}"}} {count // 2}\n'
        for name, count in absorbed.items()
        for node in ("a", "b")
    )
    body += "slotproxy_topology_updates_total 1\n"
    status = "503 Service Unavailable" if fault == "mute" else "200 OK"
    text = body if b"/metrics" in request else "ready\n"
    await stream.send_all(f"HTTP/1.0 {status}\r\n\r\n{text}".encode())
    await stream.aclose()


async def main(arguments: argparse.Namespace) -> None:
    seed = arguments.cluster.split(",")[0]
    if arguments.fault == "unready":
        sys.exit("not today")
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            for address, handler in (
                (arguments.listen, partial(serve_client, seed=seed, fault=arguments.fault)),
                (arguments.admin, partial(serve_admin, fault=arguments.fault)),
            ):
                host, _, port = address.rpartition(":")
                await nursery.start(partial(trio.serve_tcp, handler, int(port), host=host))
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for flag in ("--listen", "--cluster", "--admin", "--fault"):
        parser.add_argument(flag)
    trio.run(main, parser.parse_args())

"""The clients that people have, pointed at the proxy as at one plain Redis: redis-cli, redis-benchmark, redis-py."""

from __future__ import annotations

import errno
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.proxy import ProxyProcess
from tests.conftest import ProxyFactory
from tests.integration.load import Ride, shuttle, tags_of
from tests.integration.observing import at_least

WITHIN = 30.0


@contextmanager
def redis_py(front: ProxyProcess, protocol: int, **options: Any) -> Iterator[Any]:
    """What an application that knows one Redis has; to be used in a thread. (Its types are not of much use.)"""
    client = redis.Redis(
        host=front.host, port=front.port, protocol=protocol, socket_timeout=WITHIN, socket_connect_timeout=5, **options
    )
    try:
        yield client
    finally:
        client.close()


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on PATH")
    return path


async def run(*command: str, text: str = "") -> str:
    """Its standard output; fails when it ends with a status or complains."""
    with trio.fail_after(WITHIN):
        done = await trio.run_process(list(command), stdin=text.encode(), capture_stdout=True, capture_stderr=True)
    assert not done.stderr, done.stderr
    return done.stdout.decode()


# ---- redis-cli


async def test_redis_cli_with_a_command(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    cli = [program("redis-cli"), "-p", str(front.port)]
    assert await run(*cli, "SET", "greeting", "hello world") == "OK\n"
    assert await run(*cli, "GET", "greeting") == "hello world\n"
    assert await run(*cli, "MSET", "a", "1", "b", "2", "c", "3") == "OK\n"
    assert await run(*cli, "MGET", "a", "b", "c", "d") == "1\n2\n3\n\n"
    assert await run(*cli, "--no-raw", "DEL", "a", "b", "d") == "(integer) 2\n"
    assert await run(*cli, "-n", "0", "PING") == "PONG\n"
    assert "redis_version:" in await run(*cli, "INFO")
    assert "CROSSSLOT" in await run(*cli, "RENAME", "a", "b")
    assert await run(*cli, "--eval", "/dev/stdin", "k", ",", "v", text="return {KEYS[1], ARGV[1]}") == "k\nv\n"


async def test_redis_cli_reads_commands_from_a_pipe(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    lines = "".join(f"SET pipe:{n} {n}\nINCR pipe:{n}\n" for n in range(50))
    replies = (await run(program("redis-cli"), "-p", str(front.port), text=lines)).split()
    assert replies == [word for n in range(50) for word in ("OK", str(n + 1))]


async def test_redis_cli_mass_insertion(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    protocol = "".join(f"*3\r\n$3\r\nSET\r\n$8\r\nmass{n:04}\r\n$4\r\n{n:04}\r\n" for n in range(2_000))
    said = await run(program("redis-cli"), "-p", str(front.port), "--pipe", text=protocol)
    assert "errors: 0, replies: 2000" in said
    assert sum([int(await node.command("DBSIZE")) for node in cluster.nodes]) == 2_000


async def test_redis_cli_interactively(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    command = [program("redis-cli"), "-p", str(front.port)]

    def talk() -> str:
        ours, theirs = pty.openpty()
        environ = {**os.environ, "TERM": "dumb", "HOME": "/nonexistent"}
        try:
            process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
            os.close(theirs)
            said = _until(ours, b"> ")
            for line in (b"SET shown yes\n", b"GET shown\n", b"LPUSH list b a\n", b"LRANGE list 0 -1\n"):
                os.write(ours, line)
                said += _until(ours, b"> ")
            os.write(ours, b"exit\n")
            assert process.wait(WITHIN) == 0
            return said.decode()
        finally:
            os.close(ours)

    with trio.fail_after(WITHIN):
        said = await trio.to_thread.run_sync(talk)
    assert f"127.0.0.1:{front.port}>" in said
    for part in ("OK", '"yes"', "(integer) 2", '1) "a"', '2) "b"'):
        assert part in said, said


def _until(descriptor: int, mark: bytes) -> bytes:
    said = b""
    while not said.endswith(mark):
        try:
            data = os.read(descriptor, 4096)
        except OSError as problem:
            assert problem.errno == errno.EIO
            data = b""
        assert data, said
        said += data
    return said


# ---- redis-benchmark


async def test_redis_benchmark(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    tests = [
        "ping",
        "set",
        "get",
        "incr",
        "lpush",
        "rpush",
        "lpop",
        "rpop",
        "sadd",
        "hset",
        "zadd",
        "lrange_100",
        "mset",
    ]
    benchmark = [program("redis-benchmark"), "-p", str(front.port), "-q", "--csv", "-c", "10"]
    for extra in (["-n", "400"], ["-n", "2000", "-P", "16", "-r", "1000"]):
        said = await run(*benchmark, *extra, "-t", ",".join(tests))
        measured = [line for line in said.splitlines() if line.startswith('"') and '"test"' not in line]
        # PING comes twice (inline, too), LRANGE with the LPUSH that fills the list.
        assert len(measured) == len(tests) + 2, said
        assert "rror" not in said
    assert (await front.metrics())["slotproxy_errors_total"] == 0


# ---- redis-py


def _strings(r: Any) -> None:
    assert r.set("s", "v", ex=100) and r.get("s") == "v" and r.ttl("s") > 90
    assert r.append("s", "w") == 2 and r.strlen("s") == 2 and r.getrange("s", 1, 1) == "w"
    assert r.incrbyfloat("f", 1.5) == 1.5 and r.incrby("i", 5) == 5 and r.decr("i") == 4
    assert r.mset({"m1": 1, "m2": 2, "m3": 3}) and r.mget("m1", "m2", "m3", "none") == ["1", "2", "3", None]
    assert r.exists("m1", "m2", "none") == 2 and r.delete("m1", "m2", "m3") == 3 and r.touch("s", "f") == 2
    assert r.setnx("s", "x") is False and r.getdel("s") == "vw" and r.type("i") == "string"
    assert r.setbit("bits", 7, 1) == 0 and r.bitcount("bits") == 1 and r.unlink("bits", "f") == 2


def _hashes(r: Any) -> None:
    assert r.hset("h", mapping={"a": 1, "b": 2}) == 2 and r.hgetall("h") == {"a": "1", "b": "2"}
    assert r.hincrby("h", "a", 4) == 5 and r.hmget("h", "a", "c") == ["5", None] and r.hdel("h", "b") == 1
    assert dict(r.hscan_iter("h")) == {"a": "5"}


def _lists(r: Any) -> None:
    assert r.rpush("l", "a", "b", "c") == 3 and r.lrange("l", 0, -1) == ["a", "b", "c"]
    assert r.lpop("l") == "a" and r.lmove("l", "l") == "b" and r.llen("l") == 2 and r.lpos("l", "b") == 1
    assert r.sort("l", alpha=True) == ["b", "c"]


def _sets(r: Any) -> None:
    assert r.sadd("{t}1", "a", "b", "c") == 3 and r.sadd("{t}2", "b", "c", "d") == 3
    assert r.sinter("{t}1", "{t}2") == {"b", "c"} and r.sunionstore("{t}3", "{t}1", "{t}2") == 4
    assert r.smembers("{t}3") == {"a", "b", "c", "d"} and r.sismember("{t}1", "a") and r.smove("{t}1", "{t}2", "a")
    assert set(r.sscan_iter("{t}3")) == {"a", "b", "c", "d"}


def _pairs(reply: Any) -> dict[Any, Any]:
    """The library has tuples or lists, by the protocol."""
    return dict(reply)


def _zsets(r: Any) -> None:
    assert r.zadd("z", {"a": 1, "b": 2.5}) == 2
    assert _pairs(r.zrange("z", 0, -1, withscores=True)) == {"a": 1.0, "b": 2.5}
    assert r.zincrby("z", 2, "a") == 3.0 and r.zrank("z", "b") == 0 and r.zscore("z", "none") is None
    assert _pairs(r.zpopmin("z", 1)) == {"b": 2.5} and r.zrangebyscore("z", 0, 10) == ["a"]


def _entries(reply: Any) -> Any:
    """Of the stream x, the only one."""
    return reply["x"][0] if isinstance(reply, dict) else reply[0][1]


def _streams(r: Any) -> None:
    ids = [r.xadd("x", {"n": n}) for n in range(3)]
    assert r.xlen("x") == 3 and [entry for entry, _ in r.xrange("x")] == ids
    assert _entries(r.xread({"x": "0"}, count=2))[0][1] == {"n": "0"}
    assert r.xgroup_create("x", "g", id="0") and len(_entries(r.xreadgroup("g", "c", {"x": ">"}))) == 3
    assert r.xack("x", "g", *ids) == 3 and r.xpending("x", "g")["pending"] == 0
    assert r.xtrim("x", maxlen=1, approximate=False) == 2 and r.xinfo_stream("x")["length"] == 1


def _scripts(r: Any) -> None:
    assert r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "v") == ["k", "v"]
    assert r.eval("return redis.call('incrby', KEYS[1], ARGV[1])", 1, "n", 7) == 7
    with pytest.raises(redis.ResponseError, match="hash to the same slot"):
        r.eval("return 1", 2, "a", "b")


def _pipelines(r: Any) -> None:
    with r.pipeline(transaction=False) as pipe:
        for n in range(300):
            pipe.set(f"p{n}", n).incr(f"p{n}").get(f"p{n}")
        assert pipe.execute() == [reply for n in range(300) for reply in (True, n + 1, str(n + 1))]
        pipe.set("wrong", "text").lpush("wrong", 1).get("wrong")
        answers = pipe.execute(raise_on_error=False)
        assert answers[0] is True and "WRONGTYPE" in str(answers[1]) and answers[2] == "text"


def _errors(r: Any) -> None:
    r.set("text", "no number")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        r.incr("text")
    with pytest.raises(redis.ResponseError, match="hash to the same slot"):
        r.rename("a", "b")
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        r.execute_command("GET")
    with pytest.raises(redis.ResponseError, match="unknown command"):
        r.execute_command("NOSUCHCOMMAND", "a")
    with pytest.raises(redis.ResponseError, match=r"DB index|SELECT is not allowed"):
        r.select(1)
    assert r.get("text") == "no number"


def _about_the_connection(r: Any) -> None:
    assert r.ping() and r.echo("hello") == "hello"
    assert r.client_getname() == "an-application" and isinstance(r.client_id(), int)
    assert str(r.info()["redis_version"]).count(".") == 2
    assert "get" in r.command() and r.command_count() > 200


SAMPLES = [
    _strings, _hashes, _lists, _sets, _zsets, _streams, _scripts, _pipelines, _errors, _about_the_connection
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py(
    cluster: EmbeddedCluster, proxy: ProxyFactory, protocol: int
) -> None:
    front = await proxy()

    def use() -> None:
        with redis_py(front, protocol, decode_responses=True, client_name="an-application") as client:
            for sample in SAMPLES:
                sample(client)

    with trio.fail_after(WITHIN):
        await trio.to_thread.run_sync(use)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py_gets_bytes_and_gives_binary_keys(
    cluster: EmbeddedCluster, proxy: ProxyFactory, protocol: int
) -> None:
    front = await proxy()
    value = bytes(range(256)) * 5000

    def use() -> None:
        with redis_py(front, protocol) as client:
            assert client.set(b"\x00\r\n{\xff}key", value) and client.get(b"\x00\r\n{\xff}key") == value
            assert (
                client.set("empty", b"")
                and client.get("empty") == b""
                and client.set("", "x")
                and client.get("") == b"x"
            )

    with trio.fail_after(WITHIN):
        await trio.to_thread.run_sync(use)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py_from_many_threads(
    cluster: EmbeddedCluster, proxy: ProxyFactory, protocol: int
) -> None:
    front = await proxy()

    def count(client: Any, name: int) -> None:
        for expected in range(1, 101):
            assert client.incr(f"thread:{name}") == expected
            client.incr("shared")

    with trio.fail_after(WITHIN), redis_py(front, protocol, max_connections=16) as client:
        async with trio.open_nursery() as nursery:
            for name in range(8):
                nursery.start_soon(trio.to_thread.run_sync, count, client, name)
        assert await trio.to_thread.run_sync(client.get, "shared") == b"800"


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py_does_not_notice_a_reshard(
    cluster: EmbeddedCluster, proxy: ProxyFactory, protocol: int
) -> None:
    front = await proxy()
    here, there, _ = cluster.nodes
    tags = await tags_of(cluster, here, 4)
    rides = [Ride(slot, here, there) for slot in tags.values()]
    done = trio.Event()
    counts = dict.fromkeys(tags, 0)

    def use() -> None:
        with redis_py(front, protocol, decode_responses=True) as client:
            number = 0
            while not done.is_set():
                number += 1
                with client.pipeline(transaction=False) as pipe:
                    for tag in tags:
                        pipe.incr(f"{{{tag}}}:n").mset({f"{{{tag}}}:a": number, f"{{{tag}}}:b": number})
                        counts[tag] += 1
                        pipe.mget(f"{{{tag}}}:a", f"{{{tag}}}:b")
                    replies = pipe.execute()
                assert replies == [one for _ in tags for one in (number, True, [str(number)] * 2)]
                over = {f"{{{tag}}}:w": number for tag in tags}
                assert client.mset(over) and client.mget(list(over)) == [str(number)] * 4
                assert client.delete(*over) == 4

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, use)
            await shuttle(cluster, rides, 10, per_second=10)
            done.set()
    for tag, count in counts.items():
        assert await here.command("GET", f"{{{tag}}}:n") == b"%d" % count
    assert await at_least(front, "slotproxy_moved_total", 10) and await at_least(front, "slotproxy_ask_total", 10)

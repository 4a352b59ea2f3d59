"""Functions for a primary that lacks them: brought from real servers, and from nodes that say what a test wants."""

from __future__ import annotations

import logging
from collections import Counter

import hiredis
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Address, NodeInfo, Topology
from slotproxy.control import supplying
from slotproxy.control.addresses import AddressMap
from slotproxy.control.connection import Credentials
from slotproxy.control.supplying import Functions
from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.node import Node
from slotproxy.demo.servers import free_port, server_version
from tests.integration.observing import asked, forget_counts

WITHIN = 10.0
STARTED = 0.0  # long before anything that happens in a test
REQUEST = b"*3\r\n$5\r\nFCALL\r\n$1\r\nf\r\n$1\r\n0\r\n"
NOT_FOUND = "Function not found"


def library(name: str, *functions: str, version: int = 1, comment: str = "") -> str:
    registered = "\n".join(
        f"redis.register_function('{function}', function(keys, args) return {version} end)" for function in functions
    )
    return f"#!lua name={name}\n{registered}\n-- {comment}"


class Supply:
    """`Functions` of a cluster whose primaries have these addresses, and how many transfers there were."""

    def __init__(self, addresses: list[Address], credentials: Credentials | None = None) -> None:
        infos = {
            f"{number}": NodeInfo(f"{number}", *address, True, False, frozenset({address}))
            for number, address in enumerate(addresses)
        }
        share = 16384 // len(addresses)
        ranges = [(number * share, number * share + share - 1, f"{number}") for number in range(len(addresses))]
        slot_map = SlotMap()
        slot_map.apply(Topology(infos, ranges, {}, "test"), 0)
        self.transfers = 0
        self.functions = Functions(slot_map, credentials or Credentials(), AddressMap(), self._count)

    def _count(self) -> None:
        self.transfers += 1

    async def __call__(self, name: str, address: Address, request: bytes = REQUEST) -> bool:
        with trio.fail_after(WITHIN):
            return await self.functions.supply(name.encode(), address, request, STARTED)


# ---- real servers


def address_of(node: Node) -> Address:
    return node.host, node.port


@pytest.fixture
def nodes(cluster: EmbeddedCluster, redis_server: str) -> list[Node]:
    """Three primaries without functions."""
    if server_version(redis_server) < (7,):
        pytest.skip("functions came with 7.0")
    return cluster.nodes


def supply_over(nodes: list[Node], credentials: Credentials | None = None) -> Supply:
    return Supply([address_of(node) for node in nodes], credentials)


async def libraries_of(node: Node) -> set[str]:
    return {entry[1].decode() for entry in await node.command("FUNCTION", "LIST")}


async def test_the_libraries_of_a_node_that_has_the_function_are_restored(nodes: list[Node]) -> None:
    _, donor, node = nodes
    await donor.command("FUNCTION", "LOAD", library("one", "f"))
    await donor.command("FUNCTION", "LOAD", library("two", "g", "h"))
    supply = supply_over(nodes)
    assert await supply("h", address_of(node))
    assert [await node.command("FCALL", name, 0) for name in ("f", "g", "h")] == [1, 1, 1]
    assert supply.transfers == 1
    assert await libraries_of(nodes[0]) == set()  # it was not asked for there
    assert await supply("f", address_of(node))
    assert supply.transfers == 1


@pytest.mark.parametrize("name", ["MyFunction", "myfunction", "MYFUNCTION"])
async def test_names_of_functions_know_no_case(nodes: list[Node], name: str) -> None:
    donor, node, _ = nodes
    await donor.command("FUNCTION", "LOAD", library("one", "MyFunction"))
    supply = supply_over(nodes)
    assert await supply(name, address_of(node))
    assert await node.command("FCALL", name.swapcase(), 0) == 1


async def test_a_function_that_came_meanwhile_needs_no_transfer(nodes: list[Node]) -> None:
    donor, node, _ = nodes
    for each in (donor, node):
        await each.command("FUNCTION", "LOAD", library("one", "f"))
    await forget_counts(nodes)
    supply = supply_over(nodes)
    assert await supply("f", address_of(node))
    assert supply.transfers == 0
    assert await asked(donor, r"function\|list") == 0


@pytest.mark.parametrize("where", ["code", "request"])
async def test_a_function_that_may_have_said_so_itself_is_not_believed(nodes: list[Node], where: str) -> None:
    node = nodes[0]
    await node.command("FUNCTION", "LOAD", library("one", "f", comment=NOT_FOUND if where == "code" else ""))
    supply = supply_over(nodes)
    request = REQUEST.replace(b"$1\r\n0", b"$18\r\nFunction not found") if where == "request" else REQUEST
    assert not await supply("f", address_of(node), request)
    assert await supply("f", address_of(node)) == (where == "request")


async def test_a_node_that_lacks_it_is_believed_whatever_the_function_says(nodes: list[Node]) -> None:
    donor, node, _ = nodes
    await donor.command("FUNCTION", "LOAD", library("one", "f", comment=NOT_FOUND))
    assert await supply_over(nodes)("f", address_of(node))


async def test_an_older_library_of_that_name_is_replaced(nodes: list[Node]) -> None:
    donor, node, _ = nodes
    await donor.command("FUNCTION", "LOAD", library("one", "f", "g", version=2))
    await node.command("FUNCTION", "LOAD", library("one", "f"))
    await node.command("FUNCTION", "LOAD", library("own", "h"))
    assert await supply_over(nodes)("g", address_of(node))
    assert [await node.command("FCALL", name, 0) for name in ("f", "g", "h")] == [2, 2, 1]


async def test_libraries_that_do_not_agree_are_left_as_they_are(
    nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    donor, node, _ = nodes
    await donor.command("FUNCTION", "LOAD", library("one", "f", "g"))
    await node.command("FUNCTION", "LOAD", library("another", "f"))
    with caplog.at_level(logging.WARNING):
        assert not await supply_over(nodes)("g", address_of(node))
    assert f"cannot supply function b'g' to node {node.address}: ERR Function f already exists" in caplog.text
    assert await libraries_of(node) == {"another"}


async def test_many_calls_at_once_cause_one_transfer(nodes: list[Node]) -> None:
    donor, node, _ = nodes
    await donor.command("FUNCTION", "LOAD", library("one", *[f"f{number}" for number in range(20)]))
    await forget_counts(nodes)
    supply = supply_over(nodes)
    answers: list[bool] = []

    async def call(name: str) -> None:
        answers.append(await supply(name, address_of(node)))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(call, f"f{number}")
    assert answers == [True] * 20
    assert supply.transfers == 1
    assert await asked(node, r"function\|restore") == 1
    assert await asked(donor, r"function\|dump") == 1


@pytest.mark.parametrize("denied", ["list", "restore", "dump"])
async def test_what_acls_deny_is_told_and_nothing_is_supplied(
    nodes: list[Node], caplog: pytest.LogCaptureFixture, denied: str
) -> None:
    donor, node, _ = nodes
    await donor.command("FUNCTION", "LOAD", library("one", "f"))
    for each in nodes:
        await each.command("ACL", "SETUSER", "proxy", "on", ">secret", "+function", f"-function|{denied}")
    supply = supply_over(nodes, Credentials("proxy", b"secret"))
    with caplog.at_level(logging.DEBUG):
        assert not await supply("f", address_of(node))
    assert f"'function|{denied}' command" in caplog.text
    assert "secret" not in caplog.text
    assert await libraries_of(node) == set()


async def test_servers_without_functions_supply_none(cluster: EmbeddedCluster, redis_server: str) -> None:
    if server_version(redis_server) >= (7,):
        pytest.skip("functions came with 7.0")
    with pytest.raises(ErrorReply):
        await cluster.nodes[0].command("FUNCTION", "LIST")
    assert not await supply_over(cluster.nodes)("f", address_of(cluster.nodes[0]))


# ---- nodes that say what a test wants


class Speaker:
    """A node with functions, in this process. `code` by function; `answering` unset: not yet."""

    def __init__(self, **code: str) -> None:
        self.code = code
        self.answers: dict[str, bytes] = {}  # in place of its own, by subcommand
        self.asked: Counter[str] = Counter()
        self.heard = trio.Event()
        self.answering = trio.Event()
        self.answering.set()
        self.address: Address = ("", 0)

    async def start(self, nursery: trio.Nursery) -> Address:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, self._serve, [listener])
        self.address = "127.0.0.1", listener.socket.getsockname()[1]
        return self.address

    async def _serve(self, stream: trio.SocketStream) -> None:
        reader = hiredis.Reader()
        try:
            async for data in stream:
                reader.feed(bytes(data))
                while (words := reader.gets()) is not False:
                    self.heard.set()
                    await self.answering.wait()
                    await stream.send_all(self._reply(words[1].decode(), words))
        except trio.BrokenResourceError:
            return

    def _reply(self, name: str, words: list[bytes]) -> bytes:
        self.asked[name] += 1
        if name in self.answers:
            return self.answers[name]
        if name == "LIST":
            entries = [
                b"*4\r\n%b%b%b*1\r\n*2\r\n%b%b"
                % (bulk("library_code"), bulk(code), bulk("functions"), bulk("name"), bulk(function))
                for function, code in self.code.items()
            ]
            return b"*%d\r\n" % len(entries) + b"".join(entries)
        if name == "DUMP":
            return bulk(" ".join(self.code))
        assert words[3] == b"REPLACE"
        self.code |= dict.fromkeys(words[2].decode().split(), "")
        return b"+OK\r\n"


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


async def test_a_function_that_nobody_has_is_looked_for_once_a_second(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    speakers = [Speaker(), Speaker(other="")]
    supply = Supply([await speaker.start(nursery) for speaker in speakers])
    node = speakers[0].address
    for _ in range(3):
        assert not await supply.functions.supply(b"nosuch", node, REQUEST, STARTED)
    assert not await supply.functions.supply(b"NoSuch", node, REQUEST, STARTED)
    assert [speaker.asked["LIST"] for speaker in speakers] == [1, 1]
    assert await supply.functions.supply(b"other", node, REQUEST, STARTED)  # one does not stand for another
    speakers[1].code["nosuch"] = ""
    mock_clock.jump(0.9)
    assert not await supply.functions.supply(b"nosuch", node, REQUEST, STARTED)
    mock_clock.jump(0.2)
    assert await supply.functions.supply(b"nosuch", node, REQUEST, STARTED)
    assert supply.transfers == 2


async def test_so_many_missing_names_are_remembered_and_no_more(
    nursery: trio.Nursery, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supplying, "_MOST_MISSING", 3)
    speaker = Speaker()
    supply = Supply([await speaker.start(nursery)])
    for name in (b"a", b"b", b"c", b"d", b"d", b"b"):
        assert not await supply.functions.supply(name, speaker.address, REQUEST, STARTED)
    assert speaker.asked["LIST"] == 4
    assert not await supply.functions.supply(b"a", speaker.address, REQUEST, STARTED)
    assert speaker.asked["LIST"] == 5  # the oldest had been forgotten


async def test_a_donor_that_refuses_connections_does_not_keep_the_others_from_it(nursery: trio.Nursery) -> None:
    node, donor = Speaker(), Speaker(f="")
    supply = Supply([("127.0.0.1", free_port()), await node.start(nursery), await donor.start(nursery)])
    assert await supply("f", node.address)


async def test_a_donor_that_does_not_answer_does_not_keep_the_others_from_it(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    silent, node, donor = Speaker(f=""), Speaker(), Speaker(f="")
    silent.answering = trio.Event()
    supply = Supply([await speaker.start(nursery) for speaker in (silent, node, donor)])
    answers: list[bool] = []

    async def call() -> None:
        answers.append(await supply.functions.supply(b"f", node.address, REQUEST, STARTED))

    async with trio.open_nursery() as calling:
        calling.start_soon(call)
        await silent.heard.wait()
        await wait_all_tasks_blocked()
        mock_clock.jump(5.1)
    assert answers == [True]
    assert supply.transfers == 1


@pytest.mark.parametrize("why", ["refused", "silent"])
async def test_a_node_that_cannot_be_asked_is_not_supplied(
    nursery: trio.Nursery, mock_clock: MockClock, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    donor, silent = Speaker(f=""), Speaker()
    silent.answering = trio.Event()
    address = await silent.start(nursery) if why == "silent" else ("127.0.0.1", free_port())
    supply = Supply([await donor.start(nursery), address])
    answers: list[bool] = []

    async def call() -> None:
        answers.append(await supply.functions.supply(b"f", address, REQUEST, STARTED))

    async with trio.open_nursery() as calling:
        calling.start_soon(call)
        if why == "silent":
            await silent.heard.wait()
            await wait_all_tasks_blocked()
            mock_clock.jump(5.1)
    assert answers == [False]
    assert donor.asked == {}
    text = "no answer within 5 s" if why == "silent" else "Connection refused"
    assert f"cannot supply function b'f' to node 127.0.0.1:{address[1]}: {text}" in caplog.text


@pytest.mark.parametrize("reply", ["+OK\r\n", ":5\r\n", "$-1\r\n", "*1\r\n:1\r\n", "-ERR no\r\n"])
@pytest.mark.parametrize("subcommand", ["LIST", "DUMP", "RESTORE"])
@pytest.mark.parametrize("by", ["node", "donor"])
async def test_an_answer_that_is_none_supplies_nothing_and_ends_nothing(
    nursery: trio.Nursery, by: str, subcommand: str, reply: str
) -> None:
    node, donor = Speaker(), Speaker(f="")
    speakers = {"node": node, "donor": donor}
    supply = Supply([await speaker.start(nursery) for speaker in speakers.values()])
    speakers[by].answers[subcommand] = reply.encode()
    supplied = await supply("f", node.address)
    if (by, subcommand) in {("node", "DUMP"), ("donor", "RESTORE")}:  # not asked
        assert supplied
    elif subcommand == "LIST" or reply == "-ERR no\r\n":
        assert not supplied

"""How connections log in as clients' users, and what is taken for a refusal; nodes say what a test wants."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from slotproxy.cluster.topology import Address
from slotproxy.control.addresses import AddressMap
from slotproxy.control.connection import Credentials
from slotproxy.control.dialling import open_stream
from slotproxy.control.identities import Identities
from slotproxy.dataplane.accounts import PASSTHROUGH, Grant
from slotproxy.dataplane.clients import Client
from slotproxy.dataplane.logins import Login
from slotproxy.dataplane.nodestreams import Identity, NodeStream
from slotproxy.dataplane.plane import Plane, PlaneLimits
from slotproxy.dataplane.transport import Transport
from slotproxy.demo.polling import until
from slotproxy.protocol.requests import RequestLimits
from tests.control.test_node_connections import Dials, TalkingNode, at
from tests.scripted_frames import pack
from tests.watched_socket import socket_pair

SECRET = b"s3cret-words"


class Forgetful(Dials):
    """A control plane that is told what it may forget."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[Grant] = []
        self.logins: list[Login] = []  # to be judged

    def forget_login_nowait(self, grant: Grant) -> None:
        self.forgotten.append(grant)

    def check_login_nowait(self, login: Login) -> None:
        self.logins.append(login)


class Secrets:
    """One user's password."""

    def __init__(self, credentials: Credentials | None) -> None:
        self.found = credentials
        self.refusals = 0

    def credentials(self, identity: Identity) -> Credentials | None:
        return self.found

    def refused(self) -> None:
        self.refusals += 1


def identities_of(plane: Plane, address: Address) -> Identities:
    return Identities(plane, [address], AddressMap(), 60.0, 1.0)


async def log_in(dials: Forgetful, plane: Plane, identities: Identities, *words: str) -> Client:
    """A client whose AUTH a node has judged."""
    ours, theirs = socket_pair()
    plane.accept(Transport(ours), "somebody")
    client = next(reversed(plane.clients.values()))
    theirs.send(pack("AUTH", *words))
    plane.tick(0)
    await identities.judge(dials.logins.pop())
    theirs.close()
    return client


def lane_of(dials: Dials, plane: Plane) -> NodeStream:
    """A lane of a client's user, which wants to be connected."""
    dials.lanes.clear()
    plane.accounts.grant(b"alice", b"1").account.pool.lane_of(1, 2)
    (lane,) = dials.lanes
    return lane


def plane_of(dials: Dials) -> Plane:
    limits = PlaneLimits(RequestLimits(), lanes_per_node=1, client_auth=PASSTHROUGH)
    return Plane(dials, limits, trio.current_time, "0.0.0")


async def test_a_connection_is_greeted_as_the_proxys_own_user_and_logs_in_as_the_clients(
    nursery: trio.Nursery,
) -> None:
    node = TalkingNode()
    address = await node.start(nursery)
    dials = Forgetful()
    plane = plane_of(dials)
    plane.apply(at(address), 0)
    lane = lane_of(dials, plane)
    secrets = Secrets(Credentials(b"alice", SECRET))
    with trio.fail_after(5):
        await open_stream(lane, plane, Credentials("own", b"pw"), AddressMap(), 3.0, secrets)
    said = [words[:2] for words in node.heard]
    assert said.index([b"AUTH", b"own"]) < said.index([b"CLIENT", b"ID"]) < said.index([b"AUTH", b"alice"])
    assert said.index([b"AUTH", b"alice"]) < said.index([b"MULTI"])
    assert lane.ready
    plane.close()


@pytest.mark.parametrize(
    ("credentials", "replies", "refused"),
    [
        (Credentials(b"alice", SECRET), {b"AUTH": b"-WRONGPASS no\r\n"}, True),
        (Credentials(b"alice", SECRET), {b"AUTH": b"-ERR max number of clients reached\r\n"}, False),
        (Credentials(), {b"PING": b"-NOAUTH Authentication required.\r\n"}, True),
        (None, {}, False),
    ],
    ids=["wrong", "full", "default", "left"],
)
async def test_a_connection_whose_login_is_not_accepted_is_not_used_and_refusals_are_told(
    nursery: trio.Nursery, credentials: Credentials | None, replies: dict[bytes, bytes], refused: bool
) -> None:
    node = TalkingNode(replies)
    address = await node.start(nursery)
    dials = Forgetful()
    plane = plane_of(dials)
    plane.apply(at(address), 0)
    lane = lane_of(dials, plane)
    secrets = Secrets(credentials)
    with trio.fail_after(5):
        nursery.start_soon(open_stream, lane, plane, Credentials(), AddressMap(), 3.0, secrets)
        await until(lambda: node.connections >= 2, within=5)  # tried again
    lane.retired = True
    assert not lane.ready and (secrets.refusals > 0) is refused
    assert SECRET.decode() not in lane.why
    plane.close()


@pytest.mark.parametrize(
    ("replies", "known", "open"),
    [
        ({b"PING": b"+PONG\r\n"}, True, True),
        ({b"PING": b"-NOPERM this user has no permissions\r\n"}, True, True),
        ({b"PING": b"-NOAUTH Authentication required.\r\n"}, True, False),
        ({b"PING": b"-ERR max number of clients reached\r\n"}, False, False),
        ({b"PING": b"-DENIED protected mode\r\n"}, False, False),
    ],
)
async def test_whether_clients_may_work_without_a_login_is_what_the_cluster_says(
    nursery: trio.Nursery, replies: dict[bytes, bytes], known: bool, open: bool
) -> None:
    node = TalkingNode(replies)
    address = await node.start(nursery)
    plane = plane_of(Forgetful())
    plane.apply(at(address), 0)
    identities = identities_of(plane, address)
    with trio.fail_after(5):
        nursery.start_soon(identities.run)
        await until(lambda: node.connections >= (1 if known else 2), within=5)
        await trio.testing.wait_all_tasks_blocked()
    assert plane.accounts.undecided() is not known
    assert plane.accounts.first().account.enters is open
    plane.close()


async def test_credentials_may_be_forgotten_while_the_cluster_is_asked_about_them(nursery: trio.Nursery) -> None:
    """A user's last client leaves in just that moment, whichever task trio runs first."""
    node = TalkingNode()
    address = await node.start(nursery)
    dials = Forgetful()
    plane = plane_of(dials)
    plane.apply(at(address), 0)
    identities = identities_of(plane, address)

    async def forget(grant: Grant) -> None:
        await trio.lowlevel.checkpoint()
        identities.forget(grant)

    with trio.fail_after(20):
        for _ in range(20):
            client = await log_in(dials, plane, identities, "alice", "pw")
            before = node.connections
            async with trio.open_nursery() as asking:
                asking.start_soon(identities.run)
                asking.start_soon(forget, client.grant)
                await until(lambda before=before: node.connections > before, within=5)  # type: ignore[misc]
                asking.cancel_scope.cancel()
    plane.close()


async def test_a_user_whose_name_is_empty_is_not_the_default_user(nursery: trio.Nursery) -> None:
    """The cluster may have such a user, and it would work on the other's connections."""
    node = TalkingNode()
    address = await node.start(nursery)
    dials = Forgetful()
    plane = plane_of(dials)
    plane.apply(at(address), 0)
    identities = identities_of(plane, address)
    with trio.fail_after(5):
        clients = [await log_in(dials, plane, identities, *words) for words in (["pw"], ["default", "pw"], ["", "pw"])]
    assert [client.grant.account.name for client in clients] == [b"default", b"default", b""]
    assert clients[0].pool is clients[1].pool and clients[0].pool is not clients[2].pool
    plane.close()

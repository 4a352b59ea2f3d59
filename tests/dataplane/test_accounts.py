"""As whom clients work: logins, what is served before them, and what clients of two users do not share."""

from __future__ import annotations

import gc

import pytest

from slotproxy.dataplane.clients import Client
from slotproxy.dataplane.logins import LOGIN_WITHIN, NOAUTH, OUTPUT_BEFORE_LOGIN
from slotproxy.protocol.users import WITHOUT_PASSWORD, parse_users
from tests.dataplane.asking import send_at_once
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_node import NodeLink

USERS = "user alice on >a1 >a2\nuser bob on >b1\nuser eve off >e1"
WRONG = "WRONGPASS invalid username-password pair or user is disabled."
REFUSED = "NOAUTH Authentication required."


@pytest.fixture(params=["file", "passthrough"])
def rig(request: pytest.FixtureRequest, make_rig: MakeRig) -> Rig:
    """A proxy before which clients have to log in."""
    rig = make_rig(client_auth=request.param, users=USERS if request.param == "file" else None)
    rig.passwords = {b"alice": b"a1", b"bob": b"b1"}
    if request.param == "passthrough":
        rig.plane.decide_default(None)
    return rig


@pytest.fixture
def passthrough(make_rig: MakeRig) -> Rig:
    """Before it, as users of the cluster."""
    rig = make_rig(client_auth="passthrough")
    rig.passwords = {b"alice": b"a1", b"bob": b"b1"}
    rig.plane.decide_default(None)
    return rig


def said(rig: Rig, *commands: str, client: ScriptedClient | None = None) -> list[str]:
    """What a client is answered that sends these in one write; errors by their text."""
    client = client or rig.client()
    before = len(client.replies)
    send_at_once(client, *commands)
    rig.run()
    return [r.decode() if isinstance(r, bytes) else str(r) for r in client.replies[before:]]


def links(rig: Rig, *words: str) -> list[NodeLink]:
    """The nodes' ends of connections on which such a command came."""
    wanted = [word.encode() for word in words]
    return [link for node in rig.nodes for link in node.links if wanted in link.received]


def test_before_a_login_nothing_reaches_a_node(rig: Rig) -> None:
    client = rig.client()
    everything = [
        "GET {f}", "MGET {f} b", "INCR {f}", "MULTI", "DBSIZE", "BLPOP {f} 0", "WATCH {f}", "PING", "ACL WHOAMI",
        "SCAN 0", "CLIENT LIST", "CLIENT KILL ID 1", "CLIENT PAUSE 100", "EVAL x 0", "PUBLISH a b", "CLIENT REPLY OFF",
        "SUBSCRIBE x",
    ]  # fmt: skip
    assert said(rig, *everything, client=client) == [REFUSED] * len(everything)
    assert not links(rig, "GET", "{f}") and not any(node.executed for node in rig.nodes)
    assert said(rig, "NOSUCH a", "GET", "CLIENT FOO", "EXEC", client=client) == [
        "ERR unknown command 'NOSUCH', with args beginning with: 'a' ",
        "ERR wrong number of arguments for 'get' command",
        "ERR unknown subcommand 'FOO'. Try CLIENT HELP.",
        f"EXECABORT Transaction discarded because of: {REFUSED}",
    ]
    assert rig.control.table_reads_in_all == 0
    client.send_bytes(b"PING\r\nGET {f}\r\n")
    rig.run()
    assert client.raw.endswith(NOAUTH * 2)


@pytest.mark.parametrize("login", ["AUTH alice a1", "HELLO 2 AUTH alice a1", "hello 3 setname me auth alice a1"])
def test_a_login_in_a_pipeline_has_its_place(rig: Rig, login: str) -> None:
    client = rig.client()
    send_at_once(client, "INCR {f}", login, "INCR {f}", "INCR {f}", "GET {f}")
    rig.run()
    first, second, *rest = client.replies
    assert str(first) == REFUSED and (second == b"OK" or b"standalone" in client.raw)
    assert rest == [1, 2, b"2"]
    assert rig.left_over() == []


@pytest.mark.parametrize("wrong", ["AUTH alice x", "AUTH nobody a1", "AUTH a1", "HELLO 3 AUTH bob a1", "AUTH eve x"])
def test_a_wrong_login_changes_nothing_and_is_counted(rig: Rig, wrong: str) -> None:
    client = rig.client()
    assert said(rig, wrong, "GET {f}", client=client)[0].startswith("WRONGPASS") and client.replies[1:]
    assert str(client.replies[1]) == REFUSED
    assert rig.plane.counters.auth_failures == 1
    assert said(rig, "AUTH alice a1", wrong, "INCR {f}", client=client)[2] == "1"


def test_hello_without_a_login_says_what_one_server_says(rig: Rig) -> None:
    hello = (
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass>"
        " option can be used to authenticate the client and select the RESP protocol version at the same time"
    )
    assert said(rig, "HELLO", "HELLO 3", "HELLO 9", "HELLO 3 FOO") == [
        hello, hello, "NOPROTO unsupported protocol version", "ERR Syntax error in HELLO option 'FOO'"
    ]  # fmt: skip


def test_a_login_counts_though_the_hello_around_it_is_wrong(rig: Rig) -> None:
    client = rig.client()
    assert said(rig, "HELLO 3 AUTH alice a1 FOO", "GET {f}", client=client) == [
        "ERR Syntax error in HELLO option 'FOO'", "None"
    ]  # fmt: skip
    assert client.raw.endswith(b"$-1\r\n")  # still RESP2


def test_reset_logs_out(rig: Rig) -> None:
    client = rig.client()
    assert said(rig, "AUTH alice a1", "INCR {f}", "RESET", "INCR {f}", "MGET {f} b", client=client) == [
        "OK", "1", "RESET", REFUSED, REFUSED
    ]  # fmt: skip
    assert said(rig, "GET {f}", "AUTH bob b1", "GET {f}", client=client) == [REFUSED, "OK", "1"]


def test_a_login_inside_a_transaction_is_refused_and_nothing_runs(rig: Rig) -> None:
    client = rig.client()
    inside = ["AUTH alice a1", "MULTI", "SET {f} 1", "AUTH bob b1", "SET {f} 2", "EXEC", "GET {f}"]
    replies = said(rig, *inside, client=client)
    assert "inside a transaction is refused" in replies[3] and replies[5].startswith("EXECABORT")
    assert replies[6] == "None"
    assert "refused" in said(rig, "MULTI", "HELLO 2 AUTH bob b1", "DISCARD", client=client)[1]


def test_limits_before_a_login_are_redis_own_and_end_with_it(rig: Rig) -> None:
    big = b"*3\r\n$3\r\nSET\r\n$3\r\n{f}\r\n$20000\r\n" + b"x" * 20_000 + b"\r\n"
    for data, reply in (
        (b"*11\r\n", b"-ERR Protocol error: unauthenticated multibulk length\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$16385\r\n", b"-ERR Protocol error: unauthenticated bulk length\r\n"),
        (b"*2\r\n$600000000\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*2147483648\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (big, b"-ERR Protocol error: unauthenticated bulk length\r\n"),
    ):
        client = rig.client()
        client.send_bytes(data)
        rig.run()
        assert client.raw == reply and client.closed
    client = rig.client()
    send_at_once(client, "AUTH alice a1")
    client.send_bytes(big)
    rig.run()
    assert client.replies == [b"OK", b"OK"]
    send_at_once(client, "RESET")
    client.send_bytes(big)
    rig.run()
    assert client.closed


def test_who_does_not_log_in_in_time_is_closed_and_nobody_else(rig: Rig) -> None:
    silent, chatty, member, left = (rig.client() for _ in range(4))
    said(rig, "AUTH alice a1", client=member)
    said(rig, "AUTH bob b1", client=left)
    rig.advance(LOGIN_WITHIN - 1)
    assert said(rig, "PING", client=chatty) == [REFUSED] and not silent.closed
    said(rig, "RESET", client=left)
    rig.advance(1.5)
    assert silent.closed and chatty.closed and not member.closed and not left.closed
    rig.advance(LOGIN_WITHIN)
    assert left.closed and not member.closed


def test_who_has_not_logged_in_and_does_not_read_costs_little(rig: Rig) -> None:
    rig.reading = False
    client = rig.client(room=1000)
    client.send_bytes(b"HELLO\r\n" * 100_000)
    rig.run()
    assert rig.plane.clients[1].unsent() < 2 * OUTPUT_BEFORE_LOGIN
    rig.advance(LOGIN_WITHIN + 1)
    assert rig.plane.client_count() == 0


def test_client_commands_concern_the_same_user_only(rig: Rig) -> None:
    alice, other, bob, stranger = (rig.client() for _ in range(4))
    said(rig, "AUTH alice a1", client=alice)
    said(rig, "AUTH alice a1", client=other)
    said(rig, "AUTH bob b1", "CLIENT SETNAME hidden", client=bob)
    assert [line.split()[0] for line in said(rig, "CLIENT LIST", client=alice)[0].splitlines()] == ["id=1", "id=2"]
    assert said(rig, "CLIENT LIST ID 3 4", client=alice) == [""]
    assert " user=bob " in said(rig, "CLIENT INFO", client=bob)[0]
    assert said(rig, "CLIENT KILL ID 3", "CLIENT KILL USER bob", "CLIENT KILL USER alice", client=alice) == [
        "0", "ERR No such user 'bob'", "1"
    ]  # fmt: skip
    assert said(rig, "CLIENT KILL client", client=alice) == ["ERR No such client"]
    assert other.closed and not bob.closed and not stranger.closed
    send_at_once(bob, "BLPOP {f}q 0")
    rig.run()
    assert said(rig, "CLIENT UNBLOCK 3", client=alice) == ["0"]
    assert len(bob.replies) == 3
    assert said(rig, "CLIENT PAUSE 1000", client=alice) == ["OK"]
    third = rig.client()
    said(rig, "AUTH bob b1", client=third)
    assert said(rig, "RPUSH {f}q x", client=third) == ["1"]
    assert bob.replies[3:4] == [[b"{f}q", b"x"]]
    assert said(rig, "GET {f}", client=alice) == []
    assert said(rig, "CLIENT UNPAUSE", client=bob) == ["OK"]
    assert len(said(rig, client=alice)) == 0
    rig.advance(1.1)
    assert alice.replies[-1] is None


def test_who_changes_the_user_leaves_its_pause(rig: Rig) -> None:
    alice, other = rig.client(), rig.client()
    said(rig, "AUTH alice a1", client=alice)
    said(rig, "AUTH alice a1", client=other)
    said(rig, "CLIENT PAUSE 1000 WRITE", client=alice)
    assert said(rig, "AUTH bob b1", "INCR {f}", client=other) == ["OK", "1"]
    assert said(rig, "INCR {f}", client=alice) == []
    rig.advance(1.5)
    assert alice.replies[-1] == 2 and rig.left_over() == []


# Under passthrough


def test_users_share_no_connection_but_two_clients_of_one_do(passthrough: Rig) -> None:
    rig = passthrough
    clients = [rig.client() for _ in range(3)]
    for client, login in zip(clients, ["AUTH alice a1", "AUTH bob b1", "HELLO 2 AUTH alice a1"], strict=True):
        said(rig, login, "INCR {f}", client=client)
    a, _ = rig.nodes
    used = [rig.link_used_by(client, a) for client in clients]
    assert used[0] is used[2] and used[0] is not used[1]
    assert [link.user for link in used] == ["b'alice'", "b'bob'", "b'alice'"]


def test_all_that_a_client_asks_travels_as_its_user(passthrough: Rig) -> None:
    rig = passthrough
    client = rig.client()
    said(rig, "AUTH alice a1", client=client)
    said(rig, "INCR {f}", "MGET {f} b", "DBSIZE", "WATCH {f}", "MULTI", "INCR {f}", "EXEC", "BLPOP {f}q {f}r 0.01",
         "SCAN 0", "SCRIPT KILL", client=client)  # fmt: skip
    rig.advance(1)
    names = {b"INCR", b"GET", b"MGET", b"DBSIZE", b"WATCH", b"BLPOP", b"SCAN", b"MULTI"}
    for node in rig.nodes:
        for link in node.links:
            if link.user == "":
                assert not names & {words[0] for words in link.received}
    assert len(links(rig, "WATCH", "{f}")) == 1 and rig.control.asides


def test_switching_back_and_forth_uses_each_users_connections(passthrough: Rig) -> None:
    rig = passthrough
    client = rig.client()
    said(rig, "AUTH alice a1", "SET {f}1 1", "AUTH bob b1", "SET {f}2 1", "HELLO 3 AUTH alice a1", "SET {f}3 1",
         "RESET", "SET {f}4 1", "HELLO 3 AUTH bob b1", "SET {f}5 1", client=client)  # fmt: skip
    used = {number: [link.user for link in links(rig, "SET", f"{{f}}{number}", "1")] for number in range(1, 6)}
    assert used == {1: ["b'alice'"], 2: ["b'bob'"], 3: ["b'alice'"], 4: [], 5: ["b'bob'"]}


def test_a_change_of_user_waits_for_what_is_in_flight_and_nothing_overtakes_it(passthrough: Rig) -> None:
    rig = passthrough
    client = rig.client()
    said(rig, "AUTH alice a1", client=client)
    a, _ = rig.nodes
    a.stopped = True
    send_at_once(client, "INCR {f}", "AUTH bob b1", "INCR {f}")
    rig.run()
    assert rig.control.logins == [] and client.replies == [b"OK"]
    a.stopped = False
    rig.judging = False
    rig.run()
    assert len(rig.control.logins) == 1 and client.replies == [b"OK", 1]
    rig.judging = True
    rig.run()
    assert client.replies == [b"OK", 1, b"OK", 2]


def test_who_leaves_while_a_node_judges_is_forgotten(passthrough: Rig) -> None:
    rig = passthrough
    rig.judging = False
    client = rig.client()
    send_at_once(client, "AUTH alice a1")
    rig.run()
    (login,) = rig.control.logins
    assert login.given is not None
    rig.advance(LOGIN_WITHIN + 1)
    assert client.closed and login.over and login.given is None
    rig.plane.login_judged(login, None, b"-WRONGPASS\r\n")
    assert rig.plane.counters.auth_failures == 0


def test_watched_keys_count_as_touched_when_the_user_changes(passthrough: Rig) -> None:
    rig = passthrough
    client = rig.client()
    replies = said(rig, "AUTH alice a1", "WATCH {f}", "AUTH bob b1", "MULTI", "INCR {f}", "EXEC", client=client)
    assert replies[-1] == "None"


def test_connections_and_secrets_of_a_user_end_some_time_after_its_last_client(passthrough: Rig) -> None:
    rig = passthrough
    client, other = rig.client(), rig.client()
    said(rig, "AUTH alice a1", "INCR {f}", client=client)
    said(rig, "AUTH alice a1", "INCR {f}", client=other)
    client.vanish()
    rig.advance(30)
    assert rig.control.forgotten == []
    other.vanish()
    rig.advance(5)
    again = rig.client()
    assert said(rig, "AUTH alice a1", "INCR {f}", client=again) == ["OK", "3"]
    again.vanish()
    rig.advance(15)
    assert [grant.account.name for grant in rig.control.forgotten] == [b"alice"]
    assert not [link for node in rig.nodes for link in node.open_links() if link.user]
    numbers = len(rig.plane.router.territory.nodes[rig.nodes[0].id].lanes)
    bob = rig.client()
    assert said(rig, "AUTH bob b1", "INCR {f}", client=bob) == ["OK", "4"]
    assert len(rig.plane.router.territory.nodes[rig.nodes[0].id].lanes) == numbers  # they were given back
    assert rig.link_used_by(bob, rig.nodes[0]).user == "b'bob'"


def test_of_two_passwords_one_can_be_revoked(passthrough: Rig) -> None:
    rig = passthrough
    first, second = rig.client(), rig.client()
    said(rig, "AUTH alice a1", "INCR {f}", client=first)
    rig.passwords[b"alice"] = b"a2"
    said(rig, "AUTH alice a2", "INCR {f}", client=second)
    assert rig.link_used_by(first, rig.nodes[0]) is rig.link_used_by(second, rig.nodes[0])
    assert rig.plane.revoke(rig.grants[(b"alice", b"a1")]) == 1
    rig.run()
    assert first.closed and not second.closed
    assert said(rig, "INCR {f}", client=second) == ["3"]
    assert rig.control.forgotten == [rig.grants[(b"alice", b"a1")]]


def test_a_revoked_user_loses_its_clients_and_its_connections_are_nobodys(passthrough: Rig) -> None:
    rig = passthrough
    alice, bob = rig.client(), rig.client()
    said(rig, "AUTH alice a1", "INCR {f}", client=alice)
    a, _ = rig.nodes
    a.down = True
    send_at_once(alice, "INCR {f}")
    rig.run()
    assert rig.plane.parked() == 1
    rig.plane.revoke(rig.grants[(b"alice", b"a1")])
    rig.run()
    a.down = False
    assert alice.closed
    said(rig, "AUTH bob b1", client=bob)
    bobs = rig.client_lane(bob)
    rig.advance(60)
    assert said(rig, "GET {f}", client=bob) == ["1"]
    assert bobs == rig.client_lane(bob) and rig.plane.parked() == 0 and rig.left_over() == []
    assert [link.user for link in links(rig, "INCR", "{f}")].count("b'bob'") == 0


def test_without_a_login_clients_are_the_default_user_if_the_cluster_says_so(make_rig: MakeRig) -> None:
    rig = make_rig(client_auth="passthrough")
    rig.passwords = {b"alice": b"a1", b"default": b"any"}
    early = rig.client()
    assert said(rig, "INCR {f}", "INCR {f}", client=early) == []  # nobody knows yet
    rig.plane.decide_default(rig.plane.accounts.grant(b"default", WITHOUT_PASSWORD))
    rig.run()
    assert early.replies == [1, 2]
    late = rig.client()
    assert said(rig, "INCR {f}", "AUTH alice a1", "INCR {f}", "RESET", "INCR {f}", client=late) == [
        "3", "OK", "4", "RESET", "5"
    ]  # fmt: skip
    assert [link.user for link in links(rig, "INCR", "{f}")] == ["b'default'", "b'alice'"]
    rig.plane.decide_default(None)
    rig.run()
    assert early.closed and late.closed
    assert said(rig, "GET {f}") == [REFUSED]


def test_who_has_closed_is_forgotten_once_what_it_asked_is_done(passthrough: Rig) -> None:
    rig = passthrough
    keeper = rig.client()
    said(rig, "AUTH alice a1", client=keeper)
    for _ in range(200):
        client = rig.client()
        said(rig, "AUTH alice a1", client=client)
        send_at_once(client, "INCR {f}", "DBSIZE")
        rig.run_proxy()
        client.vanish()
        rig.run_proxy()
        rig.run()
    gc.collect()
    assert sum(isinstance(one, Client) and one.plane is rig.plane for one in gc.get_objects()) < 70


def test_subscriptions_keep_the_rights_with_which_they_were_made(passthrough: Rig) -> None:
    rig = passthrough
    client, bob = rig.client(), rig.client()
    said(rig, "HELLO 3 AUTH alice a1", "SUBSCRIBE news", "AUTH bob b1", client=client)
    said(rig, "AUTH bob b1", client=bob)
    assert {link.user for link in links(rig, "subscribe", "news")} == {"b'alice'"}
    rig.advance(60)  # nobody works as alice
    client.raw = b""
    said(rig, "PUBLISH news hello", client=bob)
    assert b"hello" in client.raw and rig.control.forgotten == []
    assert said(rig, "INCR {f}", client=client)[-1] == "1"
    rig.plane.revoke(rig.grants[(b"alice", b"a1")])
    rig.run()
    assert client.closed and not bob.closed
    assert not [link for node in rig.nodes for link in node.open_links() if link.user == "b'alice'"]


# With a file


def test_a_file_read_anew_closes_whom_it_does_not_admit(make_rig: MakeRig) -> None:
    rig = make_rig(client_auth="file", users=USERS)
    one, two, bob = rig.client(), rig.client(), rig.client()
    said(rig, "AUTH alice a1", client=one)
    said(rig, "AUTH alice a2", client=two)
    said(rig, "AUTH bob b1", client=bob)
    assert rig.plane.use_users(parse_users(b"user alice on >a2\nuser bob off >b1")) == [b"alice", b"bob"]
    rig.run()
    assert (one.closed, two.closed, bob.closed) == (True, False, True)
    assert said(rig, "AUTH bob b1", "AUTH alice a2", "INCR {f}") == [WRONG, "OK", "1"]


def test_a_default_user_without_password_lets_everybody_in(make_rig: MakeRig) -> None:
    rig = make_rig(client_auth="file", users="user default on nopass\nuser alice on >a1")
    client, other = rig.client(), rig.client()
    assert said(rig, "INCR {f}", "ACL WHOAMI", "AUTH alice a1", "ACL WHOAMI", "RESET", "GET {f}", client=client) == [
        "1", "default", "OK", "alice", "RESET", "1"
    ]  # fmt: skip
    assert said(rig, "AUTH x", client=client)[0].startswith("ERR AUTH <password> called without any password")
    rig.plane.use_users(parse_users(b"user default on >new\nuser alice on >a1"))
    rig.run()
    assert client.closed and other.closed
    assert said(rig, "GET {f}", "AUTH new", "GET {f}", "ACL WHOAMI") == [REFUSED, "OK", "1", "default"]
    stranger = rig.client()
    assert said(rig, "GET {f}", client=stranger) == [REFUSED]
    rig.plane.use_users(parse_users(b"user default on nopass"))
    assert said(rig, "GET {f}", client=stranger) == ["1"]

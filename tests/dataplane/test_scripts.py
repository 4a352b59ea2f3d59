"""Scripts and functions that a node lacks: what is remembered, what is sent again, in which order, and how often.

`f` and `b` are tags of slots that node A owns at first, `a` of one that B owns.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from slotproxy.dataplane.scripts import NOFUNCTION, NOSCRIPT, Scripts
from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.servers import server_version
from slotproxy.protocol.redirects import Refusal
from slotproxy.protocol.requests import arguments_of
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import decode, error, pack
from tests.scripted_node import ScriptedCluster, ScriptedNode, slot_of
from tests.scripted_strings import SCRIPT
from tests.test_scripted_node import Place, play

F, A = slot_of(b"{f}"), slot_of(b"{a}")


def sha_of(text: str | bytes) -> str:
    return hashlib.sha1(text.encode() if isinstance(text, str) else text).hexdigest()


SHA = sha_of(SCRIPT)
SUSPECT = SCRIPT + " -- NOSCRIPT"  # could say so itself, as far as its text shows
UNKNOWN = "NOSCRIPT No matching script. Please use EVAL."
NOT_FOUND = "ERR Function not found"


def names(node: ScriptedNode) -> list[str]:
    """The commands that came in, refused ones too."""
    return [words[0].decode() for words in node.received()]


# What is remembered


def remembered(scripts: Scripts, texts: list[bytes]) -> list[bytes]:
    return [text for text in texts if scripts.text_of(sha_of(text).encode()) is not None]


def texts_of(*sizes: int) -> list[bytes]:
    return [bytes([ord("a") + number]) * size for number, size in enumerate(sizes)]


def test_the_least_recently_seen_text_goes_when_the_bytes_are_used_up() -> None:
    texts = texts_of(100, 100, 100, 100)
    scripts = Scripts(1000)
    for text in texts:
        scripts.note(text)
    assert remembered(scripts, texts) == texts[1:]
    assert 300 < scripts.size <= 1000


def test_a_large_text_takes_the_place_of_several_small_ones() -> None:
    texts = texts_of(10, 10, 10, 10, 500)
    scripts = Scripts(1000)
    for text in texts:
        scripts.note(text)
    assert remembered(scripts, texts) == texts[3:]


def test_a_text_that_is_too_large_to_be_kept_drives_out_no_other() -> None:
    texts = texts_of(100, 801, 800)
    scripts = Scripts(1000)
    for text in texts[:2]:
        scripts.note(text)
    assert remembered(scripts, texts) == texts[:1]
    scripts.note(texts[2])
    assert remembered(scripts, texts) == texts[2:]


@pytest.mark.parametrize("how", ["noted", "looked up"])
def test_a_text_that_is_used_again_stays(how: str) -> None:
    texts = texts_of(100, 100, 100, 100)
    scripts = Scripts(1000)
    for text in texts[:3]:
        scripts.note(text)
    size = scripts.size
    if how == "noted":
        scripts.note(texts[0])
    else:
        assert scripts.text_of(sha_of(texts[0]).encode()) == texts[0]
    assert scripts.size == size
    scripts.note(texts[3])
    assert remembered(scripts, texts) == [texts[0], texts[2], texts[3]]


def test_forgetting_gives_the_bytes_back() -> None:
    texts = texts_of(100, 200)
    scripts = Scripts(1000)
    scripts.note(texts[0])
    size = scripts.size
    scripts.note(texts[1])
    scripts.forget(texts[1])
    scripts.forget(b"never seen")
    assert scripts.size == size
    assert remembered(scripts, texts) == texts[:1]
    scripts.forget_all()
    assert (scripts.size, remembered(scripts, texts)) == (0, [])


def test_a_sha1_is_known_in_any_letter_case_and_nothing_else_is() -> None:
    scripts = Scripts(1000)
    text = b"return '\xff\0\r\n'"
    scripts.note(text)
    sha = sha_of(text).encode()
    assert scripts.text_of(sha.upper()) == scripts.text_of(sha.title()) == text
    for other in (b"", sha[:-1], sha + b"0", b"0" * 40, b"\xff" * 40, text):
        assert scripts.text_of(other) is None


# EVALSHA as EVAL


@pytest.mark.parametrize(("name", "expected"), [("evalsha", b"EVAL"), ("evalsha_ro", b"EVAL_RO")])
@pytest.mark.parametrize("arguments", [["0"], ["1", "k"], ["2", "k", "", "\r\n$1\r\n"], ["1", *["x" * 50] * 3000]])
def test_an_evalsha_becomes_the_eval_that_it_stands_for(name: str, expected: bytes, arguments: list[str]) -> None:
    scripts = Scripts(10_000)
    text = b"return '\xff\0\r\n*1\r\n'"
    scripts.note(text)
    encoded = [argument.encode() for argument in arguments]
    for sha in (sha_of(text), sha_of(text).upper()):
        request = scripts.as_eval(pack(name.title(), sha, *encoded), name)
        assert request is not None
        assert request == pack(expected, text, *encoded)
        assert arguments_of(request) == [expected, text, *encoded]


@pytest.mark.parametrize("name", ["evalsha", "eval", "fcall"])
def test_what_is_no_known_evalsha_becomes_no_eval(name: str) -> None:
    scripts = Scripts(1000)
    if name != "evalsha":
        scripts.note(b"return 1")
    assert scripts.as_eval(pack(name, sha_of("return 1"), 0), name) is None


@pytest.mark.parametrize(
    ("name", "first", "reply", "expected"),
    [
        ("evalsha", SHA, NOSCRIPT, Refusal.NOSCRIPT),
        ("evalsha_ro", SHA.upper(), NOSCRIPT, Refusal.NOSCRIPT),
        ("evalsha", sha_of("another"), NOSCRIPT, None),
        ("evalsha", "no SHA1", NOSCRIPT, None),
        ("evalsha", SHA, b"-NOSCRIPT No matching script.\r\n", None),
        ("evalsha", SHA, b"-NOSCRIPT\r\n", None),
        ("evalsha", SHA, NOFUNCTION, None),
        ("eval", SCRIPT, NOSCRIPT, None),
        ("fcall", SHA, NOSCRIPT, None),
        ("fcall", "f", NOFUNCTION, Refusal.NOFUNCTION),
        ("fcall_ro", "f", NOFUNCTION, Refusal.NOFUNCTION),
        ("fcall", "f", b"-ERR Function not found.\r\n", None),
        ("eval", SCRIPT, NOFUNCTION, None),
    ],
)
def test_which_errors_say_that_code_is_missing(name: str, first: str, reply: bytes, expected: Refusal | None) -> None:
    scripts = Scripts(1000)
    scripts.note(SCRIPT.encode())
    assert scripts.refusal_of(name, pack(name, first, 0), reply) == expected


def test_which_scripts_could_say_a_word_themselves() -> None:
    scripts = Scripts(1000)
    scripts.note(SCRIPT.encode())
    scripts.note(SUSPECT.encode())

    def may_say(*words: str | int) -> bool:
        return scripts.may_say(b"NOSCRIPT", pack(*words), str(words[0]).lower())

    assert not may_say("EVALSHA", SHA, 1, "k", "noscript")
    assert not may_say("EVAL_RO", SCRIPT, 1, "k")
    assert may_say("EVALSHA", sha_of("unknown"), 0)
    assert may_say("EVALSHA", SHA, 1, "NOSCRIPT")
    assert may_say("EVALSHA", SHA, 1, "k", "-NOSCRIPT No")
    assert may_say("EVALSHA", sha_of(SUSPECT).upper(), 0)
    assert may_say("EVAL", SUSPECT, 0)
    assert may_say("FCALL", "f", 0)


# The nodes of these tests


PLAYBOOK = f"""
    a: EVALSHA {SHA} 1 k{{f}} -> -{UNKNOWN}
    a: EVAL "{SCRIPT}" 1 k{{f}}; EVALSHA {SHA} 1 k{{f}}; EVALSHA {SHA.upper()} 1 k{{f}} -> 1; 2; 3
    b: EVALSHA {SHA} 1 k{{f}} -> -MOVED {{slot}} {{a}}
    b: EVALSHA {SHA} 0; EVALSHA nonsense 0 -> -{UNKNOWN}; -{UNKNOWN}
    b: CLUSTER SETSLOT {{slot}} IMPORTING {{a.id}} -> OK
    a: CLUSTER SETSLOT {{slot}} MIGRATING {{b.id}} -> OK
    a: EVALSHA {SHA} 1 n{{f}}; EVALSHA nonsense 1 n{{f}} -> -ASK {{slot}} {{b}}; -ASK {{slot}} {{b}}
    b: ASKING; EVALSHA {SHA} 1 n{{f}}; EVALSHA {SHA} 1 n{{f}} -> OK; -{UNKNOWN}; -MOVED {{slot}} {{a}}
    b: ASKING; EVAL "{SCRIPT}" 1 n{{f}}; ASKING; EVALSHA {SHA} 1 n{{f}} -> OK; 1; OK; 2
    b: ASKING; EVALSHA {SHA} 2 n{{f}} m{{f}} -> OK; -TRYAGAIN Multiple keys request during rehashing of slot
    a: EVALSHA {SHA} 1 k{{f}} "{UNKNOWN}"; GET k{{f}} -> -{UNKNOWN}; 4
    a: SCRIPT FLUSH; EVALSHA {SHA} 1 k{{f}} -> OK; -{UNKNOWN}
"""
FUNCTIONS = f"a: FCALL nosuch 1 k{{f}}; FCALL nosuch 0 -> -{NOT_FOUND}; -{NOT_FOUND}"


async def test_the_scripted_node_answers_scripts_by_the_playbook() -> None:
    cluster = ScriptedCluster(3)
    sockets = {letter: node.connect() for letter, node in zip("abc", cluster.nodes, strict=True)}
    places = {key: Place(node.address, node.id, node.port) for key, node in zip("abc", cluster.nodes, strict=True)}

    async def send(node: str, commands: list[list[str]]) -> list[Any]:
        sockets[node].send(b"".join(pack(*words) for words in commands))
        cluster.serve()
        return decode(sockets[node].recv(65_536))

    await play(PLAYBOOK + FUNCTIONS, places, send, before_7=False)
    for sock in sockets.values():
        sock.close()
    cluster.serve()


async def test_real_servers_answer_scripts_by_the_playbook(cluster: EmbeddedCluster, redis_server: str) -> None:
    nodes = dict(zip("abc", cluster.nodes, strict=True))
    places = {key: Place(node.address, node.id, node.port) for key, node in nodes.items()}
    before_7 = server_version(redis_server) < (7,)

    async def send(node: str, commands: list[list[str]]) -> list[Any]:
        return await nodes[node].pipeline(*commands)

    await play(PLAYBOOK if before_7 else PLAYBOOK + FUNCTIONS, places, send, before_7)


# A script that a node lacks


def knowing(rig: Rig, *texts: str) -> ScriptedClient:
    """A client, after somebody's EVAL of the texts; no node has the scripts any more."""
    client = rig.client()
    for text in texts or (SCRIPT,):
        client.send("EVAL", text, 0)
    rig.run()
    assert client.errors() == []
    client.replies.clear()
    for node in rig.nodes:
        node.scripts.clear()
        node.executed.clear()
        for link in node.links:
            link.received.clear()
    return client


def confirm_all(rig: Rig, seconds: float) -> None:
    """Let time pass; every refusal is the node's own."""
    until = rig.clock.now + seconds
    while rig.clock.now < until:
        rig.advance(0.05)
        while rig.control.confirmations:
            rig.confirm(genuine=True)


def test_noscript_is_never_seen_of_a_script_that_went_through_the_proxy(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    other = rig.client()
    for sha in (SHA, SHA.upper()):
        client.send("EVALSHA", sha, 1, "{f}")
    other.send("EVALSHA", SHA, 1, "{a}")
    rig.run()  # no time passes
    assert (client.replies, other.replies) == ([1, 2], [1])
    assert names(rig.nodes[0]) == ["EVALSHA", "EVAL", "EVALSHA"]
    assert names(rig.nodes[1]) == ["EVALSHA", "EVAL"]
    assert rig.control.confirmations == []
    assert rig.plane.counters.scripts_supplied == 2
    assert rig.left_over() == []


def test_what_is_pipelined_behind_it_runs_after_it_and_in_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    other = rig.client()
    for _ in range(20):
        client.send("EVALSHA", SHA, 1, "{f}")
        client.send("INCR", "{f}")
        client.send("INCR", "{b}")
        other.send("INCR", "x{f}")
    rig.run_proxy()
    (link,) = rig.nodes[0].open_links()
    link.receive()
    # One of its slot; the others' and other slots' commands do not wait.
    assert [words[1] for words in link.inbox].count(b"{f}") == 0
    assert len([words for words in link.inbox if words[0] == b"EVALSHA"]) == 1
    assert len(link.inbox) == 41
    rig.run()
    assert [reply for index, reply in enumerate(client.replies) if index % 3 != 2] == list(range(1, 41))
    assert client.replies[2::3] == list(range(1, 21))
    assert names(rig.nodes[0]).count("EVAL") == 1
    assert rig.left_over() == []


def test_a_missing_script_without_keys_is_supplied_and_keeps_its_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    client.send("EVALSHA", SHA, 0)
    client.send("COMMAND", "COUNT")
    rig.run()
    assert client.replies == [None, 2]
    assert [names(node) for node in rig.nodes if node.received()] == [["EVALSHA", "EVAL", "COMMAND"]]
    assert rig.left_over() == []


def test_a_missing_script_is_supplied_to_the_node_that_an_ask_names(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    a, b = rig.nodes
    a.scripts.add(SHA.encode())
    rig.cluster.migration(F, a, b)
    client.send("EVALSHA", SHA, 1, "{f}")
    client.send("APPEND", "{f}", "x")
    client.send("EVALSHA", SHA, 1, "new{f}")
    confirm_all(rig, 1)
    assert client.replies == [1, 2, 1]
    block = ["ASKING", "MULTI", "EVALSHA", "EXEC"]
    assert names(b) == [*block, "ASKING", "MULTI", "EVAL", "EXEC", "ASKING", "APPEND", *block]
    assert a.executed == []
    assert rig.owner(F) == "A"


def test_a_missing_script_is_supplied_to_the_node_that_a_moved_names(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    a, b = rig.nodes
    rig.cluster.own(F, b)
    for _ in range(3):
        client.send("EVALSHA", SHA, 1, "{f}")
        client.send("INCR", "{f}")
    rig.run()
    assert client.replies == []
    rig.confirm(genuine=True)
    rig.run()
    assert client.replies == [1, 2, 3, 4, 5, 6]
    assert (names(a), names(b)[:6]) == (["EVALSHA"], ["MULTI", "EVALSHA", "EXEC", "MULTI", "EVAL", "EXEC"])
    assert rig.owner(F) == "B"


def test_a_missing_script_is_supplied_when_the_migration_that_it_waited_for_has_ended(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    a, b = rig.nodes
    a.scripts.add(SHA.encode())
    a.keys[b"1{f}"] = b"5"
    migration = rig.cluster.migration(F, a, b)
    client.send("EVALSHA", SHA, 2, "1{f}", "2{f}")
    client.send("INCR", "1{f}")
    confirm_all(rig, 1)
    assert client.replies == []
    migration.finish()
    confirm_all(rig, 1)
    assert client.replies == [1, 7]
    assert b.keys == {b"1{f}": b"7", b"2{f}": b"1"}
    assert "EVAL" in names(b) and "EVAL" not in names(a)


def test_however_often_it_had_to_try_again_before_a_missing_script_is_supplied(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=60.0)
    client = knowing(rig)
    a, b = rig.nodes
    a.scripts.add(SHA.encode())
    a.keys[b"1{f}"] = b"5"
    migration = rig.cluster.migration(F, a, b)
    client.send("EVALSHA", SHA, 2, "1{f}", "2{f}")
    confirm_all(rig, 25)
    assert names(a).count("EVALSHA") > 100
    migration.finish()
    confirm_all(rig, 1)
    assert client.replies == [1]


def test_a_lost_connection_leaves_it_in_doubt_while_it_may_have_run(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    rig.nodes[0].drop_at("EVALSHA", runs=False)
    client.send("EVALSHA", SHA, 1, "{f}")
    client.send("INCR", "{f}")
    rig.advance(1)
    (message,) = client.errors()
    assert message.startswith("ERR slotproxy: in doubt:") and " EVALSHA " in message
    assert client.replies[1] == 1
    assert rig.left_over() == []


@pytest.mark.parametrize("runs", [False, True])
def test_a_connection_that_is_lost_with_the_supplied_script_leaves_it_in_doubt(make_rig: MakeRig, runs: bool) -> None:
    rig = make_rig()
    client = knowing(rig)
    rig.nodes[0].drop_at("EVAL", runs=runs)
    client.send("EVALSHA", SHA, 1, "{f}")
    client.send("EVALSHA", SHA, 1, "{f}")
    rig.advance(1)
    (message,) = client.errors()
    assert message.startswith("ERR slotproxy: in doubt:")
    assert client.replies[1] == (2 if runs else 1)
    assert rig.nodes[0].keys == {b"{f}": b"2" if runs else b"1"}
    assert rig.left_over() == []


def test_a_script_that_was_not_sent_yet_when_the_connection_was_lost_is_supplied_on_the_next(
    make_rig: MakeRig,
) -> None:
    rig = make_rig()
    client = knowing(rig)
    rig.dialling = False
    rig.nodes[0].drop_links()
    rig.tick()
    client.send("EVALSHA", SHA, 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies == []
    rig.dialling = True
    rig.advance(1)
    assert client.replies == [1, 2]


# A NOSCRIPT that is the reply


@pytest.mark.parametrize("sha", [sha_of("never seen"), "", "x", SHA + "0", b"\xff" * 40])
def test_an_unknown_script_is_the_nodes_own_error(make_rig: MakeRig, sha: str | bytes) -> None:
    rig = make_rig()
    client = knowing(rig)
    client.send("EVALSHA", sha, 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    assert client.errors() == [UNKNOWN]
    assert client.replies[1] == 1
    assert names(rig.nodes[0]) == ["EVALSHA", "INCR"]
    assert rig.left_over() == []


def test_after_script_flush_a_script_is_unknown_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    client.send("EVALSHA", SHA, 1, "{f}")
    client.send("SCRIPT", "FLUSH")
    client.send("EVALSHA", SHA, 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    assert client.errors() == [UNKNOWN]
    assert (client.replies[:2], client.replies[3]) == ([1, b"OK"], 2)
    client.send("EVAL", SCRIPT, 1, "{a}")
    client.send("EVALSHA", SHA, 1, "{f}")
    rig.run()
    assert client.replies[4:] == [1, 3]


def test_a_script_flush_that_fails_at_one_node_forgets_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    rig.nodes[1].answer("SCRIPT", error("BUSY Redis is busy running a script."))
    client.send("SCRIPT", "FLUSH")
    client.send("EVALSHA", SHA, 1, "{f}")
    rig.run()
    (message,) = client.errors()
    assert "BUSY" in message
    assert client.replies[1] == 1


@pytest.mark.parametrize("by", ["text", "argument"])
@pytest.mark.parametrize("known", [False, True])
def test_a_script_that_may_say_noscript_itself_is_sent_with_its_text_from_the_first(
    make_rig: MakeRig, by: str, known: bool
) -> None:
    rig = make_rig()
    text = SUSPECT if by == "text" else SCRIPT
    client = knowing(rig, text)
    a, _ = rig.nodes
    if known:
        a.scripts.add(sha_of(text).encode())
    if by == "text":
        a.answer("EVAL", error(UNKNOWN), runs=True)
    client.send("EVALSHA", sha_of(text), 1, "{f}", *([] if by == "text" else [UNKNOWN]))
    client.send("INCR", "{f}")
    rig.run()
    assert a.keys == {b"{f}": b"2"}  # it ran once
    assert client.errors() == [UNKNOWN]
    assert client.replies[1:] == [2]
    assert names(a) == ["EVAL", "INCR"]
    assert rig.left_over() == []


def test_two_calls_of_a_suspect_script_that_a_node_lacks(make_rig: MakeRig) -> None:
    rig = make_rig()
    clients = [knowing(rig, SUSPECT), rig.client()]
    for client in clients:
        client.send("EVALSHA", sha_of(SUSPECT), 1, "{f}")
    rig.run()
    assert [client.replies for client in clients] == [[1], [2]]


def test_a_supplied_script_that_says_noscript_is_believed(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = knowing(rig)
    rig.nodes[0].answer("EVAL", error(UNKNOWN), runs=True)
    client.send("EVALSHA", SHA, 1, "{f}")
    rig.run()
    assert client.errors() == [UNKNOWN]
    assert rig.nodes[0].keys == {b"{f}": b"1"}
    assert names(rig.nodes[0]) == ["EVALSHA", "EVAL"]


def test_an_eval_that_says_noscript_is_believed(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("EVAL", SCRIPT, 1, "{f}", UNKNOWN)
    rig.run()
    assert client.errors() == [UNKNOWN]
    assert rig.nodes[0].keys == {b"{f}": b"1"}


@pytest.mark.parametrize("kind", ["EVAL", "EVALSHA"])
@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("return (", "ERR Error compiling script (new function): user_script:1: unexpected symbol near '<eof>'"),
        ("#!lua", "ERR Invalid script shebang"),
        ("#!js\nreturn 1", "ERR Unexpected engine in script shebang: #!js"),
        ("#!lua x\nreturn 1", "ERR Unknown lua shebang option: x"),
        ("#!lua flags=x\nreturn 1", "ERR Unexpected flag in script shebang: x"),
    ],
)
def test_what_does_not_compile_is_no_script(make_rig: MakeRig, text: str, wrong: str, kind: str) -> None:
    rig = make_rig()
    client = rig.client()
    rig.nodes[0].answer("EVAL", error(wrong))
    client.send("EVAL", text, 1, "{f}") if kind == "EVAL" else rig.plane.router.scripts.note(text.encode())
    client.send("EVALSHA", sha_of(text), 1, "{f}")
    client.send("EVALSHA", sha_of(text), 1, "{f}")
    rig.run()
    assert client.errors() == ([wrong, UNKNOWN, UNKNOWN] if kind == "EVAL" else [wrong, UNKNOWN])
    assert rig.plane.router.scripts.size == 0


# Functions


def test_a_missing_function_is_asked_for_and_the_call_sent_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    client, other = rig.client(), rig.client()
    a, _ = rig.nodes
    client.send("FCALL", "f", 1, "{f}")
    client.send("INCR", "{f}")
    client.send("INCR", "{b}")
    other.send("INCR", "x{f}")
    rig.run()
    ((request, node, refusal, reply),) = rig.control.confirmations
    assert (request.slot, node.name, refusal, reply) == (F, a.address, Refusal.NOFUNCTION, error(NOT_FOUND))
    assert (client.replies, other.replies) == ([], [1])
    assert a.keys == {b"{b}": b"1", b"x{f}": b"1"}
    a.functions.add(b"f")
    rig.confirm(genuine=True)
    rig.run()
    assert client.replies == [1, 2, 1]
    assert rig.left_over() == []


@pytest.mark.parametrize("keys", [1, 0])
def test_a_function_that_nobody_has_is_the_nodes_own_error(make_rig: MakeRig, keys: int) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("FCALL", "nosuch", keys, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    rig.confirm(genuine=False)
    rig.run()
    assert client.errors() == [NOT_FOUND]
    assert client.replies[1] == 1
    assert sum(names(node).count("FCALL") for node in rig.nodes) == 1
    assert rig.left_over() == []


def test_a_function_that_is_missing_under_ask_is_asked_for_at_the_target(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    a, b = rig.nodes
    a.functions.add(b"f")
    rig.cluster.migration(F, a, b)
    client.send("FCALL", "f", 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    assert rig.control.confirmations[0][2] == Refusal.ASK
    rig.confirm(genuine=True)
    rig.run()
    ((_, node, refusal, _),) = rig.control.confirmations
    assert (node.name, refusal) == (b.address, Refusal.NOFUNCTION)
    b.functions.add(b"f")
    rig.confirm(genuine=True)
    rig.run()
    assert rig.control.confirmations == []  # the source, which comes first again, cannot be mistaken now
    assert client.replies == [1, 2]
    assert b.keys == {b"{f}": b"2"}


def test_a_function_that_stays_missing_ends_with_the_nodes_error(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("FCALL", "f", 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    for _ in range(1000):
        if not rig.control.confirmations:
            break
        rig.confirm(genuine=True)
        rig.run()
    assert client.errors() == [NOT_FOUND]
    assert client.replies[1] == 1
    assert len(names(rig.nodes[0])) < 200
    assert rig.left_over() == []


def test_clients_that_leave_while_their_function_is_brought_leave_nothing_behind(make_rig: MakeRig) -> None:
    rig = make_rig()
    client, other = rig.client(), rig.client()
    client.send("FCALL", "f", 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    client.vanish()
    rig.run()
    rig.nodes[0].functions.add(b"f")
    rig.confirm(genuine=True)
    rig.run()
    other.send("GET", "{f}")
    rig.run()
    assert rig.nodes[0].keys == {b"{f}": b"2"}
    assert other.replies == [b"2"]
    assert rig.plane.in_flight() == 0 and rig.plane.parked() == 0
    assert not rig.plane.router.order.gates

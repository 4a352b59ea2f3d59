"""What becomes of a client's command that is not plain: the decision is taken, and executed.

Duty: one place where decisions (`protocol.decisions`) turn into requests, tasks that run alone, or answers; and where
the commands between MULTI and EXEC are held back instead.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.accounts import FILE, NONE
from slotproxy.dataplane.answers import answer_locally, runs_alone
from slotproxy.dataplane.authenticating import credentials_of
from slotproxy.dataplane.blocked import Blocked
from slotproxy.dataplane.execution import Execution, calls_function
from slotproxy.dataplane.logins import NOT_INSIDE, Login, is_kept_out, must_be_judged
from slotproxy.dataplane.monitoring import NO_KEYS
from slotproxy.dataplane.private import echo
from slotproxy.dataplane.receivers import publish
from slotproxy.dataplane.replicas import ReplicaWait
from slotproxy.dataplane.requests import Request, parts_of
from slotproxy.dataplane.solo import Solo
from slotproxy.dataplane.subscribing import Subscribe, unsubscribe
from slotproxy.dataplane.watching import Watch
from slotproxy.protocol.blocking import read_wait
from slotproxy.protocol.blocks import QUEUED, aborted, block_of
from slotproxy.protocol.clientfilters import paused_as_write
from slotproxy.protocol.commands import Command
from slotproxy.protocol.decisions import (
    CROSSSLOT,
    Answer,
    AnswerLocally,
    AwaitReplicas,
    Decision,
    Forward,
    ForwardKeyless,
    Hangup,
    MayWait,
    OverNodes,
    Scan,
    SplitUp,
    Subscription,
    Transact,
    Unknown,
    decide,
)
from slotproxy.protocol.pubsub import ALLOWED, CHANNELS, SHARDS, SUBSCRIBING, UNSUBSCRIBING, not_while_subscribed
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import EMPTY_ARRAY, OK, error
from slotproxy.protocol.slots import key_slot
from slotproxy.protocol.tracking import caching_of, keys_of
from slotproxy.protocol.transactions import DISCARDED, KEYLESS, READS, Plan, Queued, refusal_to_queue

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_NESTED: Final = error("ERR MULTI calls can not be nested")
_WATCH_INSIDE: Final = error("ERR WATCH inside MULTI is not allowed")
_WITHOUT: Final = {
    "exec": error("ERR EXEC without MULTI"),
    "discard": error("ERR DISCARD without MULTI"),
}
_OVERHEAD: Final = 500  # bytes that a queued command costs besides its own
_AT_ONCE: Final = frozenset(["quit", "reset"])  # also between MULTI and EXEC


class Transaction:
    """What a client has queued since MULTI. `failed`: a command could not be queued."""

    def __init__(self) -> None:
        self.queued: Final[list[Queued]] = []
        self.size: int = 0
        self.failed: bool = False


def dispatch(client: "Client", plane: "Plane", raw: bytes) -> None:
    """Run one command of a client: any but a regular one with exactly one key outside of a transaction."""
    arguments = arguments_of(raw)
    decision = decide(plane.table, arguments, plane.allow_admin)
    if not client.grant.account.enters and is_kept_out(client, plane, decision, arguments, raw):
        return
    if plane.accounts.mode == FILE and isinstance(decision, ForwardKeyless) and decision.command.name == "acl|whoami":
        decision = AnswerLocally("whoami")  # the node knows one user of the proxy only
    transaction = client.transaction
    if client.confined and not _is_allowed(client, plane, decision, arguments):
        return
    if client.private is not None:
        client.private.taken(raw, arguments[0])
    if client.monitor is not None and _touches_keys(plane.table.resolve(arguments), decision):
        if transaction is not None:
            transaction.failed = True
        client.answer(NO_KEYS)
        return
    if isinstance(decision, Answer) and arguments[0].lower() == b"exec":  # of wrong arity: it discards, too (7.0.15)
        client.transaction = None
        client.watching.end()
        client.answer(aborted(decision.frame))
    elif isinstance(decision, Transact):
        client.count(decision.command)
        _transact(client, plane, decision.command, arguments, raw)
    elif transaction is not None and not (isinstance(decision, AnswerLocally) and decision.name in _AT_ONCE):
        _queue(client, plane, transaction, decision, arguments, raw)
    elif isinstance(decision, Forward):
        if not client.stopped([decision.command], raw):
            if decision.command.script:
                raw = plane.router.scripts.prepare(raw, decision.command.name, arguments)
            if decision.command.name == "spublish":
                publish(client, plane, decision.command, SHARDS, decision.slot, raw, arguments[1])
            else:
                client.forward(decision.command, decision.slot, raw, decision.barrier)
    elif isinstance(decision, ForwardKeyless):
        if not client.stopped([decision.command], raw):
            if decision.barrier:
                raw = plane.router.scripts.prepare(raw, decision.command.name, arguments)
            slot = plane.router.territory.keyless_slot(client.id)
            if decision.command.name == "publish":
                publish(client, plane, decision.command, CHANNELS, slot, raw, arguments[1])
            else:
                client.forward(decision.command, slot, raw, decision.barrier)
    elif isinstance(decision, SplitUp):
        if not client.stopped([decision.command], raw):
            client.count(decision.command)
            owner = Request(client, decision.command, decision.parts[0].slot, raw, plane.reactor.now)
            client.stamp(owner)
            client.queue.push(owner)
            for part in parts_of(owner, decision.parts):
                plane.router.submit(part)
    elif isinstance(decision, (OverNodes, Scan)):
        if not client.stopped([decision.command], raw) and client.alone(raw):
            client.count(decision.command)
            client.run(Solo(client, plane, decision.command, decision, arguments, raw))
    elif isinstance(decision, MayWait):
        _wait(client, plane, decision, arguments, raw)
    elif isinstance(decision, Subscription):
        _subscription(client, plane, decision, raw)
    elif isinstance(decision, AwaitReplicas):
        if client.alone(raw):
            client.count(decision.command)
            client.run(ReplicaWait(client, plane, decision.command, raw))
    elif isinstance(decision, AnswerLocally):
        _answer(client, plane, decision.name, arguments, raw)
    elif isinstance(decision, Answer):
        client.answer(decision.frame)
    elif isinstance(decision, Unknown):
        if _is_unknown(client, plane, raw):
            client.answer(decision.frame)
    elif isinstance(decision, Hangup):
        client.finish()


def _is_told(client: "Client", plane: "Plane") -> bool:
    """Whether nodes may have something to tell it, so that PING has to ask them."""
    return client.private is not None or client.id in plane.targets


def _touches_keys(called: Command | None, decision: Decision) -> bool:
    """Whether the server takes it for a read or a write (server.c, processCommand, 7.0.15)."""
    if called is None or isinstance(decision, (Answer, Unknown)):
        return False
    return called.readonly or paused_as_write(called)


def _is_unknown(client: "Client", plane: "Plane", raw: bytes) -> bool:
    """Whether the nodes lack the command, too; else it is taken again when their table has been read."""
    if not plane.table_may_be_old():
        client.command = None
        return True
    if client.alone(raw):
        client.next = raw
        plane.await_table(client)
    return False


def _answer(client: "Client", plane: "Plane", name: str, arguments: list[bytes], raw: bytes) -> None:
    if runs_alone(arguments) and not client.alone(raw):
        return
    called = plane.table.resolve(arguments)
    if called is not None:
        client.count(called)
        given = must_be_judged(plane, name, arguments)
        if given is not None:
            client.run(Login(client, plane, called, name, arguments, given))
            return
    frame = answer_locally(name, client, plane, arguments)
    if name == "ping" and called is not None and _is_told(client, plane) and echo(client, plane, called, frame):
        return
    if frame:
        client.answer(frame)
    if client.leaving:
        client.finish()


def _is_allowed(client: "Client", plane: "Plane", decision: Decision, arguments: list[bytes]) -> bool:
    """Whether a RESP2 client that has subscribed may say this; else it is told. What is wrong has its own error."""
    called = plane.table.resolve(arguments)
    if called is None or called.name in ALLOWED or isinstance(decision, (Answer, Unknown, Hangup)):
        return True
    refusal = not_while_subscribed(called.name)
    client.answer(aborted(refusal) if called.name == "exec" else refusal)
    return False


def _subscription(client: "Client", plane: "Plane", decision: Subscription, raw: bytes) -> None:
    called = decision.command
    if called.name in UNSUBSCRIBING:
        client.count(called)
        unsubscribe(client, UNSUBSCRIBING[called.name], decision.arguments)
    elif client.alone(raw):
        client.count(called)
        client.run(Subscribe(client, plane, called, SUBSCRIBING[called.name], decision.arguments))


def _wait(client: "Client", plane: "Plane", decision: MayWait, arguments: list[bytes], raw: bytes) -> None:
    called = decision.command
    wait = read_wait(called.name, arguments, decision.keys)
    slots = {int(key_slot(key)) for key in decision.keys}
    if len(slots) > 1 and (wait is None or wait.moves):
        client.answer(CROSSSLOT)
        return
    if not client.stopped([called], raw) and client.alone(raw):
        client.count(called)
        client.run(Blocked(client, plane, called, raw, decision.keys, wait))
        if client.private is not None and called.readonly:
            client.private.reads_untracked(decision.keys)


# Transactions


def _queue(
    client: "Client", plane: "Plane", transaction: Transaction, decision: Decision, arguments: list[bytes], raw: bytes
) -> None:
    """Hold a command until EXEC, or say what is wrong with it."""
    if isinstance(decision, Hangup):
        client.finish()
        return
    called = plane.table.resolve(arguments)
    problem = refusal_to_queue(called, decision, arguments)
    if isinstance(decision, Unknown) and not _is_unknown(client, plane, raw):
        return
    if problem is None and isinstance(decision, AnswerLocally) and plane.accounts.mode != NONE and \
            credentials_of(decision.name, arguments) is not None:  # fmt: skip
        problem = NOT_INSIDE  # what is queued runs as one user
    if problem is None and transaction.size + len(raw) > plane.request_limits.request:
        problem = error(
            f"ERR slotproxy: the transaction is larger than {plane.request_limits.request} bytes (--max-request);"
            " EXEC will discard it"
        )
    if problem is not None:
        transaction.failed = True
        client.answer(problem)
        return
    if called is not None:
        client.count(called)
        if called.name == "client|caching" and client.private is not None:
            caching = caching_of(arguments[2], client.private.options)
            if isinstance(caching, int):
                client.private.cache(caching)
        if called.script:
            # NOSCRIPT would come when the commands before it have run.
            raw = plane.router.scripts.prepare(raw, called.name, arguments)
            raw = plane.router.scripts.as_eval(raw, called.name) or raw
    transaction.size += len(raw) + _OVERHEAD
    transaction.queued.append(Queued(called, decision, arguments, raw))
    client.answer(QUEUED)


def _transact(client: "Client", plane: "Plane", called: Command, arguments: list[bytes], raw: bytes) -> None:
    transaction = client.transaction
    if called.name == "exec" or called.name == "discard":
        if transaction is None:
            client.answer(_WITHOUT[called.name])
        elif called.name == "discard":
            client.transaction = None
            client.watching.end()
            client.answer(OK)
        else:
            _execute(client, plane, transaction, called, raw)
    elif transaction is not None:
        if called.name == "unwatch":
            transaction.queued.append(Queued(called, Transact(called), arguments, raw))
            client.answer(QUEUED)
        else:
            client.answer(_NESTED if called.name == "multi" else _WATCH_INSIDE)
    elif called.name == "multi":
        denied = client.key.identity.denied
        if not denied:
            client.transaction = Transaction()
        client.answer(denied or OK)
    elif called.name == "watch":
        if client.alone(raw):
            client.run(Watch(client, plane, called, arguments, raw))
    else:
        client.watching.end()
        client.answer(OK)


def _execute(client: "Client", plane: "Plane", transaction: Transaction, called: Command, raw: bytes) -> None:
    watches = len(client.watching.slots) > 0
    if transaction.failed:
        client.transaction = None
        client.watching.end()
        client.answer(DISCARDED)
        return
    if client.stopped([one.command for one in transaction.queued], raw):
        return
    plan = Plan(transaction.queued)
    if not transaction.queued and not watches:
        client.transaction = None
        client.answer(EMPTY_ARRAY)
        return
    calls = any([calls_function(one.command) for one in transaction.queued])
    simple = not watches and not calls and plan.is_one_block()
    # Commands without keys go to the client's own node otherwise: to keep their order nothing of it may be in flight.
    if simple and (not plan.groups[0].keyless or plan.groups[0].slot == KEYLESS):
        client.transaction = None
        group = plan.groups[0]
        slot = plane.router.territory.keyless_slot(client.id) if group.slot == KEYLESS else group.slot
        run = READS if group.repeatable else called
        request = Request(client, run, slot, block_of(group.requests), plane.reactor.now, True)
        request.commands = len(group.requests)
        client.stamp(request)
        client.queue.push(request)
        plane.router.submit(request)
    elif client.alone(raw):
        client.run(Execution(client, plane, called, raw, plan))
        if client.private is not None and watches:
            client.private.reads_untracked([key for one in plan.queued for key in keys_of(one.command, one.arguments)])

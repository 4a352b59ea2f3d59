"""CLIENT, about the proxy's clients that have the same account: what `clientfilters` has read is carried out here."""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.clientlist import Described, flags_of, is_listed, is_meant, lines_of
from slotproxy.dataplane.private import set_no_touch, stop_tracking, track
from slotproxy.protocol.clientfilters import (
    ClientRequest,
    DescribeMe,
    DescribeTracking,
    GetId,
    GetName,
    GetRedirection,
    KillClients,
    ListClients,
    PauseClients,
    SetCaching,
    SetName,
    SetNoEvict,
    SetNoTouch,
    SetReplyMode,
    SetTracking,
    UnblockClient,
    UnpauseClients,
    parse_client,
)
from slotproxy.protocol.decisions import not_supported, unknown_subcommand
from slotproxy.protocol.pubsub import CHANNELS, PATTERNS, SHARDS
from slotproxy.protocol.resp import OK, bulk, integer, null, verbatim
from slotproxy.protocol.tracking import caching_of, parse_tracking, tracking_info, turns_on

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_NO_REPLY: Final = b""
_NOTHING: Final = (0, 0, 0)
_OVERFLOW: Final = 1 << 62  # milliseconds from which on the server's sum with the time overflows, and nothing is paused


def answer_client(client: "Client", plane: "Plane", arguments: list[bytes]) -> bytes:
    """The reply to a CLIENT subcommand; b"" for none (CLIENT REPLY OFF and SKIP)."""
    if arguments[1].lower() == b"no-touch" and "|" not in _name_of(plane, arguments):  # before 7.2
        return unknown_subcommand(arguments)
    request = parse_client(arguments, client.grant.account.name)
    if isinstance(request, bytes):
        return request
    if isinstance(request, GetId):
        return integer(client.id)
    if isinstance(request, GetName):
        return bulk(client.name) if client.name else null(client.protocol)
    if isinstance(request, SetName):
        client.name = request.name
        return OK
    if isinstance(request, DescribeMe):
        return verbatim(client.protocol, lines_of([_described(client, plane)]))
    if isinstance(request, ListClients):
        return verbatim(client.protocol, lines_of(_listed(client, plane, request)))
    if isinstance(request, (DescribeTracking, GetRedirection, SetCaching, SetTracking, SetNoTouch)):
        return _about_tracking(client, plane, request, arguments)
    if isinstance(request, KillClients):
        return _kill(client, plane, request)
    if isinstance(request, PauseClients):
        if request.milliseconds < _OVERFLOW:
            client.grant.account.pause.start(request.milliseconds / 1000, request.writes_only)
        return OK
    if isinstance(request, UnpauseClients):
        client.grant.account.pause.stop()
        return OK
    if isinstance(request, SetNoEvict):
        client.no_evict = request.on
        return OK
    if isinstance(request, SetReplyMode):
        client.set_reply_mode(request.mode)
        return OK if request.mode == "on" else _NO_REPLY
    if isinstance(request, UnblockClient):
        return _unblock(client, plane, request)
    known = plane.table.resolve(arguments)
    if known is None or "|" not in known.name:
        return unknown_subcommand(arguments)
    return not_supported(known.name)


def _name_of(plane: "Plane", arguments: list[bytes]) -> str:
    called = plane.table.resolve(arguments)
    return "" if called is None else called.name


def _about_tracking(client: "Client", plane: "Plane", request: ClientRequest, arguments: list[bytes]) -> bytes:
    private = client.private
    options = None if private is None else private.options
    if isinstance(request, GetRedirection):
        return integer(-1 if options is None else options.redirect)
    if isinstance(request, SetCaching):
        caching = caching_of(request.word, options)
        if isinstance(caching, bytes):
            return caching
        if private is not None:
            private.cache(caching)
        return OK
    called = plane.table.resolve(arguments)
    assert called is not None, "every server has CLIENT"
    if isinstance(request, SetNoTouch):
        return set_no_touch(client, plane, called, request.on)
    if isinstance(request, SetTracking):
        known = {id for id in plane.clients if _found(client, plane, id) is not None}
        wanted = parse_tracking(arguments, options, known)
        if isinstance(wanted, bytes):
            return wanted
        if turns_on(arguments):
            return track(client, plane, called, b"", wanted)
        stop_tracking(client)
        return OK
    if private is None:
        return tracking_info(client.protocol, None, 0, False)
    return tracking_info(client.protocol, options, private.caching, private.broken)


def _unblock(client: "Client", plane: "Plane", request: UnblockClient) -> bytes:
    meant = _found(client, plane, request.id)
    task = None if meant is None else meant.task
    if task is None:
        return integer(0)
    answer = client.expect_answer()
    if not task.unblock(answer, request.with_error):
        client.deliver(answer, integer(0))
    return _NO_REPLY


def _found(asking: "Client", plane: "Plane", id: int) -> "Client | None":
    """The client with that id; those of other accounts do not exist for it."""
    found = plane.clients.get(id)
    return found if found is not None and found.grant.account is asking.grant.account else None


def _listed(asking: "Client", plane: "Plane", request: ListClients) -> list[Described]:
    if request.ids is not None:
        found = [_found(asking, plane, id) for id in request.ids]
        return [_described(one, plane) for one in found if one is not None]
    described = [_described(one, plane) for one in asking.grant.account.clients()]
    return [one for one in described if is_listed(request, one)]


def _kill(client: "Client", plane: "Plane", request: KillClients) -> bytes:
    killed = 0
    found = _found(client, plane, request.id)
    for one in client.grant.account.clients() if request.id == 0 else [found] if found is not None else []:
        if is_meant(request, _described(one, plane), client.id):
            killed += 1
            if one is client:
                client.leaving = True
            else:
                one.close()
    return request.reply(killed)


def _described(client: "Client", plane: "Plane") -> Described:
    now = plane.reactor.now
    transport = client.transport
    transaction = client.transaction
    task = client.task
    have = client.subscriptions
    subscribed = _NOTHING if have is None else (have.count(CHANNELS), have.count(PATTERNS), have.count(SHARDS))
    private = client.private
    options = None if private is None else private.options
    waits = client.is_held() or (task is not None and task.endless)
    is_unix = client.address.endswith(":0")
    flags = flags_of(
        subscribed != _NOTHING,
        waits,
        transaction is not None,
        client.finishing,
        is_unix,
        client.no_evict,
        client.monitor is not None,
        options is not None,
        private is not None and private.broken,
        options is not None and options.bcast,
        private is not None and private.no_touch,
    )
    return Described(
        client.id,
        client.address.encode(),
        client.local_address().encode(),
        -1 if transport is None else transport.fd,
        client.name,
        now - client.since,
        now - client.active_at,
        flags,
        client.buffered(),
        int(client.unsent()),
        len(client.out),
        client.is_read(),
        "" if client.command is None else client.command.name,
        client.grant.account.name,
        client.protocol,
        -1 if transaction is None else len(transaction.queued),
        subscribed,
        -1 if options is None else options.redirect,
    )

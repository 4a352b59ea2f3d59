"""The proxy's clients as CLIENT LIST, CLIENT INFO and CLIENT KILL see them.

Duty: one client's values at one moment, the line that describes them (all fields of 7.0.15, in its order), and whether
a filter means that client. What the proxy does not have (databases, a reply buffer of fixed size, memory of arguments)
reads as on a server where nothing of it is in use. Must not know how a client is made or closed.
"""

from typing import Final

from slotproxy.protocol.clientfilters import KillClients, ListClients


class Described:
    """What there is to say of one client.

    `addr`, `laddr`: `ip:port`, `[ipv6]:port` or `path:0`, the peer's and our own. `age`, `idle`: seconds. `flags`:
    Redis's letters in Redis's order, see `flags_of`. `query_buffer`, `unsent`: bytes taken in and not yet a whole
    request, and bytes of replies that its socket has not taken, in `unsent_frames` pieces. `reading`: whether its
    socket is read. `command`: the last one's full name (`client|list`), "" for none and after an unknown one. `resp`:
    2 or 3. `multi`: commands queued in a transaction, -1 outside of one. `subscribed`: to so many channels, patterns,
    shard channels. `redirect`: whom its invalidations go to, 0 for itself, -1 while it does not track.
    """

    def __init__(
        self,
        id: int,
        addr: bytes,
        laddr: bytes,
        fd: int,
        name: bytes,
        age: float,
        idle: float,
        flags: str,
        query_buffer: int,
        unsent: int,
        unsent_frames: int,
        reading: bool,
        command: str,
        user: bytes,
        resp: int,
        multi: int,
        subscribed: tuple[int, int, int],
        redirect: int = -1,
    ) -> None:
        self.id: Final = id
        self.addr: Final = addr
        self.laddr: Final = laddr
        self.fd: Final = fd
        self.name: Final = name
        self.age: Final = age
        self.idle: Final = idle
        self.flags: Final = flags
        self.query_buffer: Final = query_buffer
        self.unsent: Final = unsent
        self.unsent_frames: Final = unsent_frames
        self.reading: Final = reading
        self.command: Final = command
        self.user: Final = user
        self.resp: Final = resp
        self.multi: Final = multi
        self.subscribed: Final = subscribed
        self.redirect: Final = redirect


def flags_of(
    subscribed: bool,
    waits: bool,
    transaction: bool,
    closing: bool,
    unix: bool,
    no_evict: bool,
    monitors: bool = False,
    tracks: bool = False,
    broken: bool = False,
    bcast: bool = False,
    no_touch: bool = False,
) -> str:
    """The letters for a client that has subscribed, is blocked or paused, is in a transaction, …"""
    letters = {"O": monitors, "P": subscribed, "x": transaction, "b": waits, "t": tracks, "R": broken, "B": bcast}
    letters.update({"c": closing, "U": unix, "e": no_evict, "T": no_touch})
    return "".join([letter for letter, meant in letters.items() if meant])


def line_of(client: Described) -> bytes:
    """One client's line, without its end. `tot-mem` is what is buffered for it, not what its objects take."""
    channels, patterns, shards = client.subscribed
    events = (b"r" if client.reading else b"") + (b"w" if client.unsent else b"")
    return (
        b"id=%d addr=%b laddr=%b fd=%d name=%b age=%d idle=%d flags=%b db=0 sub=%d psub=%d ssub=%d multi=%d"
        b" qbuf=%d qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=%d omem=%d tot-mem=%d"
        b" events=%b cmd=%b user=%b redir=%d resp=%d"
    ) % (
        client.id, client.addr, client.laddr, client.fd, client.name, int(client.age), int(client.idle),
        client.flags.encode() or b"N", channels, patterns, shards,
        client.multi, client.query_buffer, client.unsent_frames, client.unsent,
        client.query_buffer + client.unsent, events, client.command.encode() or b"NULL", client.user, client.redirect,
        client.resp,
    )  # fmt: skip


def lines_of(clients: list[Described]) -> bytes:
    """What CLIENT LIST shows, and with one client CLIENT INFO. The server lists the oldest first."""
    return b"".join([line_of(client) + b"\n" for client in clients])


def kind_of(client: Described) -> str:
    """Its TYPE: a replica's word is slave, and MONITOR's clients are normal ones."""
    if "M" in client.flags:
        return "master"
    if "S" in client.flags:
        return "slave"
    return "pubsub" if "P" in client.flags else "normal"


def is_listed(request: ListClients, client: Described) -> bool:
    """Whether CLIENT LIST without IDs shows the client."""
    return not request.kind or kind_of(client) == request.kind


def is_meant(request: KillClients, client: Described, asking: int) -> bool:
    """Whether CLIENT KILL, asked by the client with the id `asking`, ends this one."""
    return (
        (not request.id or client.id == request.id)
        and (request.addr is None or client.addr == request.addr)
        and (request.laddr is None or client.laddr == request.laddr)
        and (not request.kind or kind_of(client) == request.kind)
        and (request.user is None or client.user == request.user)
        and int(client.age) >= request.max_age
        and not (request.skip_me and client.id == asking)
    )

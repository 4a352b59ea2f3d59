"""Function libraries for a primary that lacks them.

Duty: when FCALL was answered `Function not found`, find out whether the node really lacks the function, and if
another primary has it, bring that one's libraries here (FUNCTION DUMP and RESTORE). Nodes that take over from a primary
have its libraries; a primary that was added to the cluster has none.

Invariants: one at a time per proxy, so that many clients' FCALLs cause one transfer; a function that no node has is
not looked for again for a second, and a node that did not answer is not asked for ten. RESTORE replaces libraries of
the same name: the node that has the function is right. A function can return any error text, after its writes ran: a
node that has the function is believed to have lacked it a moment ago only where the code does not hold that text
itself.
"""

import logging
import math
from collections.abc import Callable

import trio

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Address
from slotproxy.control.addresses import AddressMap
from slotproxy.control.connection import Credentials, ErrorReply, NodeConnection, NodeUnavailable, connect

_log = logging.getLogger("slotproxy.nodes")

_ANSWER = 5.0  # seconds that each node may take
_SILENCE = 10.0  # seconds for which a node that could not be asked is not asked again
_FORGET = 1.0  # seconds for which a function that nobody has is not looked for
_REMEMBER = 10.0  # seconds for which a node is not asked again whether it has a function
_MOST_MISSING = 1000
_TEXT = b"Function not found"


class Functions:
    """Supplies functions to the nodes of `slot_map`; `supplied` is called once per transfer."""

    def __init__(
        self, slot_map: SlotMap, credentials: Credentials, address_map: AddressMap, supplied: Callable[[], None]
    ) -> None:
        self._slot_map = slot_map
        self._credentials = credentials
        self._address_map = address_map
        self._supplied = supplied
        self._missing: dict[bytes, float] = {}
        self._denied: dict[Address, float] = {}  # nodes to which nothing could be brought: not tried before then
        self._silent: dict[str, float] = {}  # by node id: not asked before then
        self._brought: dict[Address, float] = {}  # when
        self._seen: dict[tuple[bytes, Address], float] = {}  # when it was last looked whether a node has a function
        self._turn = trio.Lock()

    async def bring(self, name: bytes, address: Address) -> None:
        """Have the function at the node at the announced `address` before it is called, if any primary has it."""
        name = name.lower()
        now = trio.current_time()
        if now - self._seen.get((name, address), -math.inf) >= _REMEMBER:
            self._seen.pop((name, address), None)
            while len(self._seen) >= _MOST_MISSING:
                del self._seen[next(iter(self._seen))]
            self._seen[(name, address)] = now
            await self.supply(name, address, b"", now)

    async def supply(self, name: bytes, address: Address, request: bytes, started: float) -> bool:
        """Whether the node at the announced `address` has the function now, and had not when it ran `request`.

        `started`: when that was, or before (trio's clock).
        """
        name = name.lower()  # functions' names know no case
        async with self._turn:
            now = trio.current_time()
            if now < self._missing.get(name, 0.0) or now < self._denied.get(address, 0.0):
                return False
            try:
                with trio.fail_after(_ANSWER) as patience:
                    async with await self._connect(address) as connection:
                        code = await _code_of(connection, name)
                        if code is not None:
                            brought = self._brought.get(address, -math.inf) > started
                            return brought or (_TEXT not in code and _TEXT not in request)
                        patience.deadline = math.inf  # a silent donor must not use up the time of the next one
                        return await self._bring(name, connection, address)
            except (NodeUnavailable, ErrorReply, trio.TooSlowError) as problem:
                why = str(problem) or f"no answer within {_ANSWER:g} s"
                _log.warning("cannot supply function %r to node %s:%d: %s", name, *address, why)
                self._denied[address] = trio.current_time() + _FORGET
                return False

    async def _bring(self, name: bytes, connection: NodeConnection, address: Address) -> bool:
        owners = {info.id: info for info in self._slot_map.owners if info is not None}
        for info in owners.values():
            if (info.host, info.port) == address or trio.current_time() < self._silent.get(info.id, 0.0):
                continue
            try:
                with trio.fail_after(_ANSWER):
                    async with await self._connect((info.host, info.port)) as donor:
                        if await _code_of(donor, name) is None:
                            continue
                        libraries = await donor.command("FUNCTION", "DUMP")
                        if not isinstance(libraries, bytes):
                            raise ErrorReply("FUNCTION DUMP was not answered with a dump")
            except (NodeUnavailable, ErrorReply, trio.TooSlowError) as problem:
                _log.debug("node %s is not asked for functions: %s", info.name, problem)
                self._silent[info.id] = trio.current_time() + _SILENCE
                continue
            with trio.fail_after(_ANSWER):
                await connection.command("FUNCTION", "RESTORE", libraries, "REPLACE")
            _log.info("node %s:%d lacked function %r: it has node %s's libraries now", *address, name, info.name)
            self._brought[address] = trio.current_time()
            self._supplied()
            return True
        while len(self._missing) >= _MOST_MISSING:
            del self._missing[next(iter(self._missing))]
        self._missing[name] = trio.current_time() + _FORGET
        return False

    async def _connect(self, address: Address) -> NodeConnection:
        return await connect(self._address_map.apply(address), self._credentials)


async def _code_of(connection: NodeConnection, name: bytes) -> bytes | None:
    """The source of the library that has the function; None when there is none."""
    libraries = await connection.command("FUNCTION", "LIST", "WITHCODE")
    try:
        for library in libraries:
            fields = dict(zip(library[::2], library[1::2], strict=False))
            for function in fields.get(b"functions", []):
                described = dict(zip(function[::2], function[1::2], strict=False))
                code = fields.get(b"library_code")
                if described.get(b"name", b"").lower() == name and isinstance(code, bytes):
                    return code
    except (TypeError, AttributeError) as problem:
        raise ErrorReply("FUNCTION LIST was not answered with a list of libraries") from problem
    return None

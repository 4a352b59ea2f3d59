"""Commands that one server answers at once and a cluster must answer in parts: how to cut and how to merge.

Duty: the plans for MGET, MSET, DEL, UNLINK, EXISTS and TOUCH over several slots, and key by key inside one
slot (which always resolves a TRYAGAIN). Parts are complete requests; replies are merged from raw frames. A
failed part *is* the reply: half an answer is never shown as a whole one.

Invariants: MSET is cut by slot only, never inside one, because there Redis promises that it is atomic.
"""

from typing import Final

from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.resp import OK, array, command, error, integer
from slotproxy.protocol.slots import key_slot

SUM: Final = 0  # integers are added up
KEYS: Final = 1  # arrays of values, put back into the order of the keys
ALL_OK: Final = 2  # +OK when every part says so

#: name -> (how to merge, arguments per key, may be cut inside a slot)
SPLITTABLE: Final[dict[str, tuple[int, int, bool]]] = {
    "mget": (KEYS, 1, True),
    "mset": (ALL_OK, 2, False),
    "del": (SUM, 1, True),
    "unlink": (SUM, 1, True),
    "exists": (SUM, 1, True),
    "touch": (SUM, 1, True),
}


class Merging:
    """How the replies of a command's parts become its reply. Subclasses say what the parts were.

    `patient`: a part whose connection is lost may be sent again, and waits for a node.
    """

    def __init__(self) -> None:
        self.patient: bool = True

    def merge(self, replies: list[bytes]) -> bytes:
        """The reply that one server would have given, from the parts' reply frames, in the order of the parts."""
        raise AssertionError("a merging without merge()")


class Part:
    """One piece of a split command: a whole request for `slot`, with the keys numbered `positions`."""

    def __init__(self, slot: int, raw: bytes, positions: list[int], distinct: int) -> None:
        self.slot: Final = slot
        self.raw: Final = raw
        self.positions: Final = positions
        self.distinct: Final = distinct  # different keys: two or more can be answered TRYAGAIN


def split_by_slot(name: str, arguments: list[bytes]) -> list[Part]:
    """Cut a SPLITTABLE command into one part per slot, in order of first appearance.

    Empty when the arguments do not come out even (MSET with a key and no value): no server runs any of that.
    """
    width = SPLITTABLE[name][1]
    if (len(arguments) - 1) % width:
        return []
    by_slot: dict[int, list[int]] = {}
    for position in range((len(arguments) - 1) // width):
        slot = int(key_slot(arguments[1 + position * width]))
        by_slot.setdefault(slot, []).append(position)
    return [_part(arguments, width, slot, positions) for slot, positions in by_slot.items()]


def split_by_key(name: str, arguments: list[bytes]) -> list[Part]:
    """Cut a SPLITTABLE command that may be cut inside a slot into one part per distinct key.

    Empty when there is nothing to gain: one distinct key, or a command that is atomic.
    """
    if name not in SPLITTABLE or not SPLITTABLE[name][2]:
        return []
    by_key: dict[bytes, list[int]] = {}
    for position, key in enumerate(arguments[1:]):
        by_key.setdefault(key, []).append(position)
    if len(by_key) < 2:
        return []
    return [_part(arguments, 1, int(key_slot(key)), positions) for key, positions in by_key.items()]


def _part(arguments: list[bytes], width: int, slot: int, positions: list[int]) -> Part:
    words = [arguments[0]]
    for position in positions:
        words += arguments[1 + position * width : 1 + (position + 1) * width]
    distinct = len({arguments[1 + position * width] for position in positions})
    return Part(slot, command(words), positions, distinct)


class KeyMerging(Merging):
    """Of a SPLITTABLE command's parts."""

    def __init__(self, name: str, parts: list[Part]) -> None:
        super().__init__()
        self._name: Final = name
        self._parts: Final = parts

    def merge(self, replies: list[bytes]) -> bytes:
        """A failed part is the reply; else the parts' sum, their values in the order of the keys, or +OK."""
        how = SPLITTABLE[self._name][0]
        for reply in replies:
            if reply[0] == 0x2D or reply[0] == 0x21:  # '-' or '!'
                return reply
        if how == ALL_OK:
            for reply in replies:
                if reply != OK:
                    return _unexpected(self._name, reply)
            return OK
        if how == SUM:
            total = 0
            for reply in replies:
                digits = reply[1:-2]
                if reply[0] != 0x3A or not digits.isdigit() or len(digits) > 19:
                    return _unexpected(self._name, reply)
                total += int(digits)
            return integer(total)
        values: dict[int, bytes] = {}
        for part, reply in zip(self._parts, replies, strict=True):
            try:
                elements = elements_of(reply)
            except ProtocolError:
                elements = None
            if elements is None or len(elements) != len(part.positions):
                return _unexpected(self._name, reply)
            for position, element in zip(part.positions, elements, strict=True):
                values[position] = element
        return array([values[position] for position in range(len(values))])


def _unexpected(name: str, reply: bytes) -> bytes:
    return error("ERR slotproxy: a part of " + name.upper() + " was answered " + ascii(reply[:32])[1:])

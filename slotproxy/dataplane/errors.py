"""The errors that slotproxy itself gives when a request cannot be answered: what failed, where, what to make of it.

Each starts with `-ERR slotproxy:` and a fixed phrase that applications may match; the README lists them. Whether one
applies is decided elsewhere.
"""

from typing import Final

from mypy_extensions import i64

from slotproxy.protocol.commands import Command
from slotproxy.protocol.resp import error
from slotproxy.protocol.slots import SLOTS

#: How the errors begin that leave it open whether something has run.
IN_DOUBT: Final = b"-ERR slotproxy: in doubt: "


def in_doubt(command: Command, node: str, why: str) -> bytes:
    """A write was sent whole and its connection was lost before the reply."""
    return error(
        f"ERR slotproxy: in doubt: {_shown(command)} may or may not have run: the connection to node {node} was lost"
        f" before it answered ({why}); not sent again"
    )


def no_answer(command: Command, node: str, why: str) -> bytes:
    """A read was lost with its connection, and a write that may have run follows it."""
    return error(
        f"ERR slotproxy: no answer: {_shown(command)} was lost with its connection to node {node} ({why}); not sent"
        " again because a write that may have run follows it"
    )


def not_served(slot: i64, seconds: float, last: str) -> bytes:
    """A request waited for its slot until the deadline; it has not run."""
    what = f"slot {slot}" if slot < SLOTS else "a command without keys"
    return error(
        f"ERR slotproxy: not served: {what} was not served within {seconds:g} s (--park-timeout); not executed;"
        f" last: {last}"
    )


def not_subscribed(word: bytes, seconds: float, why: str) -> bytes:
    """No node has confirmed a subscription until the deadline."""
    return error(
        f"ERR slotproxy: not served: {word.decode().upper()} was not confirmed within {seconds:g} s (--park-timeout);"
        f" not subscribed; last: {why}"
    )


def away(why: str) -> bytes:
    """A part for one certain node, which nobody else can take over; it has not run."""
    return error(f"ERR slotproxy: not served: the node has left or cannot be reached; not executed; last: {why}")


def no_exclusive(command: Command, most: int) -> bytes:
    """A command that needs a connection of its own, and all there may be are in use; it has not run."""
    return error(
        f"ERR slotproxy: too many connections: {_shown(command)} needs a connection to a node for itself, and {most}"
        " are in use (--max-exclusive); not executed"
    )


def not_connected(command: Command, seconds: float, last: str) -> bytes:
    """A command that needs all primaries, and one of them could not be connected."""
    return error(
        f"ERR slotproxy: not served: {_shown(command)} needs a connection to every primary, which could not be made"
        f" within {seconds:g} s (--park-timeout); last: {last}"
    )


def uncounted(command: Command, node: str, why: str) -> bytes:
    """A primary could not be asked how many replicas have what was written."""
    return error(f"ERR slotproxy: no answer: {_shown(command)} could not be asked of node {node} ({why})")


def loose(node: str, denied: bytes) -> bytes:
    """A node that allowed MULTI before has denied it: what was queued has run one by one."""
    shown = ascii(denied[1:200].rstrip(b"\r\n"))[2:-1]
    return error(
        f"ERR slotproxy: in doubt: node {node} did not run the commands as one transaction, and may have run each by"
        f" itself: it answered MULTI with {shown}"
    )


def invalid_redirect(slot: i64, node: str, reply: bytes) -> bytes:
    """A node answered with a redirect that cannot be one for this request."""
    shown = ascii(reply[1:100].rstrip(b"\r\n"))[2:-1]
    return error(f"ERR slotproxy: invalid redirect: node {node} answered a request of slot {slot} with {shown}")


def _shown(command: Command) -> str:
    return command.name.upper().replace("|", " ")

"""The scripts that went through the proxy: texts by SHA1, for nodes that lack them.

Duty: remember the text of each EVAL and SCRIPT LOAD, so that an EVALSHA at a node without the script (it has taken
over since, or has never seen it) can be sent as the EVAL that it stands for. To a node the two are the same, errors
included.

Invariants: bounded in bytes, the least recently used text goes first; SCRIPT FLUSH through the proxy forgets all of
them, so that NOSCRIPT means what it means on one server. A script can return any text, also Redis's NOSCRIPT after its
writes ran: one whose text or arguments hold that word is sent as EVAL from the first, so that it is never sent twice.
"""

from hashlib import sha1
from typing import Final

from slotproxy.protocol.redirects import Refusal
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import command

#: Redis's reply to EVALSHA of a script that it does not have (6.2.14 and 7.0.15).
NOSCRIPT: Final = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
#: Redis's reply to FCALL of a function that it does not have (7.0.15).
NOFUNCTION: Final = b"-ERR Function not found\r\n"
#: How its replies to an EVAL of what is no script begin (eval.c, 6.2.14 and 7.0.15).
_NOT_COMPILED: Final = (
    b"-ERR Error compiling script",
    b"-ERR Invalid script shebang",
    b"-ERR Unexpected engine in script shebang",
    b"-ERR Unknown lua shebang option",
    b"-ERR Unexpected flag in script shebang",
)

_OVERHEAD: Final = 200  # bytes that an entry costs besides its text
_TEXT_FIRST: Final = frozenset(["eval", "eval_ro"])
_AS_EVAL: Final = {"evalsha": b"EVAL", "evalsha_ro": b"EVAL_RO"}


class Scripts:
    """Texts by SHA1 (40 lower-case hexadecimal digits), `most` bytes of them. `size` is what is used."""

    def __init__(self, most: int) -> None:
        self.size: int = 0
        self._most: Final = most
        self._texts: Final[dict[bytes, bytes]] = {}  # least recently used first

    def note(self, text: bytes) -> None:
        """A script with this text has been seen. One that is larger than all bytes there are drives out no other."""
        if len(text) + _OVERHEAD > self._most:
            return
        sha = _sha_of(text)
        if self._texts.pop(sha, None) is None:
            self.size += len(text) + _OVERHEAD
        self._texts[sha] = text
        while self.size > self._most:
            oldest = next(iter(self._texts))
            self.size -= len(self._texts.pop(oldest)) + _OVERHEAD

    def forget(self, text: bytes) -> None:
        """It is no script: it does not compile."""
        if self._texts.pop(_sha_of(text), None) is not None:
            self.size -= len(text) + _OVERHEAD

    def forget_all(self) -> None:
        """SCRIPT FLUSH."""
        self._texts.clear()
        self.size = 0

    def text_of(self, sha: bytes) -> bytes | None:
        """The text, in any letter case of its SHA1; None when it was never seen, or long ago."""
        sha = sha.lower()
        text = self._texts.pop(sha, None)
        if text is not None:
            self._texts[sha] = text
        return text

    def refusal_of(self, name: str, request: bytes, reply: bytes) -> Refusal | None:
        """Whether the error `reply` to a script command (`name`) says that the node lacks code that can be supplied."""
        if reply == NOFUNCTION and name.startswith("fcall"):
            return Refusal.NOFUNCTION
        if reply == NOSCRIPT and self.as_eval(request, name) is not None:
            return Refusal.NOSCRIPT
        if reply.startswith(_NOT_COMPILED) and name.startswith("eval"):
            self.forget(arguments_of(request)[1])
        return None

    def prepare(self, request: bytes, name: str, arguments: list[bytes]) -> bytes:
        """What to send for a script command: the request, but EVAL for an EVALSHA that could say NOSCRIPT itself."""
        if name in _TEXT_FIRST:
            self.note(arguments[1])
        elif name in _AS_EVAL and self.may_say(b"NOSCRIPT", request, name):
            return self.as_eval(request, name) or request
        return request

    def may_say(self, word: bytes, request: bytes, name: str) -> bool:
        """Whether the code that a script command runs could itself have answered with `word`, as far as its text and
        arguments show. A function's text is not known here, so it could."""
        if name in _TEXT_FIRST or name in _AS_EVAL:
            arguments = arguments_of(request)
            text = arguments[1] if name in _TEXT_FIRST or len(arguments[0]) != len(name) else self.text_of(arguments[1])
            return text is None or word in text or word in request
        return True

    def as_eval(self, request: bytes, name: str) -> bytes | None:
        """The EVAL that an EVALSHA request stands for, `name` being its command's; None when it is none, or the text
        is unknown."""
        if name not in _AS_EVAL:
            return None
        arguments = arguments_of(request)
        text = self.text_of(arguments[1]) if len(arguments[0]) == len(name) else None  # else it is that EVAL already
        return None if text is None else command([_AS_EVAL[name], text, *arguments[2:]])


def _sha_of(text: bytes) -> bytes:
    return sha1(text, usedforsecurity=False).hexdigest().encode()

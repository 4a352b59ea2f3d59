"""The proxy's own users: a file's lines to values, and whether a password is one of a user's.

    # a comment
    user NAME on|off >password #SHA256-in-hex nopass

Invariants: passwords are kept as SHA-256 only, and compared in constant time; a user that does not exist costs what one
with the most passwords does. No error repeats a word of the file but a user's name.
"""

import hashlib
import hmac
from typing import Final

_HEX: Final = frozenset(b"0123456789abcdef")
_DIGITS: Final = 64  # of a SHA-256 in hex
_NOBODYS: Final = b"0" * _DIGITS
#: Bytes of a password that may be right: hashing takes its time, and all clients wait for it. What Redis takes at most.
LONGEST: Final = 16_384
#: How somebody got in whose user needs no password; see `Users.check`.
WITHOUT_PASSWORD: Final = b""
DEFAULT: Final = b"default"


class UsersError(ValueError):
    """A line is wrong; `str()` names it by number."""


class User:
    """`hashes`: SHA-256 of its passwords, in lower case hex."""

    def __init__(self, name: bytes, on: bool, nopass: bool, hashes: list[bytes]) -> None:
        self.name: Final = name
        self.on: Final = on
        self.nopass: Final = nopass
        self.hashes: Final = hashes


class Users:
    """All users of one file."""

    def __init__(self, users: dict[bytes, User]) -> None:
        self._users: Final = users
        self._most: Final = max([len(user.hashes) for user in users.values()], default=0) or 1

    def check(self, name: bytes, password: bytes) -> bytes | None:
        """By what the user gets in: the password's hash, or WITHOUT_PASSWORD. None: not at all."""
        user = self._users.get(name)
        given = hashlib.sha256(password[:LONGEST]).hexdigest().encode()
        hashes = [] if user is None else user.hashes
        matches = False
        for index in range(self._most):
            known = hashes[index] if index < len(hashes) else _NOBODYS
            matches = hmac.compare_digest(known, given) or matches
        if user is None or not user.on:
            return None
        if user.nopass:
            return WITHOUT_PASSWORD
        return given if matches and len(password) <= LONGEST else None

    def still_admits(self, name: bytes, proof: bytes) -> bool:
        """Whether who got in by `proof`, perhaps with an earlier file, would still get in."""
        user = self._users.get(name)
        return user is not None and user.on and (user.nopass or proof in user.hashes)

    def needs_login(self) -> bool:
        """Whether clients have to say AUTH: unless there is a user `default` without password."""
        user = self._users.get(DEFAULT)
        return user is None or not user.on or not user.nopass


def parse_users(content: bytes) -> Users:
    """The users that a file lists. Raises UsersError."""
    users: dict[bytes, User] = {}
    for number, line in enumerate(content.replace(b"\r\n", b"\n").split(b"\n"), 1):
        words = line.split()
        if not words or words[0] == b"#":
            continue
        user = _user_of(number, words)
        if user.name in users:
            raise UsersError(f"line {number}: user {_shown(user.name)} stands there twice")
        users[user.name] = user
    return Users(users)


def _user_of(number: int, words: list[bytes]) -> User:
    if words[0] != b"user" or len(words) < 3 or words[2] not in (b"on", b"off"):
        raise UsersError(f"line {number}: not `user NAME on|off` with passwords behind it")
    name = words[1]
    nopass = False
    hashes: list[bytes] = []
    for place, word in enumerate(words[3:], 4):
        if word == b"nopass":
            nopass = True
        elif word.startswith(b">") and len(word) > 1:
            hashes.append(hashlib.sha256(word[1:]).hexdigest().encode())
        elif word.startswith(b"#") and len(word) == _DIGITS + 1 and _HEX.issuperset(word[1:].lower()):
            hashes.append(word[1:].lower())
        else:
            raise UsersError(
                f"line {number}: word {place} of user {_shown(name)} is not >PASSWORD, #SHA256 (64 digits) or nopass"
            )
    if words[2] == b"on" and not nopass and not hashes:
        raise UsersError(f"line {number}: user {_shown(name)} is on and has no password")
    return User(name, words[2] == b"on", nopass, hashes)


def _shown(name: bytes) -> str:
    return ascii(name[:64])[1:]

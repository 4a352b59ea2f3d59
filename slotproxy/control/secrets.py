"""Files that hold secrets: the password for the nodes, and the proxy's own users.

Duty: read them, at start and on SIGHUP, and say what is wrong with one in a ValueError that holds nothing of it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from slotproxy.dataplane.accounts import FILE, NONE, PASSTHROUGH
from slotproxy.protocol.users import Users, UsersError, parse_users

_MAX_PASSWORD: Final = 64 * 1024
_MAX_USERS: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class PasswordFile:
    """A password and where it stands."""

    path: str
    password: bytes = field(repr=False)


@dataclass(frozen=True)
class ClientAuth:
    """`--client-auth`: how clients log in. `path` and `users` where they stand in a file."""

    mode: str = NONE
    path: str = ""
    users: Users | None = field(default=None, repr=False, compare=False)


def read_password(path: str) -> PasswordFile | None:
    """The password that stands in a file; its trailing line end does not belong to it. None for no path."""
    if not path:
        return None
    content = _content(path, _MAX_PASSWORD)
    password = content.removesuffix(b"\n").removesuffix(b"\r")
    if not password or len(content) > _MAX_PASSWORD or b"\n" in password:
        raise ValueError("a file with the password as its only line")
    return PasswordFile(path, password)


def read_client_auth(text: str) -> ClientAuth:
    """What `text` says: none, passthrough, or the path of a file of users, which is read."""
    if text.lower() in (NONE, PASSTHROUGH):
        return ClientAuth(text.lower())
    content = _content(text, _MAX_USERS)
    try:
        if len(content) > _MAX_USERS:
            raise UsersError("it is larger than 16M")
        return ClientAuth(FILE, text, parse_users(content))
    except UsersError as error:
        raise ValueError(f"a file of users: {error}") from None


def _content(path: str, most: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ValueError(f"a readable file ({getattr(error, 'strerror', None) or error})") from None

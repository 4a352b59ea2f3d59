"""The proxy's own users, as a file lists them."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from slotproxy.protocol import users as module
from slotproxy.protocol.users import LONGEST, WITHOUT_PASSWORD, UsersError, parse_users

SECRET = b"s3cret-words"
HASH = hashlib.sha256(SECRET).hexdigest()


def test_a_user_gets_in_by_each_of_its_passwords_however_it_is_written() -> None:
    users = parse_users(b"# staff\n\nuser alice on >one #" + HASH.upper().encode() + b"\r\nuser bob off >one\n  # end")
    assert users.check(b"alice", b"one") == hashlib.sha256(b"one").hexdigest().encode()
    assert users.check(b"alice", SECRET) == HASH.encode()
    for name, password in ((b"alice", b"two"), (b"alice", b""), (b"bob", b"one"), (b"eve", b"one"), (b"ALICE", b"one")):
        assert users.check(name, password) is None


def test_a_password_that_is_too_long_is_wrong() -> None:
    users = parse_users(b"user a on >" + b"x" * LONGEST + b" >" + b"y" * (LONGEST + 1))
    assert users.check(b"a", b"x" * LONGEST) is not None
    assert users.check(b"a", b"x" * (LONGEST + 1)) is None
    assert users.check(b"a", b"y" * (LONGEST + 1)) is None


def test_a_user_without_password_gets_in_by_any() -> None:
    users = parse_users(b"user default on nopass\nuser guest on nopass >known\nuser shut off nopass")
    assert users.check(b"default", b"x") == users.check(b"guest", b"known") == WITHOUT_PASSWORD
    assert users.check(b"shut", b"") is None
    assert not users.needs_login()


@pytest.mark.parametrize("text", ["", "user a on nopass", "user default on >x", "user default off nopass"])
def test_clients_have_to_log_in_unless_the_default_user_has_no_password(text: str) -> None:
    assert parse_users(text.encode()).needs_login()


def test_who_is_in_stays_only_while_the_password_holds() -> None:
    before = parse_users(b"user a on >one >two\nuser b on nopass")
    one, two = before.check(b"a", b"one"), before.check(b"a", b"two")
    assert one is not None and two is not None
    after = parse_users(b"user a on >two\nuser b on >new")
    assert not after.still_admits(b"a", one) and after.still_admits(b"a", two)
    assert not after.still_admits(b"b", WITHOUT_PASSWORD)
    assert not parse_users(b"user a off >two").still_admits(b"a", two)
    assert not parse_users(b"").still_admits(b"a", two)
    assert parse_users(b"user a on nopass").still_admits(b"a", one)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"user a on >x\nuser b on {SECRET.decode()}", "line 2: word 4 of user 'b' is not"),
        (f"user a on >ok #{SECRET.decode()}", "line 1: word 5 of user 'a' is not"),
        (f"user a on #{HASH[:-1]}", "line 1: word 4"),
        ("user a on >", "line 1: word 4"),
        ("user a", "line 1: not `user NAME on|off`"),
        ("user a >x on", "line 1: not `user NAME on|off`"),
        ("#comment", "line 1: not"),
        ("USER a on >x", "line 1: not"),
        ("user a on", "line 1: user 'a' is on and has no password"),
        ("user a on >x\n\nuser a off", "line 3: user 'a' stands there twice"),
    ],
)
def test_what_is_wrong_is_named_by_its_line_and_not_repeated(text: str, said: str) -> None:
    with pytest.raises(UsersError) as caught:
        parse_users(text.encode())
    assert str(caught.value).startswith(said)
    assert SECRET.decode() not in str(caught.value) and HASH[:-1] not in str(caught.value)


def test_who_does_not_exist_costs_as_many_comparisons_as_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    users = parse_users(b"user a on >1 >2 >3\nuser b on >1")
    counted: list[int] = []

    def counting(one: bytes, other: bytes) -> bool:
        counted.append(len(one))
        return hmac.compare_digest(one, other)

    class Hmac:
        compare_digest = staticmethod(counting)

    if not module.__file__.endswith(".py"):
        pytest.skip("compiled: its names are bound")
    monkeypatch.setattr(module, "hmac", Hmac)
    counts = []
    for name in (b"a", b"b", b"nobody"):
        counted.clear()
        users.check(name, b"1")
        counts.append(list(counted))
    assert counts == [[64, 64, 64]] * 3

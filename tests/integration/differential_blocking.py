"""What is asked of both sides about blocking commands by one client: replies at once, at the timeout, and errors.

Each sequence is asked with all keys in one slot and, where commands may have keys in several, with keys in three slots:
`@q1`, `@q2` and `@q3` are three keys, and only keys of the same number are in the same slot in both cases. What other
clients do meanwhile is the business of `differential_conversations`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tests.integration.differential_cases import TAGS, Words
from tests.integration.differential_keyless import sequences_in

_SEQUENCES: Final = r"""
BLPOP @q1 0.01 | BLPOP @q1 @q2 @q3 0.01 | BRPOP @q1 0.01 | BRPOP @q1 @q2 0.01 | BLMOVE @q1 @r1 LEFT RIGHT 0.01
BRPOPLPUSH @q1 @r1 0.01 | BZPOPMIN @z1 0.01 | BZPOPMIN @z1 @z2 0.01 | BZPOPMAX @z1 @z2 @z3 0.01 | BLMPOP 0.01 1 @q1 LEFT
BLMPOP 0.01 3 @q1 @q2 @q3 RIGHT COUNT 3 | BZMPOP 0.01 1 @z1 MIN | BZMPOP 0.01 2 @z1 @z2 MAX COUNT 9
XREAD BLOCK 10 STREAMS @x1 $ | XREAD BLOCK 10 STREAMS @x1 @x2 0 $ | XREAD STREAMS @x1 @x2 0 0
XREAD COUNT 1 BLOCK 10 STREAMS @x1 @x2 @x3 $ 5 5-5 | BLPOP @q1 @q1 0.01 | EXISTS @q1 @r1 | blpop @q1 0.01
bLmOvE @q1 @q1 left Right 0.01 | blmpop 0.01 1 @q1 left count 1 | xread block 10 streams @x1 $

RPUSH @q2 a b c d e f | BLPOP @q1 @q2 0 | BRPOP @q1 @q2 @q3 0 | BLMPOP 0 3 @q1 @q2 @q3 LEFT
BLMPOP 0 2 @q2 @q1 RIGHT COUNT 2 | BLPOP @q2 @q1 0 | EXISTS @q2 | RPUSH @q1 x | RPUSH @q3 y | BLPOP @q3 @q2 @q1 0
BLPOP @q3 @q2 @q1 0 | RPUSH @q1 1 2 | BLMOVE @q1 @r1 LEFT RIGHT 0 | BRPOPLPUSH @q1 @r1 0 | LRANGE @r1 0 -1
BLMOVE @r1 @r1 LEFT RIGHT 0 | BRPOPLPUSH @r1 @r1 0 | LRANGE @r1 0 -1 | BLMPOP 0 1 @r1 LEFT COUNT 9 | EXISTS @q1 @r1

ZADD @z2 1 a 2.5 b 3 c inf d -inf e | BZPOPMIN @z1 @z2 0 | BZPOPMAX @z2 @z1 0 | BZPOPMAX @z1 @z2 @z3 0
BZMPOP 0 3 @z1 @z2 @z3 MIN COUNT 9 | EXISTS @z2 | ZADD @z1 1.5 a | ZADD @z3 1 b | BZPOPMIN @z3 @z1 0
BZMPOP 0 2 @z3 @z1 MAX | ZADD @z1 3.0 a 0.1 b | BZMPOP 0 1 @z1 MIN | BZPOPMIN @z1 0

SET @s2 x | RPUSH @q1 a | RPUSH @q3 c | ZADD @z1 1 m | BLPOP @s2 0 | BLPOP @q1 @s2 0 | BLPOP @q1 @s2 @q3 0
BLPOP @q1 @q3 @s2 0 | BRPOP @s2 @q1 0 | BLPOP @q1 @z1 0.01 | BLMPOP 0 2 @s2 @q1 LEFT | BLMPOP 0 2 @q1 @s2 LEFT
BZPOPMIN @s2 0 | BZPOPMIN @z2 @s2 @z1 0 | BZPOPMAX @z1 @s2 0 | BZPOPMAX @z1 @s2 0 | BZMPOP 0 2 @s2 @z1 MAX | RPUSH @q3 c
BZPOPMIN @q3 @z1 0 | SET @s1 x | BLMOVE @s1 @r1 LEFT LEFT 0 | BLMOVE @q1 @s1 LEFT LEFT 0.01 | RPUSH @q1 a
BLMOVE @q1 @s1 LEFT LEFT 0 | BRPOPLPUSH @q1 @s1 0 | LRANGE @q1 0 -1 | XREAD BLOCK 10 STREAMS @s2 $
XREAD BLOCK 10 STREAMS @x1 @s2 0 0 | XREAD BLOCK 10 STREAMS @s2 @x1 $ 0 | XREAD BLOCK 10 STREAMS @x1 @s2 $ $
XREADGROUP GROUP g c BLOCK 10 STREAMS @s2 > | XREADGROUP GROUP g c BLOCK 10 STREAMS @x1 @s2 > >

BLMPOP 0 0 @q1 LEFT | BLMPOP 0 x @q1 LEFT | BLMPOP 0 -1 @q1 LEFT | BLMPOP 0 '' @q1 LEFT | BLMPOP 0 2 @q1 LEFT
BLMPOP 0 1 @q1 FOO | BLMPOP 0 1 @q1 LEFT COUNT 0 | BLMPOP 0 1 @q1 LEFT COUNT -1 | BLMPOP 0 1 @q1 LEFT COUNT x
BLMPOP 0 1 @q1 LEFT COUNT | BLMPOP 0 1 @q1 LEFT FOO | BLMPOP 0 1 @q1 LEFT COUNT 1 COUNT 1 | BLMPOP 0 3 @q1 @q2 LEFT
BLMPOP 0 2 @q1 @q2 FOO | BLMPOP x 2 @q1 @q2 LEFT | BLMPOP -1 2 @q1 @q2 LEFT COUNT 0 | BLMPOP x 0 @q1 FOO
BLMPOP 0 9999999999999999999 @q1 LEFT | BZMPOP 0 0 @z1 MIN | BZMPOP 0 2 @z1 MIN | BZMPOP 0 1 @z1 FOO
BZMPOP 0 1 @z1 MIN COUNT 0 | BZMPOP 0 2 @z1 @z2 MAX COUNT x | BZMPOP x 2 @z1 @z2 MIN | BLMOVE @q1 @r1 FOO LEFT 0
BLMOVE @q1 @r1 LEFT FOO 0 | BLMOVE @q1 @r1 FOO LEFT x | BLMOVE @q1 @r1 LEFT LEFT | BRPOPLPUSH @q1 @r1 | BRPOPLPUSH @q1 0
BLPOP @q1 | BLPOP 0 | BLPOP | BLPOP @q1 @q2 | BZPOPMIN @z1 | BZPOPMIN @z1 @z2 | BLPOP @q1 @q2 x | BRPOP @q1 @q2 @q3 -1
BZPOPMAX @z1 @z2 -1

XADD @x1 1-1 f a | XADD @x1 2-1 f b | XADD @x2 1-1 g a | XREAD BLOCK 0 STREAMS @x1 0
XREAD BLOCK 0 COUNT 1 STREAMS @x1 @x2 0 0 | XREAD BLOCK 0 STREAMS @x1 @x2 @x3 $ 0 0
XREAD BLOCK 0 STREAMS @x1 @x2 2-0 1-0 | XREAD BLOCK 0 STREAMS @x2 @x1 $ 1 | XREAD BLOCK 0 STREAMS @x1 @x1 0 1-1
XREAD BLOCK 10 STREAMS @x1 @x2 2-1 1-1 | XREAD BLOCK 10 STREAMS @x1 9 | XREAD STREAMS @x1 @x2 0 0
XREAD COUNT 1 STREAMS @x2 @x1 @x3 0 0 0 | XREAD COUNT 0 BLOCK 0 STREAMS @x1 @x2 0 0
XREAD COUNT -1 BLOCK 0 STREAMS @x1 @x2 0 0 | XREAD BLOCK 10 BLOCK 10 STREAMS @x1 $ | XREAD COUNT 1 COUNT 5 STREAMS @x1 0

XREAD BLOCK 0 STREAMS @x1 | XREAD BLOCK 0 STREAMS @x1 @x2 0 | XREAD BLOCK 0 STREAMS @x1 >
XREAD BLOCK 0 STREAMS @x1 @x2 0 > | XREAD BLOCK 0 STREAMS @x1 x | XREAD BLOCK 0 STREAMS @x1 @x2 0 x
XREAD BLOCK 0 STREAMS @x1 @x2 x 0 | XREAD BLOCK | XREAD BLOCK 0 | XREAD BLOCK 0 COUNT x STREAMS @x1 0
XREAD BLOCK 0 COUNT x STREAMS @x1 @x2 0 0 | XREAD BLOCK 0 COUNT STREAMS @x1 0 | XREAD BLOCK 0 FOO STREAMS @x1 0
XREAD BLOCK 0 GROUP g c STREAMS @x1 0 | XREAD GROUP g c BLOCK 0 STREAMS @x1 > | XREAD NOACK BLOCK 0 STREAMS @x1 0
XREADGROUP BLOCK 0 STREAMS @x1 > | XREADGROUP GROUP g BLOCK 0 STREAMS @x1 >
XREADGROUP BLOCK 0 COUNT 1 STREAMS @x1 @x2 > > | XREADGROUP GROUP g c BLOCK 0 STREAMS @x1
XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 @x2 > | XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 $
XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 @x2 > $ | XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 >
XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 @x2 > 0 | XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 x
XREAD BLOCK 0 STREAMS @x1 1-1-1 | XREAD BLOCK 0 STREAMS @x1 @x2 - + | XREAD BLOCK 0 STREAMS @x1 ''

XADD @x1 1-1 f a | XADD @x1 2-1 f b | XADD @x2 1-1 g a | XGROUP CREATE @x1 g 0 | XGROUP CREATE @x2 g 0
XGROUP CREATE @x3 g $ MKSTREAM | XREADGROUP GROUP g c BLOCK 0 COUNT 1 STREAMS @x1 >
XREADGROUP GROUP g d BLOCK 0 STREAMS @x1 @x2 @x3 > > > | XREADGROUP GROUP g c BLOCK 10 STREAMS @x1 @x2 > >
XREADGROUP GROUP g c BLOCK 10 STREAMS @x1 0 | XREADGROUP GROUP g d BLOCK 0 STREAMS @x1 @x2 0 0
XREADGROUP GROUP g e BLOCK 0 STREAMS @x1 0 | XREADGROUP GROUP g e BLOCK 0 STREAMS @x1 @x3 0 >
XREADGROUP GROUP g c BLOCK 0 STREAMS @x3 @x1 > 0 | XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 @x2 9 9 | XACK @x1 g 1-1
XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 0 | XADD @x1 3-1 f c | XREADGROUP GROUP g c BLOCK 0 NOACK STREAMS @x2 @x1 > >
XPENDING @x1 g | XADD @x2 3-1 f c | XREADGROUP GROUP g c NOACK BLOCK 0 COUNT 1 STREAMS @x2 > | XPENDING @x2 g
XINFO CONSUMERS @x1 g | XINFO CONSUMERS @x3 g | XREADGROUP GROUP h c BLOCK 0 STREAMS @x1 >
XREADGROUP GROUP h c BLOCK 0 STREAMS @x1 @x2 > > | XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 @y2 > >
XREADGROUP GROUP g c BLOCK 10 STREAMS @y1 @x2 0 > | XREADGROUP GROUP g f BLOCK 10 STREAMS @x1 @x2 > > | XINFO GROUPS @x1
XINFO GROUPS @x2 | XREADGROUP GROUP STREAMS BLOCK STREAMS @x1 >
"""

_TIMEOUTS: Final = (
    "0", "-0", "00", "1.5", "0x10", "+1", "1.", ".5", "1e1", "1e15", "9223372036854775", "9223372036854776",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1e300", "1e400", "-1", "-0.1", "-1e400",
    "inf", "-inf", "infinity", "nan", "x", "1x", "1,5", "''", "' 1'", "'1 '", "1e", "0x", "1\\0",
)  # fmt: skip
"""Right and wrong ones; none may make a command wait, so there is something for those that are right."""
_WITH_TIMEOUT: Final = (
    ("RPUSH @q2 a", "BLPOP @q1 @q2 %"),
    ("RPUSH @q2 a", "BRPOP @q2 %"),
    ("RPUSH @q1 a", "BLMOVE @q1 @r1 LEFT LEFT %"),
    ("RPUSH @q1 a", "BRPOPLPUSH @q1 @r1 %"),
    ("RPUSH @q2 a", "BLMPOP % 2 @q1 @q2 LEFT"),
    ("ZADD @z2 1 a", "BZPOPMIN @z1 @z2 %"),
    ("ZADD @z1 1 a", "BZPOPMAX @z1 %"),
    ("ZADD @z2 1 a", "BZMPOP % 2 @z1 @z2 MIN"),
    ("DEL @x2 | XADD @x2 1-1 f v", "XREAD BLOCK % STREAMS @x1 @x2 0-0 0-1"),
    ("DEL @x1 | XADD @x1 1-1 f v | XGROUP CREATE @x1 g 0", "XREADGROUP GROUP g c BLOCK % STREAMS @x1 0"),
)
TIMEOUT: Final = 0.1
"""Seconds, of `timed`."""
_WRONG_FOR_ALL: Final = ("-1", "x", "''", "9223372036854775808")


def spelled_keys(text: str, apart: bool) -> str:
    """The text with its keys as they are sent: in three slots, or all in one."""
    return re.sub(
        r"@([a-z]+)([1-3])", lambda key: f"{{{TAGS[int(key[2]) - 1 if apart else 0].decode()}}}{key[1]}{key[2]}", text
    )


def blocking() -> Iterator[list[Words]]:
    """Every sequence, as words."""
    texts = [_SEQUENCES.strip()]
    for made, asked in _WITH_TIMEOUT:
        texts.append("".join(f"{made} | {asked.replace('%', timeout)} | " for timeout in _TIMEOUTS) + "EXISTS @q1")
        # Nothing is there, or not what can be waited for: what is wrong with the timeout comes first.
        wrong = [asked.replace("%", timeout) for timeout in _WRONG_FOR_ALL]
        other = [re.sub("@[qzx]", "@s", text) for text in wrong]
        texts.append(" | ".join([*wrong, "SET @s1 x", "SET @s2 x", *other]))
    for apart in (False, True):
        yield from sequences_in(spelled_keys("\n\n".join(texts), apart))


def timed() -> Iterator[Words]:
    """Commands that wait for TIMEOUT, when no key exists."""
    for apart in (False, True):
        for _, asked in _WITH_TIMEOUT:
            if "GROUP" not in asked:
                timeout = f"{TIMEOUT * 1000:.0f}" if "BLOCK" in asked else str(TIMEOUT)
                yield sequences_in(spelled_keys(asked.replace("%", timeout), apart))[0][0]

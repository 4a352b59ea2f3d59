"""What several clients ask of both sides, one after another: the conversations of `differential_parties`.

An empty line stands between them. Keys are spelled as in `differential_blocking`: in one slot, and then in three.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.integration.differential_blocking import spelled_keys
from tests.integration.differential_cases import Words
from tests.integration.differential_keyless import sequences_in

_ONE_WAITS: Final = r"""
A BLPOP @q1 0 | B LPUSH @q1 a | A BLPOP @q1 0 | B RPUSH @q1 a b c | B LRANGE @q1 0 -1

A BRPOP @q1 0 | B RPUSH @q1 a b c | B LRANGE @q1 0 -1

A BLPOP @q1 0 | B LPUSH @q1 a b c | B LRANGE @q1 0 -1

A BLPOP @q1 @q2 @q3 0 | B RPUSH @q2 x y | A BLPOP @q1 @q2 @q3 0 | A BLPOP @q1 @q2 @q3 0 | B RPUSH @q3 z
A BRPOP @q3 @q2 @q1 0 | B LPUSH @q1 x y z | A BLPOP @q2 @q2 @q1 0 | A BLPOP @q3 @q3 @q2 0 | B RPUSH @q2 1

A BLMOVE @q1 @r1 LEFT RIGHT 0 | B RPUSH @q1 a b | B LRANGE @r1 0 -1 | A BLMOVE @q1 @q1 LEFT RIGHT 0
A BRPOPLPUSH @q2 @r2 0 | B LPUSH @q2 x y | A BRPOPLPUSH @p2 @r2 0 | B LPUSH @p2 z | B LRANGE @r2 0 -1

A BZPOPMIN @z1 0 | B ZADD @z1 3 c 1 a 2.5 b | A BZPOPMAX @z1 @z2 0 | A BZPOPMAX @z2 @z3 0 | B ZADD @z3 1 a 2 b
B ZINCRBY @z2 1.5 m | A BZPOPMIN @z1 @z2 @z3 0 | A BZPOPMIN @z3 0 | A BZPOPMAX @z1 0

A BLMPOP 0 3 @q1 @q2 @q3 LEFT COUNT 2 | B RPUSH @q2 a b c | A BLMPOP 0 2 @q3 @q2 RIGHT COUNT 2
A BLMPOP 0 2 @q3 @q2 RIGHT | B LPUSH @q3 d e | A BLMPOP 0 1 @p1 LEFT COUNT 9 | B RPUSH @p1 1 2 3

A BZMPOP 0 3 @z1 @z2 @z3 MAX COUNT 2 | B ZADD @z2 1 a 2 b 3 c | A BZMPOP 0 2 @z1 @z2 MIN COUNT 9 | A BZMPOP 0 1 @z1 MIN
B ZADD @z1 1 a 0 b

A XREAD BLOCK 0 STREAMS @x1 $ | B XADD @x1 1-1 f v | A XREAD BLOCK 0 STREAMS @x1 $ | B XADD @x1 2-1 f v
A XREAD BLOCK 0 STREAMS @x1 @x2 $ $ | B XADD @x2 1-1 f v | A XREAD BLOCK 0 STREAMS @x1 @x2 @x3 $ $ 0
B XADD @x3 7-1 f v g w | A XREAD BLOCK 0 COUNT 1 STREAMS @x1 @x2 2-1 1-1 | B XADD @x1 3-1 f v

A XREAD COUNT 1 BLOCK 0 STREAMS @x1 5-0 | B XADD @x1 4-1 f v | B XADD @x1 5-1 f v | B XADD @x1 5-2 f v
A XREAD BLOCK 0 STREAMS @x1 +1 | A XREAD BLOCK 0 STREAMS @x1 6 | B XADD @x1 6-0 f v | B XADD @x1 6-1 f v

B XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | B XADD @x1 1-1 f v | B XPENDING @x1 g
A XREADGROUP GROUP g c BLOCK 0 NOACK COUNT 1 STREAMS @x1 > | B XADD @x1 2-1 f v | B XPENDING @x1 g
A XREADGROUP GROUP g d COUNT 1 BLOCK 0 STREAMS @x1 > | B XADD @x1 3-1 f v g w
A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 0 | B XINFO CONSUMERS @x1 g

B XGROUP CREATE @x1 g $ MKSTREAM | B XGROUP CREATE @x2 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 @x2 > >
B XADD @x2 1-1 f v | A XREADGROUP GROUP g c BLOCK 0 COUNT 5 STREAMS @x2 @x1 > > | B XADD @x1 1-1 f v
A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 @x2 > 0 | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 @x2 > >
B XADD @x1 2-1 f v | B XPENDING @x1 g | B XPENDING @x2 g

B RPUSH @p1 a b c | A BLPOP @q1 0 | B LMOVE @p1 @q1 RIGHT LEFT | A BLPOP @q1 0 | B RPOPLPUSH @p1 @q1 | A BLPOP @q1 0
B RENAME @p1 @q1 | B RPUSH @p1 d e | A BLPOP @q1 @q2 0 | B RENAMENX @p1 @q1 | B EXISTS @p1 @q1 | A BRPOP @q1 0
A BRPOP @q1 0 | B RPUSH @p1 3 1 2 | B SORT @p1 DESC STORE @q1 | B LRANGE @q1 0 -1

B RPUSH @p1 a b c | A BLPOP @q1 0 | B COPY @p1 @q1 | B DEL @q1 | A BRPOP @q1 0 | B LPUSHX @q1 x | B RPUSH @q1 y
A BLMOVE @q1 @r1 LEFT LEFT 0 | B EVAL 'redis.call("rpush",KEYS[1],"a") return redis.call("rpush",KEYS[1],"b")' 1 @q1
B LRANGE @q1 0 -1 | B LRANGE @r1 0 -1

B ZADD @y1 1 a 2 b | A BZPOPMIN @z1 0 | B ZUNIONSTORE @z1 1 @y1 | B DEL @z1 | A BZPOPMAX @z1 0
B ZRANGESTORE @z1 @y1 0 -1 | A BZPOPMAX @z1 0 | A BZPOPMIN @z1 0 | B RENAME @y1 @z1 | A BZPOPMIN @z1 0
A BZPOPMIN @z1 0 | B GEOADD @z1 13.36 38.11 Palermo | A BZMPOP 0 2 @z1 @z2 MIN
B EVAL 'return redis.call("zadd",KEYS[1],1,"m",2,"n")' 1 @z2

A BLPOP @q1 0 | B MULTI | B RPUSH @q1 a | B RPUSH @q1 b | B EXEC | B LRANGE @q1 0 -1 | B DEL @q1 | A BLPOP @q1 0
B MULTI | B LPUSH @q1 a | B LPUSH @q1 b | B EXEC | B LRANGE @q1 0 -1 | A XREAD BLOCK 0 STREAMS @x1 $ | B MULTI
B XADD @x1 1-1 f v | B XADD @x1 2-1 f v | B EXEC | A BZPOPMIN @z1 0 | B MULTI | B ZADD @z1 5 a | B ZADD @z1 1 b | B EXEC

A BLPOP @q1 0 | B SET @q1 x | B DEL @q1 | B RPUSH @q1 a | A BLPOP @q1 0 | B ZADD @q1 1 m | B DEL @q1 | B SADD @q1 m
B RENAME @q1 @s1 | B RPUSH @q1 b | A BZPOPMIN @q1 0 | B RPUSH @q1 c | B DEL @q1 | B ZADD @q1 1 m
A XREAD BLOCK 0 STREAMS @q1 $ | B RPUSH @q1 c | B DEL @q1 | B XADD @q1 1-1 f v | A BLPOP @q2 @q3 0 | B SET @q2 x
B RPUSH @q3 d

A BLPOP @q1 0 | A PING x | A GET @s1 | A LLEN @q1 | B SET @s1 v | B RPUSH @q1 a b | A BLPOP @q1 0 | A BLPOP @q2 0
A INCR @n1 | A BLPOP @q3 @q2 0 | B RPUSH @q2 c d | B GET @n1

A BLPOP @q1 0 | A MULTI | A SET @s1 x | A EXEC | B RPUSH @q1 a | A WATCH @s1 | A BLPOP @q1 0 | B SET @s1 y
B RPUSH @q1 b | A MULTI | A GET @s1 | A EXEC

A BLPOP @q1 0 | B CLIENT UNBLOCK $A | B CLIENT UNBLOCK $A | A PING | A BRPOP @q1 @q2 0 | B CLIENT UNBLOCK $A TIMEOUT
A BLPOP @q1 0 | B CLIENT UNBLOCK $A ERROR | A PING | A BLPOP @q2 @q1 0 | B CLIENT UNBLOCK $A ERROR
A BLMOVE @q1 @r1 LEFT LEFT 0 | B CLIENT UNBLOCK $A | A BLMOVE @q1 @r1 LEFT LEFT 0 | B CLIENT UNBLOCK $A ERROR
A BRPOPLPUSH @q1 @r1 0 | B CLIENT UNBLOCK $A | A BRPOPLPUSH @q1 @r1 0 | B CLIENT UNBLOCK $A error | A BZPOPMIN @z1 @z2 0
B CLIENT UNBLOCK $A timeout | A BZPOPMAX @z1 0 | B CLIENT UNBLOCK $A ERROR | B RPUSH @q1 a | B LRANGE @q1 0 -1

A BLMPOP 0 1 @q1 LEFT | B CLIENT UNBLOCK $A | A BLMPOP 0 2 @q1 @q2 LEFT | B CLIENT UNBLOCK $A ERROR
A BZMPOP 0 2 @z1 @z2 MIN | B CLIENT UNBLOCK $A | A BZMPOP 0 1 @z1 MIN | B CLIENT UNBLOCK $A ERROR

A XREAD BLOCK 0 STREAMS @x1 $ | B CLIENT UNBLOCK $A | A XREAD BLOCK 0 STREAMS @x1 @x2 $ $ | B CLIENT UNBLOCK $A ERROR
B XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | B CLIENT UNBLOCK $A
A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | B CLIENT UNBLOCK $A ERROR | A PING | B XADD @x1 1-1 f v
B XPENDING @x1 g

B CLIENT UNBLOCK $A | B CLIENT UNBLOCK $B | A BLPOP @q1 0 | A BLPOP @q2 0 | A PING | B CLIENT UNBLOCK $A
B CLIENT UNBLOCK $A ERROR | B CLIENT UNBLOCK $A | B CLIENT UNBLOCK $A FOO | B CLIENT UNBLOCK x | A BLPOP @q1 0
B CLIENT UNBLOCK $A FOO | B CLIENT UNBLOCK $A TIMEOUT x | B RPUSH @q1 a

A BLPOP @q1 0 | B CLIENT KILL ID $A | B RPUSH @q1 a | B LRANGE @q1 0 -1

A BLPOP @q1 @q2 0 | B CLIENT KILL ID $A | B RPUSH @q2 a | B RPUSH @q1 a | B LRANGE @q1 0 -1 | B LRANGE @q2 0 -1

A BLPOP @q1 0 | A ! | B RPUSH @q1 a | B LRANGE @q1 0 -1

A BLMOVE @q1 @r1 LEFT LEFT 0 | A ! | B RPUSH @q1 a | B LRANGE @r1 0 -1 | C BRPOP @q2 @q3 0 | C ! | B RPUSH @q3 a
B LRANGE @q3 0 -1 | D BZPOPMIN @z1 @z2 0 | D ! | B ZADD @z2 1 m | B ZCARD @z2

B XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | A ! | B XADD @x1 1-1 f v
B XPENDING @x1 g | C XREADGROUP GROUP g d BLOCK 0 STREAMS @x1 >

A BLPOP @q1 @q2 1 | B RPUSH @q3 x | A ... | B RPUSH @q1 y | B LLEN @q1

A BLPOP @q1 1000 | B RPUSH @q1 a | A BRPOP @q1 @q2 1000.5 | B RPUSH @q2 a | A XREAD BLOCK 1000000 STREAMS @x1 @x2 $ $
B XADD @x2 1-1 f v

A BLPOP @q1 0 | B CLIENT LIST ID $A | B CLIENT LIST ID $B | A BRPOP @q1 @q2 0 | B RPUSH @q1 a b | B CLIENT LIST ID $A
"""

_SEVERAL_WAIT: Final = r"""
A BLPOP @q1 0 | B BLPOP @q1 0 | C BRPOP @q1 0 | D RPUSH @q1 1 | D RPUSH @q1 2 | D RPUSH @q1 3

A BLPOP @q1 0 | B BLPOP @q1 0 | C BRPOP @q1 0 | D RPUSH @q1 a b c d | D LRANGE @q1 0 -1

A BLPOP @q1 @q2 0 | B BLPOP @q2 @q1 0 | C BRPOP @q1 @q2 0 | D RPUSH @q2 x | D RPUSH @q1 y | D LPUSH @q2 z w
D LRANGE @q2 0 -1

A BLPOP @q1 @q2 0 | B BLPOP @q2 @q3 0 | C BLPOP @q3 @q1 0 | D RPUSH @q3 x y z | D RPUSH @q2 u | D LRANGE @q3 0 -1

A BZPOPMIN @z1 0 | B BZPOPMAX @z1 0 | C BZPOPMIN @z1 0 | D ZADD @z1 1 a 2 b 3 c 4 d | D ZRANGE @z1 0 -1

A BLMPOP 0 1 @q1 LEFT COUNT 2 | B BLPOP @q1 0 | C BLMPOP 0 1 @q1 RIGHT COUNT 9 | D RPUSH @q1 a b c d e f

A XREAD BLOCK 0 STREAMS @x1 $ | B XREAD BLOCK 0 STREAMS @x1 0 | C XREAD BLOCK 0 COUNT 1 STREAMS @x2 @x1 $ $
D XADD @x1 1-1 f v | A XREAD BLOCK 0 STREAMS @x1 @x2 $ $ | D XADD @x2 1-1 f v

D XGROUP CREATE @x1 g $ MKSTREAM | D XGROUP CREATE @x1 h $ | A XREADGROUP GROUP g c1 BLOCK 0 STREAMS @x1 >
B XREADGROUP GROUP g c2 BLOCK 0 STREAMS @x1 > | C XREADGROUP GROUP h c1 BLOCK 0 STREAMS @x1 > | D XADD @x1 1-1 f v
D XADD @x1 2-1 f v | C XREADGROUP GROUP h c1 BLOCK 0 STREAMS @x1 > | D XINFO CONSUMERS @x1 g | D XPENDING @x1 h

A BLMOVE @q1 @r1 LEFT RIGHT 0 | B BLPOP @r1 0 | C RPUSH @q1 x | A BRPOPLPUSH @r1 @q1 0 | B BLMOVE @q1 @p1 LEFT LEFT 0
D BLPOP @p1 0 | C RPUSH @r1 y | C EXISTS @q1 @r1 @p1

A BLMOVE @q1 @r1 LEFT LEFT 0 | B BLMOVE @r1 @q1 LEFT LEFT 0 | C RPUSH @q1 x | C LRANGE @q1 0 -1 | C LRANGE @r1 0 -1

D SET @s1 x | A BLMOVE @q1 @s1 LEFT LEFT 0 | B BLPOP @q1 0 | C RPUSH @q1 a | A BRPOPLPUSH @q1 @s1 0 | C RPUSH @q1 b
C LRANGE @q1 0 -1

A BLPOP @q1 0 | B BLPOP @q1 0 | C CLIENT UNBLOCK $A | C RPUSH @q1 x | A BLPOP @q1 0 | B BLPOP @q1 0 | A !
C RPUSH @q1 y | C LLEN @q1

A BLPOP @q1 0 | B BZPOPMIN @q1 0 | C XREAD BLOCK 0 STREAMS @q1 $ | D ZADD @q1 1 m | D RPUSH @q1 x | D XADD @q1 1-1 f v

A BLPOP @q1 0 | B MULTI | B RPUSH @q1 a | B LPOP @q1 | B EXEC | B MULTI | B RPUSH @q1 a | B DEL @q1 | B EXEC
B RPUSH @q1 b | A BLPOP @q1 0 | B EVAL 'redis.call("rpush",KEYS[1],"x") return redis.call("rpop",KEYS[1])' 1 @q1
B LPUSH @q1 y

A BLPOP @q1 0 | B MULTI | B SET @q1 x | B DEL @q1 | B RPUSH @q1 a b | B EXEC | B LRANGE @q1 0 -1 | A BLPOP @p1 0
B MULTI | B RPUSH @p1 a | B RENAME @p1 @o1 | B EXEC | B RENAME @o1 @p1

D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D DEL @x1 | D XADD @x1 1-1 f v

D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | B XREAD BLOCK 0 STREAMS @x1 $
D UNLINK @x1 | D XADD @x1 1-1 f v

D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D SET @x1 v | D DEL @x1
D XADD @x1 1-1 f v

D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D RENAME @x1 @y1 | D XADD @y1 1-1 f v
D XPENDING @y1 g

D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D XGROUP DESTROY @x1 g
A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D XADD @x1 1-1 f v

D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D FLUSHALL | B BLPOP @q1 0 | D FLUSHDB
D XADD @x1 1-1 f v | D RPUSH @q1 a

D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D MULTI | D DEL @x1
D XADD @x1 1-1 f v | D XGROUP CREATE @x1 g 0 | D EXEC

D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D XGROUP SETID @x1 g 5-5
D XADD @x1 3-3 f v | D XADD @x1 6-6 f v

D XADD @x1 5-1 f v | A XREAD BLOCK 0 STREAMS @x1 $ | D DEL @x1 | D XADD @x1 1-1 f v | D XADD @x1 6-1 f v
A XREAD BLOCK 0 STREAMS @x1 $ | D XTRIM @x1 MAXLEN 0 | D XDEL @x1 6-1 | D XADD @x1 MAXLEN 1 7-1 f v

A WAIT 1 0 | B CLIENT UNBLOCK $A | A WAIT 1 0 | B CLIENT UNBLOCK $A ERROR | A PING

A WATCH @a1 | B SET @a1 x | A MULTI | A GET @a1 | A EXEC | A WATCH @a1 | A MULTI | A INCR @n1 | B SET @a1 y | A EXEC
A WATCH @a1 @b1 | B GET @a1 | B EXISTS @b1 | A MULTI | A INCR @n1 | A EXEC | A WATCH @a1 @b1 | B MULTI | B SET @b1 1
B EXEC | A MULTI | A INCR @n1 | A EXEC | A WATCH @b1 | B EVAL 'return redis.call("incr",KEYS[1])' 1 @b1 | A MULTI
A INCR @n1 | A EXEC | A WATCH @b1 | B DEL @b1 | A MULTI | A INCR @n1 | A EXEC | B GET @n1

A WATCH @a1 | B SET @a1 1 | B DEL @a1 | A MULTI | A SET @a1 2 | A EXEC | A WATCH @a1 | B FLUSHALL | A MULTI
A SET @a1 3 | A EXEC | A WATCH @a1 | B FLUSHDB | A MULTI | A PING | A EXEC | A WATCH @a1 | B RENAME @a1 @b1
B RENAME @b1 @a1 | A MULTI | A EXEC

A SET @n1 1 | A WATCH @n1 | B WATCH @n1 | A MULTI | B MULTI | A INCR @n1 | B INCR @n1 | B EXEC | A EXEC | A WATCH @n1
B SET @n1 9 | A UNWATCH | A MULTI | A INCR @n1 | A EXEC | A WATCH @n1 | B SET @n1 9 | A MULTI | A DISCARD | A MULTI
A INCR @n1 | A EXEC | A WATCH @n1 | B SET @n1 9 | A WATCH @m1 | A MULTI | A INCR @n1 | A EXEC | A WATCH @n1
A SET @n1 5 | A MULTI | A INCR @n1 | A EXEC | A WATCH @n1 | B EXPIRE @n1 1000 | A MULTI | A GET @n1 | A EXEC

A WATCH @q1 | C BLPOP @q1 0 | B RPUSH @q1 x | A MULTI | A LLEN @q1 | A EXEC | A WATCH @q1 | A BLPOP @q1 0
B RPUSH @q1 y | A MULTI | A PING | A EXEC

A MULTI | A SET @a1 x | B GET @a1 | A GET @a1 | A EXEC | B GET @a1 | A MULTI | A SET @a1 y | A DISCARD | B GET @a1
A MULTI | A RPUSH @q1 x | B BLPOP @q1 0 | A EXEC | A MULTI | A BLPOP @q1 0 | A RPUSH @q1 x | A EXEC | C BLPOP @q1 0

A MULTI | A BLPOP @q1 0 | B RPUSH @q1 a | A BLPOP @q1 0 | A BLMOVE @q1 @r1 LEFT LEFT 0 | A EXEC | A BLPOP @q1 0
B MULTI | B BLPOP @q1 0 | B RPUSH @q1 b c | B BLPOP @q1 0 | B EXEC

A MULTI | B CLIENT LIST ID $A | A SET @a1 1 | A GET @a1 | B CLIENT LIST ID $A | A NOSUCH | B CLIENT LIST ID $A
A DISCARD | B CLIENT LIST ID $A | A WATCH @a1 | B CLIENT LIST ID $A | A MULTI | B CLIENT LIST ID $A | A EXEC
B CLIENT LIST ID $A

A MULTI | A SET @a1 x | A ! | B GET @a1 | C WATCH @a1 | C MULTI | C SET @a1 y | C ! | B GET @a1 | D MULTI | D SET @a1 z
B CLIENT KILL ID $D | B GET @a1
"""

_IN_ONE_SLOT: Final = r"""
A BLPOP @q1 @q2 0 | B MULTI | B RPUSH @q2 a | B RPUSH @q1 b | B EXEC | B LRANGE @q1 0 -1

A BLPOP @q1 @q2 0 | B BLPOP @q1 0 | C RPUSH @q1 a | C RPUSH @q1 b

A BLPOP @q1 @q2 0 | B BLPOP @q2 0 | C MULTI | C RPUSH @q2 x | C RPUSH @q1 y | C EXEC

A BLMOVE @q1 @r2 LEFT LEFT 0 | B RPUSH @q1 a | B LRANGE @r2 0 -1 | A BRPOPLPUSH @q1 @r3 0 | B RPUSH @q1 a

A XREAD BLOCK 0 STREAMS @x1 @x2 $ $ | B MULTI | B XADD @x2 1-1 f v | B XADD @x1 1-1 f v | B EXEC

A BLPOP @q1 @q2 0 | B EVAL 'redis.call("rpush",KEYS[2],"x") return redis.call("rpush",KEYS[1],"y")' 2 @q1 @q2

B MSET @a1 1 @a2 2 | A WATCH @a1 @a2 | B SET @a2 3 | A MULTI | A MGET @a1 @a2 | A EXEC | A WATCH @a1 @a3 | A MULTI
A MSET @a1 5 @a3 6 | A DEL @a2 | A EXEC | B MGET @a1 @a2 @a3
"""

_SINCE_7: Final = r"""
D XGROUP CREATE @x1 g $ MKSTREAM | A XREADGROUP GROUP g c BLOCK 0 STREAMS @x1 > | D PEXPIRE @x1 20 | A ...
D XADD @x1 1-1 f v
"""


def conversations(version: tuple[int, ...]) -> Iterator[list[Words]]:
    """Every conversation for servers of this version, as words: the client's letter, and the command's."""
    for text in (_ONE_WAITS, _SEVERAL_WAIT, *([_SINCE_7] if version >= (7,) else [])):
        for apart in (False, True):
            yield from sequences_in(spelled_keys(text, apart))
    yield from sequences_in(spelled_keys(_IN_ONE_SLOT, apart=False))


def conversations_while_moving() -> list[tuple[list[Words], list[Words]]]:
    """Those whose end does not depend on where, and so in which order, clients wait: in one slot, and in three."""
    together, apart = (sequences_in(spelled_keys(_ONE_WAITS, spread)) for spread in (False, True))
    return list(zip(together, apart, strict=True))

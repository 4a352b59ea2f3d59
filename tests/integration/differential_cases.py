"""What is asked of both sides, for every command with keys: an example per line, and what is made of each.

A word `@list` stands for the key of that name (`KEYS`), which holds a list when the command arrives; `''` is the
empty string; `=` before a word: it has no variants. From each example follow, by `variants`: every type of key in
every key's place, too few and too many arguments, and wrong words in each word's place. So the examples need only be
right ones, one for each form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeVar

from hypothesis import strategies as st

from slotproxy.protocol.splitting import SPLITTABLE
from tests.integration.differential_rules import SPANNING

Words = tuple[bytes, ...]
_Drawn = TypeVar("_Drawn")


class Draw(Protocol):
    """What Hypothesis hands to a composite strategy."""

    def __call__(self, strategy: st.SearchStrategy[_Drawn]) -> _Drawn: ...


KEYS: Final[dict[str, list[str]]] = {
    "str": ["SET @ hello"],
    "int": ["SET @ 10"],
    "bits": ["SET @ \xff\xf0\x01"],
    "volatile": ["SET @ v EX 1000"],
    "list": ["RPUSH @ 3 1 2 1"],
    "hash": ["HSET @ f1 v1 f2 5 f3 2.5"],
    "set": ["SADD @ a b c"],
    "set2": ["SADD @ b c d"],
    "ints": ["SADD @ 1 2 3"],
    "one": ["SADD @ only"],
    "zset": ["ZADD @ 1 a 2 b 3 c"],
    "zset2": ["ZADD @ 2 b 4 d"],
    "stream": [
        "XADD @ 1-1 f v", "XADD @ 2-1 f v g w", "XADD @ 3-1 f x", "XGROUP CREATE @ g 0",
        "XREADGROUP GROUP g c1 COUNT 2 STREAMS @ >",
    ],
    "hll": ["PFADD @ a b c"],
    "hll2": ["PFADD @ c d"],
    "geo": ["GEOADD @ 13.361389 38.115556 Palermo 15.087269 37.502669 Catania"],
    "none": [],
    "new": [],
}  # fmt: skip
"""Every key of the examples: the commands that make it, `@` being its name."""

KINDS: Final = ("str", "int", "volatile", "list", "hash", "set", "zset", "stream", "hll", "geo", "none")
WRONG_WORDS: Final = (b"", b"x", b"-1", b"1.5", b"9223372036854775808", b"\x00\xff\r\n'")

_EXAMPLES: Final = r"""
APPEND @str x | APPEND @none ''
BITCOUNT @bits | BITCOUNT @bits 0 -1 | BITCOUNT @bits 1 9 BIT
BITFIELD @bits GET u8 0 SET i5 #1 3 OVERFLOW FAIL INCRBY u2 4 1 | BITFIELD @none INCRBY i64 0 1 OVERFLOW SAT
BITFIELD_RO @bits GET u8 0 GET i4 #2
BITOP AND @new @bits @str | BITOP NOT @new @bits | BITOP XOR @bits @bits @none @str
BITPOS @bits 1 | BITPOS @bits 0 0 -1 | BITPOS @bits 1 2 9 BIT
COPY @str @new | COPY @list @zset REPLACE | COPY @none @str
DECR @int | DECRBY @int 3 | INCR @none | INCRBY @int -3 | INCRBYFLOAT @int 1.5 | INCR @str
DEL @str @none @list | UNLINK @str @none @list | EXISTS @str @str @none | TOUCH @str @none @list
DUMP @str | DUMP @none | RESTORE @new 0 @@payload | RESTORE @str 5000 @@payload REPLACE ABSTTL
EVAL return{KEYS[1],ARGV[1]} 1 @str x | EVAL return{redis.call('type',KEYS[1]),KEYS[2]} 2 @list @none
EVAL return{redis.call('get',KEYS[1])} 1 @list | EVAL return{redis.pcall('incr',KEYS[1])} 1 @str
EVAL nonsense( 1 @str
EVAL return{err='MINE.here'} 1 @str | EVAL return{false,1.9,{true},{ok='x'}} 1 @str | EVAL error('x') 1 @str
EVAL_RO return{redis.call('get',KEYS[1])} 1 @str | EVAL_RO return{redis.call('set',KEYS[1],'x')} 1 @str
EVALSHA ffffffffffffffffffffffffffffffffffffffff 1 @str | EVALSHA_RO 0123 1 @none
FCALL nosuch 1 @str x | FCALL_RO nosuch 2 @str @none
EXPIRE @str 100 | EXPIRE @volatile 50 LT | EXPIRE @str 100 NX | EXPIRE @none 5 | EXPIRE @list -1 | EXPIREAT @str 1
EXPIREAT @str 99999999999 XX | EXPIRETIME @volatile | EXPIRETIME @str | PEXPIRE @str 500000 GT | PEXPIREAT @str 1
PEXPIREAT @str 99999999999999 | PEXPIRETIME @volatile | PEXPIRETIME @none
TTL @volatile | TTL @str | PTTL @volatile | PTTL @none | PERSIST @volatile | PERSIST @str
GEOADD @geo 1 2 m | GEOADD @geo XX CH 13.5 38.2 Palermo | GEOADD @none NX 1 2 a 3 4 b
GEODIST @geo Palermo Catania km | GEODIST @geo Palermo nowhere | GEOHASH @geo Palermo nowhere | GEOPOS @geo Palermo x
GEORADIUS @geo 15 37 200 km WITHDIST WITHCOORD WITHHASH COUNT 1 ANY ASC | GEORADIUS @geo 15 37 200 km STORE @new
GEORADIUS @geo 15 37 200 km STOREDIST @zset2 | GEORADIUS_RO @geo 15 37 1000 km DESC
GEORADIUSBYMEMBER @geo Palermo 500 km | GEORADIUSBYMEMBER @geo Palermo 500 km STORE @new COUNT 1
GEORADIUSBYMEMBER_RO @geo Palermo 500 km WITHDIST ASC
GEOSEARCH @geo FROMLONLAT 15 37 BYRADIUS 200 km ASC | GEOSEARCH @geo FROMMEMBER Palermo BYBOX 400 400 km WITHDIST DESC
GEOSEARCHSTORE @new @geo FROMLONLAT 15 37 BYBOX 400 400 km COUNT 1
GEOSEARCHSTORE @set @geo FROMMEMBER x BYRADIUS 1 m STOREDIST
GET @str | GET @none | GETBIT @bits 7 | GETDEL @str | GETDEL @none | GETEX @str | GETEX @str EX 100
GETEX @volatile PERSIST
GETRANGE @str 1 -2 | SUBSTR @str 0 2 | GETSET @str new | GETSET @none x | SETRANGE @str 3 XYZ | SETRANGE @none 0 ''
SET @new v | SET @list v KEEPTTL GET | SET @str v NX | SET @str v XX GET PX 50000 | SET @str v EXAT 99999999999
SET @str '' GET
SETBIT @bits 7 0 | SETBIT @new 20 1 | SETEX @str 100 v | PSETEX @new 100000 v | SETNX @new v | SETNX @str v
STRLEN @str
LCS @str @int | LCS @str @bits IDX MINMATCHLEN 1 WITHMATCHLEN | LCS @str @str LEN | STRALGO LCS KEYS @str @int
HDEL @hash f1 nosuch | HEXISTS @hash f1 | HGET @hash f1 | HGET @hash no | HGETALL @hash | HGETALL @none
HINCRBY @hash f2 3
HINCRBY @hash f1 1 | HINCRBYFLOAT @hash f3 0.1 | HKEYS @hash | HVALS @hash | HLEN @hash | HMGET @hash f1 no f2
HMSET @hash a 1 b 2 | HSET @hash f1 x n y | HSETNX @hash f1 x | HSTRLEN @hash f1 | HRANDFIELD @hash
HRANDFIELD @hash 5 WITHVALUES
HSCAN @hash 0 | HSCAN @hash 0 MATCH f* COUNT 100 | HSCAN @hash 999 COUNT 1 | SSCAN @set =0 MATCH ? | SSCAN @ints 0
ZSCAN @zset 0 COUNT 5
LINDEX @list -1 | LINSERT @list BEFORE 1 x | LINSERT @list AFTER nosuch x | LLEN @list | LLEN @none
LMOVE @list @new LEFT RIGHT | LMOVE @list @list RIGHT LEFT | LMPOP 2 @none @list LEFT COUNT 2 | RPOPLPUSH @list @new
RPOPLPUSH @none @str
LPOP @list | LPOP @list 2 | LPOP @none | RPOP @list | RPOP @list 0 | LPOS @list 1 RANK -1 COUNT 0 MAXLEN 10
LPOS @list 9
LPUSH @list x y | LPUSHX @none x | LPUSHX @list x | RPUSH @new '' | RPUSHX @list x | LRANGE @list 0 -1
LRANGE @none 5 1
LREM @list 1 1 | LREM @list -2 1 | LSET @list 0 x | LSET @list 99 x | LTRIM @list 1 2 | LTRIM @list 5 1
MGET @str @none @list @str | MSET @str 1 @new 2 | MSET @list 1 @list 2 | MSETNX @none 1 @new 2 | MSETNX @new 1 @str 2
MEMORY USAGE @str | MEMORY USAGE @none SAMPLES 0 | OBJECT ENCODING @str | OBJECT FREQ @str | OBJECT IDLETIME @list
OBJECT REFCOUNT @list
PFADD @hll a z | PFADD @new | PFCOUNT @hll | PFCOUNT @hll @hll2 @none | PFMERGE @new @hll @hll2 | PFMERGE @hll
PFDEBUG ENCODING @hll
PFDEBUG GETREG @none
RENAME @str @new | RENAME @list @list | RENAME @none @str | RENAMENX @str @list | RENAMENX @str @new
SADD @set a z | SCARD @set | SISMEMBER @set a | SMISMEMBER @set a z | SMEMBERS @set | SMEMBERS @none | SREM @set a z
SDIFF @set @set2 @none | SINTER @set @set2 | SINTER @set @none | SUNION @set @set2 | SINTERCARD 2 @set @set2 LIMIT 1
SDIFFSTORE @new @set @set2 | SINTERSTORE @str @set @set2 | SUNIONSTORE @set @set @ints | SMOVE @set @set2 a
SMOVE @set @set a
SPOP =@one | SPOP =@one 5 | SPOP =@list | SRANDMEMBER @set | SRANDMEMBER @set 2 | SRANDMEMBER @set -5
SRANDMEMBER @none 1
SORT @list | SORT @list DESC LIMIT 0 2 | SORT @set ALPHA STORE @new | SORT @list BY =w_*
SORT @str
SORT_RO @list ALPHA | SORT_RO @set ALPHA DESC LIMIT 1 1
SPUBLISH @str message
TYPE @stream
XACK @stream g 1-1 9-9 | XADD @stream 5-1 f v | XADD @stream 1-1 f v | XADD @new NOMKSTREAM 1-1 f v
XADD @stream MAXLEN = 2 6-* f v
XAUTOCLAIM @stream g c2 0 0 COUNT 1 | XAUTOCLAIM @stream g c2 0 - JUSTID | XCLAIM @stream g c2 0 1-1
XCLAIM @stream g c2 0 1-1 9-9 JUSTID FORCE
XDEL @stream 1-1 9-9 | XGROUP CREATE @stream h $ | XGROUP CREATE @new g 0 MKSTREAM
XGROUP CREATE @stream g 0 ENTRIESREAD 1
XGROUP CREATECONSUMER @stream g c9 | XGROUP DELCONSUMER @stream g c1 | XGROUP DESTROY @stream g
XGROUP SETID @stream g 0
XINFO STREAM @stream | XINFO STREAM @stream FULL COUNT 1 | XINFO GROUPS @stream | XINFO CONSUMERS @stream g
XLEN @stream | XPENDING @stream g | XPENDING @stream g IDLE 0 - + 10 c1 | XRANGE @stream - +
XRANGE @stream (1-1 3 COUNT 1
XREVRANGE @stream + - COUNT 2 | XREAD COUNT 1 STREAMS @stream 0 | XREAD STREAMS @stream @none 1-1 $
XREADGROUP GROUP g c2 COUNT 1 STREAMS @stream > | XREADGROUP GROUP g c1 NOACK STREAMS @stream 0
XSETID @stream 9-9 | XSETID @stream 9-9 ENTRIESADDED 9 MAXDELETEDID 1-1 | XTRIM @stream MAXLEN 1
XTRIM @stream MINID ~ 2-0 LIMIT 1
ZADD @zset 5 x | ZADD @zset XX GT CH 9 a 0 b | ZADD @zset INCR 1 a | ZADD @zset NX inf z | ZCARD @zset
ZCOUNT @zset (1 +inf
ZDIFF 2 @zset @zset2 WITHSCORES | ZDIFFSTORE @new 2 @zset @zset2 | ZINCRBY @zset 1.5 a
ZINTER 2 @zset @zset2 WEIGHTS 2 3 AGGREGATE MAX
ZINTERCARD 2 @zset @zset2 LIMIT 5 | ZINTERSTORE @new 2 @zset @set AGGREGATE MIN | ZUNION 2 @zset @zset2 WITHSCORES
ZUNIONSTORE @new 2 @zset @zset2 WEIGHTS 1 -1 | ZUNIONSTORE @zset 1 @zset | ZLEXCOUNT @zset [a (c
ZMPOP 2 @none @zset MIN COUNT 2 | ZMPOP 1 @zset MAX | ZMSCORE @zset a nosuch | ZPOPMAX @zset | ZPOPMIN @zset 2
ZRANDMEMBER @zset | ZRANDMEMBER @zset 2 WITHSCORES | ZRANDMEMBER @zset -5 | ZRANGE @zset 0 -1 WITHSCORES
ZRANGE @zset [a + BYLEX LIMIT 0 1
ZRANGE @zset +inf -inf BYSCORE REV | ZRANGEBYLEX @zset - + | ZRANGEBYSCORE @zset -inf (3 WITHSCORES LIMIT 1 1
ZRANGESTORE @new @zset 0 1
ZRANK @zset b | ZREVRANK @zset nosuch | ZREM @zset a z | ZREMRANGEBYLEX @zset [a [b | ZREMRANGEBYRANK @zset 0 0
ZREMRANGEBYSCORE @zset 1 2 | ZREVRANGE @zset 0 1 WITHSCORES | ZREVRANGEBYLEX @zset + - | ZREVRANGEBYSCORE @zset 3 1
ZSCORE @zset a
MOVE @str 1 | COPY @str @new DB 1 REPLACE
BLPOP @list 0.01 | BLPOP @none @list 0.01 | BRPOP @list @none 0.01 | BLMOVE @list @new LEFT RIGHT 0.01
BLMOVE @list @list RIGHT LEFT 0.01 | BRPOPLPUSH @list @new 0.01 | BZPOPMIN @zset 0.01 | BZPOPMAX @none @zset 0.01
BLMPOP 0.01 2 @none @list LEFT COUNT 2 | BLMPOP 0.01 1 @list RIGHT | BZMPOP 0.01 2 @none @zset MAX COUNT 2
BZMPOP 0.01 1 @zset MIN | XREAD BLOCK 10 STREAMS @stream 0 | XREAD COUNT 1 BLOCK 10 STREAMS @none @stream $ 1-1
XREADGROUP GROUP g c2 BLOCK 10 STREAMS @stream > | XREADGROUP GROUP g c1 BLOCK 10 COUNT 1 STREAMS @stream 0
XREADGROUP GROUP g c2 COUNT 1 BLOCK 10 NOACK STREAMS @stream >
"""

# DUMP of the string "hello", as 6.2 writes it; later servers read it, too.
_PAYLOAD: Final = b"\x00\x05hello\t\x00\xb3\x80\x8e\xba1\xb2C\xbb"

Example = tuple[str, ...]


def examples() -> list[Example]:
    """Every example, as words; see `spell`."""
    return [tuple(text.split()) for line in _EXAMPLES.splitlines() for text in line.split(" | ") if text]


def spell(word: str, tag: bytes) -> bytes:
    """The word as it is sent, keys in the slot of `tag`."""
    word = word.removeprefix("=")
    if word == "@@payload":
        return _PAYLOAD
    if word == "''":
        return b""
    if word.startswith("@"):
        return b"{%b}%b" % (tag, word[1:].encode())
    return word.encode("latin-1")


def spelled(example: Example, tag: bytes) -> Words:
    return tuple(spell(word, tag) for word in example)


def making(kind: str, tag: bytes) -> list[Words]:
    """The commands that make the key `kind` what it shall be, whatever it was."""
    key = spell("@" + kind, tag)
    made = [tuple(key if word == "@" else word.encode("latin-1") for word in text.split()) for text in KEYS[kind]]
    return [(b"DEL", key), *made]


def kinds_in(example: Example) -> list[str]:
    """The keys of an example, each once."""
    bare = [word.removeprefix("=") for word in example]
    return list(dict.fromkeys(word[1:] for word in bare if word.startswith("@") and word != "@@payload"))


def variants(example: Example, tag: bytes) -> Iterator[tuple[list[str], Words]]:
    """The example and what follows from it: the keys to make before, and the command."""
    kinds = kinds_in(example)
    words = spelled(example, tag)
    yield kinds, words
    for place, word in enumerate(example):
        if word.startswith("@") and word != "@@payload":
            for kind in KINDS:
                if kind != word[1:]:
                    yield [*kinds, kind], (*words[:place], spell("@" + kind, tag), *words[place + 1 :])
    for length in range(1, len(words)):
        yield kinds, words[:length]
    yield [*kinds, "none"], (*words, spell("@none", tag))
    yield kinds, (*words, b"", b"\xff")
    yield kinds, (words[0].lower(), *words[1:])
    for place in range(1, len(words)):
        if not example[place].startswith(("@", "=")):
            for wrong in WRONG_WORDS:
                yield kinds, (*words[:place], wrong, *words[place + 1 :])


# ---- generated sequences

TAGS: Final = (b"a", b"b", b"c")
"""Their slots, 15495, 3300 and 7365, lie on three different nodes of a cluster that shares the slots evenly."""
_MIXED: Final = (*KINDS, "new", "set2", "zset2", "hll2", "ints")
# Removes at random, so that the sides part; prints 16,384 registers.
_NOT_GENERATED: Final = ("SPOP", "PFDEBUG")
_CHOICES: Final = [example for example in examples() if example[0] not in _NOT_GENERATED]


def populated() -> list[Words]:
    """The beginning of every generated sequence: a key of each kind under each tag."""
    return [command for tag in TAGS for kind in _MIXED for command in making(kind, tag)[1:]]


@st.composite
def commands(draw: Draw, choices: list[Example], tags: Sequence[bytes] = TAGS) -> Words:
    """An example on any of the keys under these tags; some with a wrong word or some words missing."""
    example = draw(st.sampled_from(choices))
    tag = draw(st.sampled_from(tags))
    spans = example[0].lower() in SPLITTABLE or example[0].lower() in SPANNING
    words: list[bytes] = []
    for word in example:
        if word.startswith("@") and word != "@@payload":
            if draw(st.booleans()):
                word = "@" + draw(st.sampled_from(_MIXED))
            if spans:
                tag = draw(st.sampled_from(tags))
        words.append(spell(word, tag))
    spoilt = draw(st.integers(0, 4 * len(words)))
    if 0 < spoilt < len(words) and not example[spoilt].startswith(("@", "=")):
        words[spoilt] = draw(st.sampled_from(WRONG_WORDS))
    elif spoilt == 4 * len(words):
        words.pop()
    return tuple(words)


@st.composite
def blocks(draw: Draw, over_slots: bool, watching: bool) -> list[Words]:
    """A transaction, its keys under one tag unless it may go over slots; some begin with WATCH, some are discarded."""
    tags = TAGS if over_slots else (draw(st.sampled_from(TAGS)),)
    found: list[Words] = []
    if watching and draw(st.booleans()):
        found.append((b"WATCH", spell("@" + draw(st.sampled_from(_MIXED)), draw(st.sampled_from(tags)))))
        found += draw(st.lists(commands(_CHOICES, tags), max_size=1))
    found += [(b"MULTI",), *draw(st.lists(commands(_CHOICES, tags), max_size=5))]
    return [*found, (draw(st.sampled_from([b"EXEC", b"EXEC", b"EXEC", b"DISCARD"])),)]


def pipelines(over_slots: bool = False, watching: bool = True) -> st.SearchStrategy[list[list[Words]]]:
    """Sequences, cut into pipelines. `over_slots`: so may transactions go. `watching`: some of them watch a key."""
    one = commands(_CHOICES).map(lambda words: [words])
    several = st.one_of(one, one, one, blocks(over_slots, watching))
    pipeline = st.lists(several, min_size=1, max_size=20).map(lambda parts: [words for part in parts for words in part])
    return st.lists(pipeline, min_size=1, max_size=6)

"""What is asked of both sides about the server as a whole: sequences of commands without keys, and around them.

An empty line stands between sequences, each of which begins on empty servers and undoes what a flush does not
(settings, users). Words are split as a shell does; `\n` is a line end, `\0` a zero byte. They are sent twice: in one
pipeline, and one by one: no EVALSHA may stand before the EVAL of its text, which slotproxy has read by then.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from slotproxy.protocol.commands import CommandTable
from tests.integration.differential_cases import Words

# ruff: noqa: E501 (some scripts are longer than a line)
_SEQUENCES: Final = r"""
SET a 1 | SET b 2 | SET c 3 | RPUSH d 4 | DBSIZE | KEYS * | KEYS [ab] | KEYS nosuch* | KEYS '' | KEYS | KEYS a b
RANDOMKEY | RANDOMKEY x | DBSIZE x | FLUSHDB | DBSIZE | KEYS * | RANDOMKEY | MSET a 1 b 2 c 3 | FLUSHALL foo
FLUSHALL '' | FLUSHDB SYNC x | FLUSHALL ASYNC SYNC | DBSIZE | FLUSHALL ASYNC | DBSIZE | MSET a 1 b 2 c 3
FLUSHALL SYNC | EXISTS a b c | MSET a 1 b 2 c 3 | FLUSHDB ASYNC | MGET a b c | FLUSHDB sync | SWAPDB 0 1 | SWAPDB 0
SWAPDB x 1 | SELECT 1 | MOVE a 1

SET a 1 | RPUSH b 1 | SCAN | SCAN x | SCAN '' | SCAN ' 0' | SCAN -1 | SCAN 1.5 | SCAN 99999999999999999999999
SCAN 0 FOO | SCAN 0 FOO x | SCAN 0 COUNT | SCAN 0 COUNT 0 | SCAN 0 COUNT -1 | SCAN 0 COUNT x | SCAN 0 COUNT 5 COUNT
SCAN 0 MATCH | SCAN 0 TYPE | SCAN 0 MATCH a COUNT 5 TYPE string X | SCAN 0 | SCAN 0 match * count 100 type LIST

SCRIPT FLUSH | SCRIPT LOAD 'return 1' | SCRIPT LOAD 'return{KEYS[1],ARGV[1]}' | SCRIPT LOAD 'return ('
SCRIPT LOAD '' | SCRIPT LOAD | SCRIPT LOAD a b
SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db ffffffffffffffffffffffffffffffffffffffff E0E1F9FABFC9D4800C877A703B823AC0578FF8DB
SCRIPT EXISTS x '' | SCRIPT EXISTS | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
EVALSHA E0E1F9FABFC9D4800C877A703B823AC0578FF8DB 1 a | EVALSHA_RO e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 b
SCRIPT FLUSH foo | SCRIPT FLUSH ASYNC x | SCRIPT KILL | SCRIPT KILL x | SCRIPT FLUSH ASYNC
SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 a | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 b

SCRIPT FLUSH | EVAL 'return 1' 1 a | SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db
EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 b
EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 c | SCRIPT FLUSH SYNC
EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 c

SCRIPT FLUSH | EVAL 'return {1,2,{3,"x"},false,nil,4}' 0 | EVAL 'return #KEYS+#ARGV' 0 a b c
EVAL 'return {#KEYS,#ARGV}' 3 {t}a {t}b {t}c x | EVAL 'return redis.call("nosuch")' 0
EVAL 'return redis.pcall("nosuch")' 0 | EVAL 'return redis.call("get")' 0
EVAL 'return redis.error_reply("MY own")' 0 | EVAL 'return redis.error_reply("MOVED 1 10.9.9.9:1")' 0
EVAL 'return redis.error_reply("NOSCRIPT mine")' 1 a | EVAL 'return redis.status_reply("fine")' 0
EVAL 'return redis.sha1hex(ARGV[1])' 0 '' | EVAL 'return nil' 0 | EVAL 'return 3.99' 0 | EVAL 'error("mine")' 0
EVAL 'return nosuch' 0 | EVAL 'x = 1' 0 | EVAL '#!lua flags=no-writes\nreturn redis.call("set",KEYS[1],"x")' 1 a
EVAL '#!lua\nreturn 7' 0 | EVAL '#!js\nreturn 7' 0 | EVAL '#!lua flags=nosuch\nreturn 7' 0
EVAL_RO 'return redis.call("set",KEYS[1],"x")' 1 a | EVAL_RO 'return redis.call("get",KEYS[1])' 1 a
EVAL_RO 'return ARGV' 0 x y | EVAL 'return redis.call("incr",KEYS[1])' 1 n
EVAL 'return redis.call("incr",KEYS[1])' 1 n | INCR n | EVAL 'return 1' x | EVAL 'return 1' 1 | EVAL 'return 1' -1
EVAL 'return 1' '' | EVAL 'return 1' 99999999999999999999 | EVAL ''  0 | EVAL 'return 1' | EVALSHA x 0
EVALSHA '' 1 a | EVAL 'return redis.call("ping")' 0 | EVAL 'return redis.call("echo",ARGV[1])' 0 x

FUNCTION LOAD '#!lua name=lib\nredis.register_function("f",function(k,a) return {k[1] or "none",a[1] or "none"} end)'
FUNCTION LOAD '#!lua name=lib\nredis.register_function("f",function(k,a) return 1 end)'
FUNCTION LOAD '#!lua name=other\nredis.register_function("f",function(k,a) return 1 end)' | FCALL f 0 x
FCALL f 1 a x | FCALL f 1 b x | FCALL f 1 c x | FCALL f 2 {t}a {t}b | FCALL F 0 | FCALL nosuch 0 | FCALL nosuch 1 a
FCALL f x | FCALL f 2 a | FCALL f -1 | FCALL_RO f 1 a | FUNCTION LIST | FUNCTION LIST WITHCODE
FUNCTION LIST LIBRARYNAME l* | FUNCTION LIST LIBRARYNAME x* WITHCODE | FUNCTION LIST LIBRARYNAME | FUNCTION LIST FOO
FUNCTION LOAD REPLACE '#!lua name=lib\nredis.register_function{function_name="f",callback=function(k,a) return redis.call("get",k[1]) end,flags={"no-writes"}}'
SET a 1 | FCALL f 1 a | FCALL_RO f 1 a | FCALL_RO f 1 b | FUNCTION LOAD REPLACE | FUNCTION LOAD FOO x
FUNCTION LOAD REPLACE x y | FUNCTION LOAD 'return 1' | FUNCTION LOAD '#!lua name=lib2\nreturn 1'
FUNCTION LOAD '#!lua name=lib2\nnot lua(' | FUNCTION LOAD '#!lua\nreturn 1' | FUNCTION LOAD '#!js name=lib2\nreturn 1'
FUNCTION LOAD '#!lua name=l!b\nreturn 1' | FUNCTION STATS | FUNCTION STATS x | FUNCTION KILL | FUNCTION DUMP
FUNCTION RESTORE x | FUNCTION RESTORE x FOO | FUNCTION RESTORE | FUNCTION DELETE nosuch | FUNCTION DELETE lib
FUNCTION DELETE lib | FUNCTION DELETE | FCALL f 1 a | FUNCTION LIST | FUNCTION FLUSH foo | FUNCTION FLUSH ASYNC x
FUNCTION LOAD '#!lua name=lib\nredis.register_function("f",function(k,a) return 1 end)' | FUNCTION FLUSH SYNC
FUNCTION LIST | FUNCTION LOAD '#!lua name=lib\nredis.register_function("f",function(k,a) return 1 end)'
FUNCTION FLUSH | FUNCTION LIST | FCALL f 1 a

CONFIG GET maxmemory | CONFIG GET MAXMEMORY | CONFIG GET maxmemory* | CONFIG GET nosuch
CONFIG GET maxmemory maxmemory-policy nosuch | CONFIG GET | CONFIG SET maxmemory 100mb | CONFIG GET maxmemory
CONFIG SET maxmemory foo | CONFIG SET maxmemory | CONFIG SET | CONFIG SET nosuch 1 | CONFIG SET maxmemory 0 nosuch 1
CONFIG SET maxmemory 0 maxmemory 1 | CONFIG SET maxmemory 0 maxmemory-policy | CONFIG SET databases 1
CONFIG GET maxmemory | CONFIG SET maxmemory-policy allkeys-lru maxmemory 0 | CONFIG GET maxmemory*
CONFIG SET maxmemory-policy noeviction | CONFIG SET maxmemory 0 | CONFIG RESETSTAT | CONFIG RESETSTAT x
CONFIG REWRITE | CONFIG REWRITE x

SLOWLOG RESET | SLOWLOG GET | SLOWLOG GET 0 | SLOWLOG GET -1 | SLOWLOG GET -2 | SLOWLOG GET x | SLOWLOG GET 1 2
SLOWLOG LEN | SLOWLOG LEN x | SLOWLOG RESET x | LATENCY LATEST | LATENCY LATEST x | LATENCY HISTORY nosuch
LATENCY HISTORY | LATENCY GRAPH nosuch | LATENCY GRAPH | LATENCY RESET | LATENCY RESET nosuch | LATENCY DOCTOR
LATENCY DOCTOR x | LATENCY HISTOGRAM nosuch | LATENCY HISTOGRAM get set | MEMORY DOCTOR | MEMORY DOCTOR x
MEMORY MALLOC-STATS | MEMORY PURGE | MEMORY PURGE x | MEMORY STATS | MEMORY STATS x | MEMORY USAGE
MEMORY USAGE nosuch

ACL WHOAMI | ACL WHOAMI x | ACL CAT | ACL CAT string | ACL CAT nosuch | ACL CAT a b | ACL LIST | ACL USERS
ACL GETUSER default | ACL GETUSER nosuch | ACL SETUSER dan on >secret ~k* +@read -get | ACL SETUSER dan nosuchrule
ACL SETUSER dan +nosuchcommand | ACL SETUSER | ACL GETUSER dan | ACL USERS | ACL LIST | ACL DRYRUN dan get k1
ACL DRYRUN dan strlen k1 | ACL DRYRUN dan strlen x | ACL DRYRUN nosuch get k1 | ACL DRYRUN dan nosuch
ACL DRYRUN dan get | ACL DRYRUN dan | ACL DELUSER dan nosuch | ACL DELUSER dan | ACL DELUSER default | ACL DELUSER
ACL GENPASS | ACL GENPASS 5 | ACL GENPASS 0 | ACL GENPASS x | ACL GENPASS 1 2 | ACL LOG RESET | ACL LOG | ACL LOG 5
ACL LOG x | ACL LOG -1 | ACL SAVE | ACL LOAD | ACL USERS

LASTSAVE | LASTSAVE x | TIME | TIME x | LOLWUT | LOLWUT VERSION 5 | LOLWUT VERSION x | ROLE | ROLE x | COMMAND
COMMAND COUNT | COMMAND COUNT x | COMMAND INFO get nosuch 'config|get' | COMMAND INFO | COMMAND DOCS get
COMMAND DOCS nosuch | COMMAND LIST | COMMAND LIST FILTERBY PATTERN x* | COMMAND LIST FILTERBY ACLCAT pubsub
COMMAND LIST FILTERBY MODULE nosuch | COMMAND LIST FILTERBY FOO x | COMMAND LIST x | COMMAND GETKEYS MSET a 1 b 2
COMMAND GETKEYS | COMMAND GETKEYS PING | COMMAND GETKEYS NOSUCH x | COMMAND GETKEYS EVAL x 5 a
COMMAND GETKEYSANDFLAGS LMOVE a b LEFT LEFT | COMMAND GETKEYSANDFLAGS PING | MODULE LIST | MODULE LIST x

PUBLISH ch m | PUBLISH '' '' | PUBLISH ch | PUBLISH ch m x | SPUBLISH ch m | SPUBLISH ch | PUBSUB CHANNELS
PUBSUB CHANNELS x* | PUBSUB CHANNELS a b | PUBSUB NUMSUB | PUBSUB NUMSUB a b a | PUBSUB NUMPAT | PUBSUB NUMPAT x
PUBSUB SHARDCHANNELS | PUBSUB SHARDCHANNELS x* | PUBSUB SHARDNUMSUB | PUBSUB SHARDNUMSUB a b a

CLIENT ID | CLIENT ID x | CLIENT LIST | CLIENT LIST TYPE normal | CLIENT LIST TYPE pubsub | CLIENT LIST TYPE foo
CLIENT LIST TYPE | CLIENT LIST ID | CLIENT LIST ID x | CLIENT LIST ID 999999999 | CLIENT LIST FOO | CLIENT INFO
CLIENT INFO x | CLIENT GETREDIR | CLIENT GETREDIR x | CLIENT NO-EVICT on | CLIENT NO-EVICT OFF | CLIENT NO-EVICT foo
CLIENT NO-EVICT | CLIENT TRACKINGINFO | CLIENT TRACKINGINFO x | CLIENT CACHING yes | CLIENT CACHING foo
CLIENT CACHING | CLIENT UNBLOCK 999999999 | CLIENT UNBLOCK x | CLIENT UNBLOCK 999999999 ERROR
CLIENT UNBLOCK 999999999 FOO | CLIENT UNBLOCK | CLIENT PAUSE 0 | CLIENT PAUSE 1 WRITE | CLIENT PAUSE 1 foo
CLIENT PAUSE -1 | CLIENT PAUSE x | CLIENT PAUSE 1.5 | CLIENT PAUSE | CLIENT UNPAUSE | CLIENT UNPAUSE x
CLIENT KILL 127.0.0.1:1 | CLIENT KILL '' | CLIENT KILL ID 999999999 | CLIENT KILL ID 0 | CLIENT KILL ID -1
CLIENT KILL ID x | CLIENT KILL ID | CLIENT KILL ADDR 127.0.0.1:1 | CLIENT KILL LADDR 127.0.0.1:1
CLIENT KILL TYPE pubsub | CLIENT KILL TYPE foo | CLIENT KILL USER nosuch | CLIENT KILL USER default TYPE pubsub
CLIENT KILL SKIPME maybe | CLIENT KILL ID 999999999 SKIPME no | CLIENT KILL FOO bar | CLIENT KILL | CLIENT SETNAME me
CLIENT GETNAME | CLIENT SETNAME 'a b' | CLIENT SETNAME '' | CLIENT GETNAME | CLIENT REPLY foo | CLIENT REPLY
CLIENT REPLY ON | CLIENT NO-TOUCH on

CLIENT SETNAME me | RESET | CLIENT GETNAME | PING | RESET x | CLIENT REPLY OFF | PING | RESET | PING after

CLIENT REPLY OFF | SET a 1 | PING | MGET a b c | NOSUCH | GET | DBSIZE | CLIENT REPLY ON | GET a | PING marker

SET a 1 | CLIENT REPLY SKIP | GET a | PING one | CLIENT REPLY SKIP | MGET a b c | PING two | CLIENT REPLY SKIP
NOSUCH | PING three | CLIENT REPLY SKIP | GET | PING four | CLIENT REPLY SKIP | DBSIZE | PING five | CLIENT REPLY SKIP
CLIENT REPLY SKIP | PING six | PING seven | CLIENT REPLY SKIP | CLIENT REPLY ON | PING eight | CLIENT REPLY OFF
CLIENT REPLY SKIP | PING nine | PING ten | CLIENT REPLY ON | CLIENT REPLY SKIP | DEL a b c | EXISTS a b c
PING marker

INFO | INFO all | INFO everything | INFO default | INFO server | INFO nosuch | INFO SERVER | INFO clients
INFO memory | INFO persistence | INFO stats | INFO replication | INFO cpu | INFO modules | INFO keyspace
INFO cluster | INFO '' | SET a 1 | SET b 1 EX 1000 | INFO keyspace | INFO server clients | INFO server nosuch

NOSUCH | NOSUCH a b | '' a | get\0 a | PING | PING x | PING x y | ECHO x | ECHO | SELECT 0 | SELECT x | AUTH x
AUTH default x | AUTH nobody x | HELLO | HELLO 2 | HELLO 9 | HELLO 2 FOO | CLUSTER INFO | CLUSTER NODES | CLUSTER
ASKING | READONLY | READWRITE x | SHUTDOWN NOSAVE | REPLICAOF no one | SLAVEOF no one | REPLICAOF no | FAILOVER | SYNC
PSYNC ? -1 | REPLCONF ack 1 | SAVE | SAVE x | BGSAVE | BGREWRITEAOF | DEBUG SLEEP 0 | DEBUG JMAP
MIGRATE 127.0.0.1 1 a 0 10 | MODULE LOAD x | MODULE LOADEX x | MODULE UNLOAD x | SCRIPT DEBUG YES
"""

NOT_COMPARED: Final[dict[str, str]] = {
    "subscribe unsubscribe psubscribe punsubscribe ssubscribe sunsubscribe": "tests/integration/test_pubsub_differential.py",
    "monitor client|tracking": "what nodes say unasked: test_differential_tracking",
    "restore-asking pfselftest": "for nodes and developers of Redis",
    "quit": "the connection ends: tests/integration/test_answers.py",
}


def sequences() -> list[list[Words]]:
    """Every sequence, as words."""
    return sequences_in(_SEQUENCES)


def sequences_in(text: str) -> list[list[Words]]:
    """The sequences of a text like the one above."""
    blocks = text.replace(r"\n", "\v").replace(r"\0", "\0").strip().split("\n\n")
    return [[_words(text) for text in block.replace("\n", " | ").split(" | ")] for block in blocks]


def _words(text: str) -> Words:
    return tuple(word.replace("\v", "\n").encode() for word in shlex.split(text))


def of_containers(table: CommandTable) -> Iterator[list[Words]]:
    """For every command with subcommands: HELP, none at all, and subcommands that there are not."""
    for command in table.commands():
        if command.subcommands:
            name = command.name.upper().encode()
            yield [(name, b"HELP"), (name, b"help"), (name, b"HELP", b"x"), (name,), (name, b"NOSUCH"), (name, b"")]

"""What is asked of both sides about transactions: sequences around MULTI, EXEC, DISCARD, WATCH and UNWATCH.

Written and run as those of `differential_keyless`. All keys of a transaction lie in one slot, unless the sequence is
about that. CLIENT REPLY OFF and SKIP are not executed inside: EXEC's array then lacks an element, and no client can
read on.
"""

from __future__ import annotations

from typing import Final

from tests.integration.differential_cases import Words
from tests.integration.differential_keyless import sequences_in

_TRANSACTIONS: Final = r"""
MULTI | EXEC | MULTI | DISCARD | EXEC | DISCARD | EXEC x | DISCARD x | MULTI x | UNWATCH x | UNWATCH | WATCH | MULTI
EXEC x | SET {t}a 1 | EXEC | MULTI | DISCARD x | EXEC | MULTI | MULTI x | EXEC | MULTI | WATCH | EXEC | MULTI
UNWATCH x | EXEC | MULTI | SET {t}a 2 | EXEC x y | GET {t}a | MULTI | EXEC x | EXEC | EXEC x | multi | exec | Multi
set {t}a 3 | eXec | multi | dIscard | GET {t}a

MULTI | MULTI | SET {t}a 1 | MULTI | EXEC | GET {t}a | MULTI | WATCH {t}a | SET {t}a 2 | EXEC | MULTI | UNWATCH
INCR {t}a | EXEC | GET {t}a | MULTI | SET {t}a 5 | MULTI | DISCARD | GET {t}a | MULTI | MULTI | MULTI | EXEC | EXEC

MULTI | NOSUCH a b | SET {t}a 1 | EXEC | MULTI | NOSUCH | DISCARD | EXEC | GET {t}a | MULTI | '' | EXEC | MULTI | GET
EXEC | MULTI | get {t}a b | EXEC | MULTI | SET {t}a | GET {t}a | EXEC | MULTI | MGET | MSET | DEL | XADD s | SORT | EXEC
PING | MULTI | GET | SET {t}a 1 | DISCARD | GET {t}a | MULTI | GET | MULTI | EXEC | MULTI | WATCH {t}a | GET | EXEC
MULTI | PING x y | EXEC | MULTI | ECHO | EXEC | MULTI | SELECT | EXEC | MULTI | BLPOP {t}a | EXEC | MULTI | BLPOP | EXEC
MULTI | EVAL | EXEC | MULTI | EVAL x | EXEC | MULTI | EVALSHA x | EXEC | MULTI | XREAD BLOCK | EXEC | GET {t}a

MULTI | CONFIG NOSUCH | EXEC | MULTI | CONFIG | EXEC | MULTI | CONFIG GET | EXEC | MULTI | OBJECT NOSUCH {t}a | EXEC
MULTI | OBJECT ENCODING | EXEC | MULTI | XINFO | EXEC | MULTI | XINFO STREAM | EXEC | MULTI | XGROUP NOSUCH {t}a | EXEC
MULTI | CLIENT | EXEC | MULTI | CLIENT NOSUCH | EXEC | MULTI | CLIENT SETNAME | EXEC | MULTI | CLIENT REPLY | EXEC
MULTI | CLIENT KILL | EXEC | MULTI | CLIENT ID x | EXEC | MULTI | SCRIPT NOSUCH | EXEC | MULTI | SCRIPT LOAD | EXEC
MULTI | MEMORY USAGE | EXEC | MULTI | COMMAND NOSUCH | EXEC | MULTI | ACL NOSUCH | EXEC | MULTI | ACL GETUSER | EXEC
MULTI | FUNCTION NOSUCH | EXEC | MULTI | FUNCTION LOAD | EXEC | MULTI | PUBSUB NOSUCH | EXEC | MULTI | SLOWLOG NOSUCH
EXEC | MULTI | CLUSTER NOSUCH | EXEC | MULTI | CLUSTER INFO | EXEC | MULTI | CLUSTER | EXEC | MULTI | CLUSTER KEYSLOT
EXEC | MULTI | LATENCY | EXEC | MULTI | MODULE NOSUCH | EXEC

MULTI | SAVE | EXEC | MULTI | SHUTDOWN NOSAVE | SET {t}a 1 | EXEC | MULTI | SYNC | EXEC | MULTI | PSYNC ? -1 | EXEC
MULTI | BGSAVE | EXEC | MULTI | BGREWRITEAOF | EXEC | MULTI | DEBUG SLEEP 0 | EXEC | MULTI | DEBUG JMAP | EXEC | MULTI
REPLICAOF no one | EXEC | MULTI | FAILOVER | EXEC | MULTI | MIGRATE 127.0.0.1 1 {t}a 0 10 | EXEC | MULTI | MODULE LOAD x
EXEC | MULTI | SAVE x | EXEC | MULTI | SHUTDOWN NOSAVE | DISCARD | GET {t}a

SET {t}s x | RPUSH {t}l 1 2 | MULTI | LPUSH {t}s a | INCR {t}s | GET {t}l | SET {t}a 1 | HGET {t}s f | ZADD {t}s x m
ZADD {t}l 1 m | SETRANGE {t}a -1 x | EXPIRE {t}a x | GETRANGE {t}a x y | LSET {t}l 9 x | RENAME {t}none {t}x | EXEC
MULTI | MSET {t}a 1 {t}b | SET {t}a 1 foo | EXEC | MULTI | GET {t}none | HGETALL {t}none | LPOP {t}none | LPOP {t}none 1
SMEMBERS {t}none | ZSCORE {t}none m | TYPE {t}none | LMOVE {t}none {t}none LEFT LEFT | EXEC | MGET {t}a {t}s {t}l
LRANGE {t}l 0 -1

MULTI | SET {t}a 1 | INCR {t}a | INCRBY {t}a 5 | APPEND {t}a x | GET {t}a | DEL {t}a {t}b | EXISTS {t}a {t}b | EXEC
MULTI | MSET {t}a 1 {t}b 2 | MGET {t}a {t}b {t}c | DEL {t}a {t}a {t}b | TOUCH {t}a {t}b | UNLINK {t}a | MGET {t}a | EXEC
MULTI | RPUSH {t}q a b c | RPOPLPUSH {t}q {t}r | LRANGE {t}q 0 -1 | LRANGE {t}r 0 -1 | SORT {t}q ALPHA DESC | EXEC
MULTI | XADD {t}x 1-1 f v | XGROUP CREATE {t}x g 0 | XREADGROUP GROUP g c STREAMS {t}x > | XACK {t}x g 1-1 | XLEN {t}x
XREAD STREAMS {t}x 0 | EXEC | MULTI | SORT {t}q BY w_* | MOVE {t}a 1 | COPY {t}q {t}p DB 1 | EXEC
EXISTS {t}a {t}p {t}q

SCRIPT LOAD 'return {KEYS[1],ARGV[1]}' | MULTI
EVAL 'redis.call("incr",KEYS[1]) return redis.call("get",KEYS[1])' 1 {t}n
EVALSHA bfbf458525d6a0b19200bfd6db3af481156b367b 1 {t}n x | EVAL 'return redis.error_reply("MOVED 1 10.9.9.9:1")' 1 {t}n
EVAL 'bad lua(' 1 {t}n | EVAL 'return redis.call("lpush",KEYS[1],"x")' 1 {t}n | EVAL 'return 1' x
EVAL 'return 1' 2 {t}n | EVALSHA ffffffffffffffffffffffffffffffffffffffff 1 {t}n | EVALSHA abc 0 | GET {t}n | EXEC
GET {t}n | EVAL 'return #KEYS' 0 | MULTI | EVAL 'return #KEYS' 0 | EVAL 'return ARGV' 0 a b | EXEC | MULTI
EVAL 'redis.call("set",KEYS[1],"v") return redis.call("nosuch")' 1 {t}n | GET {t}n | EXEC | MULTI
EVAL_RO 'return redis.call("get",KEYS[1])' 1 {t}n | EVAL_RO 'return redis.call("del",KEYS[1])' 1 {t}n | EXEC

EVAL 'return {KEYS[1],ARGV[1]}' 1 {t}n x | MULTI | EVALSHA bfbf458525d6a0b19200bfd6db3af481156b367b 1 {t}n x | EXEC
MULTI | EVAL 'return redis.call("blpop",KEYS[1],"0")' 1 {t}none | EXEC

FUNCTION LOAD '#!lua name=lib\nredis.register_function("f",function(k,a) redis.call("incr",k[1]) return a end)'
FUNCTION LOAD '#!lua name=lib2\nredis.register_function("g",function(k,a) return #a end)'
MULTI | FCALL f 1 {t}n x | GET {t}n | FCALL f 1 {t}n | FCALL nosuch 1 {t}n | EXEC | GET {t}n | MULTI | FCALL g 0 a b
EXEC | MULTI | FCALL f 1 {u}n | EXEC | MULTI | FCALL f 1 {v}n | FCALL f x | FCALL f 2 {v}n | EXEC | MULTI
FCALL_RO f 1 {t}n | EXEC

MULTI | PING | PING x | ECHO x | SELECT 0 | SELECT x | SELECT -1 | SELECT 1 | TIME | CLIENT ID | CLIENT GETNAME | EXEC
MULTI | CLIENT SETNAME me | CLIENT GETNAME | EXEC | CLIENT GETNAME | MULTI | CLIENT SETNAME 'a b' | CLIENT GETREDIR
EXEC | MULTI | CLIENT SETNAME you | DISCARD | CLIENT GETNAME | MULTI | COMMAND COUNT | PUBLISH ch m | ECHO y | EXEC
MULTI | PUBLISH ch m | SET {t}a 1 | PING | PUBLISH ch m | GET {t}a | EXEC | MULTI | LOLWUT VERSION x | EXEC | MULTI
LASTSAVE | EXEC | MULTI | ACL WHOAMI | ACL CAT nosuch | COMMAND GETKEYS GET x | EXEC | MULTI | OBJECT HELP | EXEC
MULTI | SPUBLISH {t}ch m | SET {t}a 2 | EXEC | MULTI | SWAPDB 0 1 | PING | EXEC | MULTI | CONFIG GET maxmemory | EXEC
MULTI | CLIENT NO-EVICT on | CLIENT NO-EVICT off | CLIENT GETREDIR | CLIENT CACHING yes | EXEC | MULTI | ROLE | EXEC
MULTI | CLIENT KILL ID 999999999 | CLIENT PAUSE 0 | CLIENT UNPAUSE | CLIENT LIST ID 999999999 | EXEC

CLIENT INFO | MULTI | CLIENT INFO | EXEC | MULTI | SET {t}a 1 | GET {t}a | CLIENT INFO | SET {t}a 2 | EXEC | CLIENT INFO
WATCH {t}a | CLIENT INFO | MULTI | CLIENT INFO | EXEC | MULTI | NOSUCH | CLIENT INFO | EXEC | CLIENT INFO
CLIENT SETNAME me | MULTI | CLIENT SETNAME you | CLIENT INFO | EXEC

MULTI | HELLO | HELLO 2 | HELLO 9 | HELLO 2 FOO | HELLO 2 SETNAME me | CLIENT GETNAME | HELLO 2 AUTH default x | EXEC
MULTI | AUTH x | AUTH default x | AUTH nobody x | AUTH a b c | SET {t}a 1 | EXEC | MULTI | AUTH | EXEC | MULTI
HELLO 2 AUTH nobody x | EXEC | MULTI | SET {t}a 3 | RESET | EXEC | GET {t}a | CLIENT SETNAME me | MULTI | GET | RESET
DISCARD | CLIENT GETNAME | MULTI | RESET x | EXEC | MULTI | CLIENT REPLY ON | CLIENT REPLY foo | SET {t}a 4 | EXEC
GET {t}a | ASKING | MULTI | ASKING | READONLY | READWRITE x | EXEC | MULTI | READONLY | EXEC | GET {t}a

SET {t}a 1 | MULTI | SET {t}a 2 | QUIT | GET {t}a

SET {t}a 1 | WATCH {t}a | MULTI | INCR {t}a | EXEC | GET {t}a | WATCH {t}a | SET {t}a 5 | MULTI | INCR {t}a | EXEC
GET {t}a | WATCH {t}a | SET {t}a 6 | MULTI | EXEC | MULTI | EXEC | WATCH {t}a | GET {t}a | STRLEN {t}a
EXISTS {t}a {t}b | MULTI | INCR {t}a | EXEC | WATCH {t}a | SET {t}a 7 | UNWATCH | MULTI | INCR {t}a | EXEC | WATCH {t}a
SET {t}a 8 | MULTI | INCR {t}a | DISCARD | MULTI | INCR {t}a | EXEC | WATCH {t}a | SET {t}a 9 | EXEC | MULTI | INCR {t}a
EXEC | WATCH {t}a | SET {t}a 9 | DISCARD | MULTI | INCR {t}a | EXEC | WATCH {t}a | SET {t}a 1 | MULTI | NOSUCH | EXEC
MULTI | GET {t}a | EXEC | WATCH {t}a | SET {t}a 1 | MULTI | EXEC x | MULTI | GET {t}a | EXEC | WATCH {t}a | SET {t}a 1
RESET | MULTI | GET {t}a | EXEC | WATCH {t}a | MULTI | UNWATCH | SET {t}a 3 | EXEC | WATCH {t}a | SET {t}a 4 | MULTI
UNWATCH | GET {t}a | EXEC | GET {t}a

WATCH {t}none | MULTI | SET {t}none 1 | EXEC | GET {t}none | DEL {t}none | WATCH {t}none | SET {t}none 1 | MULTI
GET {t}none | EXEC | WATCH {t}none | DEL {t}none | SET {t}none 1 | MULTI | GET {t}none | EXEC | DEL {t}none
WATCH {t}none | SET {t}none 1 | DEL {t}none | MULTI | EXISTS {t}none | EXEC | WATCH {t}none | DEL {t}none | MULTI
EXISTS {t}none | EXEC | UNWATCH

MSET {t}a 1 {t}b 2 | WATCH {t}a {t}b {t}c | SET {t}b 3 | MULTI | GET {t}b | EXEC | WATCH {t}a | WATCH {t}b | SET {t}a 3
MULTI | GET {t}a | EXEC | WATCH {t}a | WATCH {t}b | WATCH {t}a {t}a {t}b | MULTI | MGET {t}a {t}b | EXEC | WATCH {t}a
SET {t}b 4 | MULTI | MGET {t}a {t}b | EXEC | WATCH {t}a | SET {t}a 1 | WATCH {t}b | MULTI | GET {t}b | EXEC | WATCH {t}a
EVAL 'return redis.call("set",KEYS[1],ARGV[1])' 1 {t}a 7 | MULTI | GET {t}a | EXEC | WATCH {t}a | MULTI | SET {t}a 8
SET {t}b 8 | EXEC | WATCH {t}a | RENAME {t}b {t}a | MULTI | GET {t}a | EXEC | WATCH {t}b | COPY {t}a {t}b | MULTI
GET {t}b | EXEC | WATCH {t}a | EXPIRE {t}a 100 | MULTI | TTL {t}a | EXEC | WATCH {t}a | PERSIST {t}a | MULTI | TTL {t}a
EXEC | WATCH {t}a | SET {t}a 8 NX | MULTI | GET {t}a | EXEC | WATCH {t}a | SETNX {t}a 9 | DEL {t}none | MULTI | GET {t}a
EXEC | WATCH {t}a | LPUSH {t}a x | GETEX {t}a | MULTI | GET {t}a | EXEC | WATCH {t}l | RPUSH {t}l a | LPOP {t}l | MULTI
LLEN {t}l | EXEC | WATCH {t}a | FLUSHALL | MULTI | GET {t}a | EXEC | WATCH {t}a | FLUSHALL | MULTI | GET {t}a | EXEC
SET {t}a 1 | WATCH {t}a | FLUSHDB ASYNC | MULTI | GET {t}a | EXEC | SET {t}a 1 | WATCH {t}a | MULTI | DEL {t}a | EXEC
EXISTS {t}a

SET {t}a 1 PX 1 | BLPOP {t}none 0.05 | WATCH {t}a | MULTI | GET {t}a | EXEC | WATCH {t}a | SET {t}a 1 | MULTI | GET {t}a
EXEC | SET {t}a 1 PX 20 | WATCH {t}a | BLPOP {t}none 0.1 | MULTI | SET {t}b 1 | EXEC | SET {t}a 1 PX 20 | WATCH {t}a
BLPOP {t}none 0.1 | MULTI | GET {t}a | EXEC | SET {t}a 1 PX 20 | WATCH {t}a | BLPOP {t}none 0.1 | SET {t}a 2 | MULTI
GET {t}a | EXEC | SET {t}a 1 PX 20 | WATCH {t}a | BLPOP {t}none 0.1 | EXISTS {t}a | MULTI | SET {t}b 2 | EXEC
MGET {t}a {t}b

MULTI | BLPOP {t}none 0 | BRPOP {t}none {t}none2 0 | BLMOVE {t}none {t}d LEFT LEFT 0 | BRPOPLPUSH {t}none {t}d 0
BZPOPMIN {t}none 0 | BZPOPMAX {t}none 0 | EXEC | MULTI | BLMPOP 0 1 {t}none LEFT | BZMPOP 0 2 {t}none {t}none2 MIN
EXEC | MULTI | XREAD BLOCK 0 STREAMS {t}none $ | XREADGROUP GROUP g c BLOCK 0 STREAMS {t}none > | EXEC
XADD {t}x 1-1 f v | XGROUP CREATE {t}x g $ | MULTI | XREAD BLOCK 0 STREAMS {t}x $
XREADGROUP GROUP g c BLOCK 0 STREAMS {t}x > | XREAD BLOCK 0 STREAMS {t}x 0 | EXEC | MULTI | BLPOP {t}none x
BLPOP {t}none -1 | XREAD BLOCK x STREAMS {t}x $ | BLMOVE {t}none {t}d foo LEFT 0 | BLMPOP 0 0 {t}none LEFT | EXEC
MULTI | RPUSH {t}l a b c | BLPOP {t}l 0 | BRPOP {t}none {t}l 0 | BLMOVE {t}l {t}m LEFT RIGHT 0 | BLPOP {t}l 0
BRPOPLPUSH {t}m {t}l 0 | EXEC | LRANGE {t}l 0 -1 | MULTI | ZADD {t}z 1 a 2 b | BZPOPMIN {t}z 0 | BZPOPMAX {t}z 0
BZPOPMAX {t}z 0 | EXEC | MULTI | SET {t}s x | BLPOP {t}s 0 | EXEC | WATCH {t}l | MULTI | BLPOP {t}l 0 | BLPOP {t}none 0
EXEC | EXISTS {t}l

MULTI | CLIENT REPLY OFF | DISCARD | PING x | CLIENT REPLY SKIP | MULTI | SET {t}a 1 | EXEC | GET {t}a
CLIENT REPLY OFF | MULTI | SET {t}a 2 | EXEC | WATCH {t}a | SET {t}a 3 | MULTI | SET {t}a 4 | EXEC | EXEC | GET
BLPOP {t}none 0.01 | CLIENT REPLY ON | GET {t}a | CLIENT REPLY SKIP | BLPOP {t}none 0.01 | PING x | CLIENT REPLY SKIP
EXEC | PING y | CLIENT REPLY SKIP | MULTI | NOSUCH | EXEC

WAIT 0 0 | WAIT 1 10 | WAIT x 0 | WAIT 0 x | WAIT 0 -1 | WAIT -1 0 | WAIT 0 | WAIT 1 1.5 | MULTI | WAIT | EXEC | MULTI
WAIT 0 0 | EXEC | MULTI | CLIENT UNBLOCK 999999999 | EXEC | MULTI | CLIENT UNBLOCK | EXEC

SET {a}k 1 | SET {b}k 2 | MULTI | GET {a}k | GET {b}k | EXEC | MULTI | SET {a}k 3 | SET {b}k 4 | DISCARD
MGET {a}k {b}k | MULTI | MGET {a}k {b}k | EXEC | MULTI | DEL {a}k {b}k | PING | EXEC | MGET {a}k {b}k | MULTI | GET
SET {a}k 3 | SET {b}k 4 | EXEC | MULTI | RENAME {a}k {b}k | GET {a}k | EXEC | MULTI | BLPOP {a}q {b}q 0 | EXEC | MULTI
XREAD STREAMS {a}q {b}q 0 0 | EXEC | WATCH {a}k {b}k | WATCH {a}k | MULTI | GET {a}k | EXEC | WATCH {a}k | WATCH {b}k
MULTI | GET {a}k | EXEC | WATCH {a}k | MULTI | GET {b}k | EXEC | WATCH {a}k | MULTI | PING | EXEC | MGET {a}k {b}k
WATCH {a}k | SET {a}k 9 | MULTI | PING | EXEC | WATCH {a}k | SET {b}k 9 | MULTI | PING | EXEC | MULTI | PING
SET {a}k 1 | PING x | EXEC

MSET {a}k 1 {b}k 2 | MULTI | DBSIZE | EXEC | MULTI | KEYS * | EXEC | MULTI | RANDOMKEY | EXEC | MULTI | FLUSHALL | EXEC
DBSIZE | MULTI | FLUSHDB foo | EXEC | MULTI | DBSIZE x | EXEC | MULTI | SCAN 0 COUNT 1000 | EXEC | MULTI | SCAN x | EXEC
MULTI | SCRIPT LOAD 'return 1' | EXEC | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 | MULTI | SCRIPT EXISTS abc
EXEC | MULTI | INFO nosuch | EXEC | MULTI | SLOWLOG LEN | EXEC | MULTI | CONFIG SET maxmemory 0 | EXEC | MULTI
CONFIG SET nosuch 1 | EXEC | MULTI | PUBSUB NUMSUB ch | EXEC | MULTI | FUNCTION LIST | EXEC | MULTI | FUNCTION FLUSH foo
EXEC | MULTI | CONFIG RESETSTAT | EXEC

SET {a}k 1 | MULTI | GET {a}k | DBSIZE | EXEC | MULTI | SET {a}k 5 | KEYS * | EXEC | GET {a}k | WATCH {a}k | MULTI
DBSIZE | EXEC | MULTI | DBSIZE | DBSIZE | EXEC | MULTI | PING | CONFIG GET maxmemory | EXEC | MULTI | DBSIZE | PING
DISCARD | MULTI | GET | DBSIZE | EXEC
"""


def transactions() -> list[list[Words]]:
    """Every sequence, as words."""
    return sequences_in(_TRANSACTIONS)

"""What the programs of redis-py, ioredis and node-redis have in common: the keys of their rounds, and what is left."""

from __future__ import annotations

from tests.applications.running import Outcome


def keys_of(kind: str) -> tuple[str, ...]:
    """Those of one client in such a program."""
    counted = ("pipe:0", "pipe:1", "pipe:2", "{block}:a", "watched", "script")
    used = ("text:0", "text:1", "queue:a", "queue:b", "ready", "stream", "hash", "ranked", "lock")
    return (*(f"ran:{kind}:{name}" for name in counted), *(f"{kind}:{name}" for name in used))


def check(outcome: Outcome, *kinds: str) -> None:
    """The programs look at their replies; this is what they have written."""
    rounds = len(outcome.rounds)
    per_round = {f"pipe:{place}": 1 for place in range(8)}
    per_round |= {"{block}:a": 1, "{block}:b": 1, "watched": 2, "script": 3}
    assert outcome.state.ran == {f"{kind}:{name}": n * rounds for kind in kinds for name, n in per_round.items()}
    left = [*(f"text:{place}" for place in range(8)), "stream", "hash", "ranked"]
    assert outcome.state.keys == {f"{kind}:{name}" for kind in kinds for name in left}

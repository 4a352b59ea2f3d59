"""What the demo's clients saw: counts, complaints, latencies. Plain numbers in bounded memory, no I/O."""

from __future__ import annotations

import random

COMPLAINTS_KEPT = 10


class Reservoir:
    """An even sample of all values seen, never more than `size` of them."""

    def __init__(self, size: int = 5_000) -> None:
        self._size = size
        self._seen = 0
        self._values: list[float] = []

    def add(self, value: float) -> None:
        self._seen += 1
        if len(self._values) < self._size:
            self._values.append(value)
        elif (place := int(random.random() * self._seen)) < self._size:
            self._values[place] = value

    def quantile(self, fraction: float) -> float | None:
        """None before the first value."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        return ordered[min(int(fraction * len(ordered)), len(ordered) - 1)]

    def clear(self) -> None:
        self._seen = 0
        self._values.clear()


class Tally:
    """Shared by all clients of a demo. `recent` is cleared by whoever shows it, `latencies` never."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.wrong = 0
        self.complaints: list[str] = []
        self.latencies = Reservoir()
        self.recent = Reservoir()

    @property
    def clean(self) -> bool:
        return not self.errors and not self.wrong

    def answered(self, count: int = 1) -> None:
        self.requests += count

    def took(self, seconds: float) -> None:
        """The latency of one request that was alone on its connection."""
        self.latencies.add(seconds)
        self.recent.add(seconds)

    def error(self, who: str, what: object) -> None:
        """An error reply, a lost connection, or no answer at all."""
        self.errors += 1
        self._complain(f"{who}: {what}")

    def expect(self, who: str, asked: str, expected: object, got: object) -> bool:
        """Whether the two are equal; counts a wrong value unless they are."""
        if got == expected:
            return True
        self.wrong += 1
        self._complain(f"{who}: {asked}: expected {expected!r}, got {got!r}")
        return False

    def _complain(self, text: str) -> None:
        if len(self.complaints) < COMPLAINTS_KEPT:
            self.complaints.append(text[:300])

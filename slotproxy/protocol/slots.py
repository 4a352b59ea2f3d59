"""Hash slots: which of the 16,384 slots a key belongs to.

Slot = CRC16/XMODEM of the key, or of its first non-empty ``{tag}``, modulo 16384 (Redis Cluster
specification, "Key distribution model" and "Hash tags"). The loop runs on native integers when compiled and
looks at the bytes where they lie in the receive buffer, so that routing a command copies nothing.
"""

from typing import Final

from mypy_extensions import i64

SLOTS: Final = 16384


def _crc_table() -> tuple[bytes, bytes]:
    high, low = bytearray(), bytearray()
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
        high.append(crc >> 8)
        low.append(crc & 0xFF)
    return bytes(high), bytes(low)


# Two byte strings instead of a list of 256 integers: compiled, an indexed byte is a load without a boxed int.
_HIGH: Final[bytes] = _crc_table()[0]
_LOW: Final[bytes] = _crc_table()[1]


def slot_at(buffer: bytes, start: i64, end: i64) -> i64:
    """The slot of the key ``buffer[start:end]``; 0 to 16383."""
    pos: i64 = start
    while pos < end:
        if buffer[pos] == 0x7B:  # '{'
            close: i64 = pos + 1
            while close < end:
                if buffer[close] == 0x7D:  # '}'
                    break
                close += 1
            if close < end and close > pos + 1:
                start = pos + 1
                end = close
            break  # only the first '{' counts, also when its tag is empty or not closed
        pos += 1
    high: bytes = _HIGH
    low: bytes = _LOW
    crc: i64 = 0
    pos = start
    while pos < end:
        index: i64 = ((crc >> 8) ^ buffer[pos]) & 0xFF
        crc = ((crc & 0xFF) << 8) ^ (i64(high[index]) << 8) ^ low[index]
        pos += 1
    return crc & (SLOTS - 1)


def key_slot(key: bytes) -> i64:
    """The slot of ``key``; 0 to 16383."""
    return slot_at(key, 0, len(key))

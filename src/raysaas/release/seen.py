"""Which entities were counted already, in a size that does not grow."""

import base64
import zlib
from hashlib import blake2b

import numpy as np

_PLACES = 1 << 20


def place(*parts: str) -> int:
    """Where something is in the bitmap, the same in every process."""
    return int.from_bytes(blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class Seen:
    """A bitmap with one hash. Two that share a place count as one: that costs data, of all arms alike.

    >>> seen = Seen()
    >>> seen.first("acme", "ann"), seen.first("acme", "ann"), Seen(seen.to_text()).first("acme", "ann")
    (True, False, False)
    """

    def __init__(self, text: str = "") -> None:
        self._bits = np.zeros(_PLACES // 8, np.uint8)
        if text:
            self._bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).copy()

    def first(self, *parts: str) -> bool:
        """Whether ``parts`` were not seen before; they are from now on."""
        byte, bit = divmod(place(*parts) % _PLACES, 8)
        known = bool(self._bits[byte] >> bit & 1)
        self._bits[byte] |= np.uint8(1 << bit)
        return not known

    def to_text(self) -> str:
        """The bitmap as text, ``Seen(text)`` brings it back; empty while nothing was seen."""
        return base64.b64encode(zlib.compress(self._bits.tobytes(), 1)).decode() if self._bits.any() else ""

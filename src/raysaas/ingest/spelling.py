"""Which texts of a column are written plainly, told from their bytes alone, which costs less than any cast. Pure."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_LONGEST_NULL = 4  # characters of the longest spelling of null
_NULL_BEGINS = np.zeros(256, bool)
_NULL_BEGINS[[ord(letter) for letter in "nN#<-"]] = True
_NOT_NUMBER = np.ones(256, bool)
_NOT_NUMBER[[ord(letter) for letter in "0123456789.-"]] = False


def _bytes(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all values, with one more at the end, and where each value starts and the last one ends."""
    _, offsets, data = text.buffers()
    borders = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    letters = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    return letters, borders


def may_need_cleaning(text: pa.Array) -> np.ndarray:
    """Values that are empty, may have blanks around them or may spell null; no other does."""
    if not len(text):
        return np.zeros(0, bool)
    letters, borders = _bytes(text)
    starts, ends = borders[:-1], borders[1:]
    first, last = letters[np.minimum(starts, len(letters) - 1)], letters[np.maximum(ends - 1, 0)]
    # Blanks beyond ASCII begin and end with bytes from 128 up.
    edges = (first <= 32) | (first >= 128) | (last <= 32) | (last >= 128)
    lengths = ends - starts
    unclean: np.ndarray = edges | (lengths == 0) | ((lengths <= _LONGEST_NULL) & _NULL_BEGINS[first])
    return unclean


def plainly_numbers(text: pa.Array) -> np.ndarray:
    """Values of digits, points and minus signs that end with a digit, and nulls."""
    if not len(text):
        return np.zeros(0, bool)
    letters, borders = _bytes(text)
    plain = np.ones(len(text), bool)
    wrong = np.flatnonzero(_NOT_NUMBER[letters[borders[0] : borders[-1]]]) + borders[0]
    plain[np.searchsorted(borders[1:], wrong, side="right")] = False
    last = letters[np.maximum(borders[1:] - 1, 0)]
    plain &= (last >= 48) & (last <= 57) & (borders[1:] > borders[:-1])
    plain |= np.asarray(pc.is_null(text))
    return plain


def replaced(values: pa.Array, where: np.ndarray, new: pa.Array) -> pa.Array:
    """``values`` with those at ``where`` replaced by ``new``, in order."""
    return pc.replace_with_mask(values, pa.array(where), new)

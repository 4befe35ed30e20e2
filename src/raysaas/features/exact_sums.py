"""Sums of floats over many overlapping spans, as if each were added up without rounding and rounded once at the end.

So a sum is the same to the last bit whatever else is in the table and in whatever order its numbers lie; differences of
running sums, which lose digits in floats, lose none here. A float is a whole number of 2**-1127; those are kept as
limbs of 32 bits in 64-bit integers, which two thousand million rows can be added to before they overflow.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_BITS, _MASK = 32, np.int64(2**32 - 1)
_DIGITS, _LEAST = 53, -1127  # bits of a float's significand; every float is a whole number of 2**_LEAST
_AT_ONCE = 1 << 20  # so many numbers of 32 bits add up in a float without rounding


def span_counts(first: Integers, end: Integers, size: int) -> Integers:
    """How many spans ``[first, end)`` lie over each of ``size`` places."""
    steps = np.bincount(first, minlength=size + 1) - np.bincount(end, minlength=size + 1)
    return np.cumsum(steps[:size])


def span_sums(first: Integers, end: Integers, values: Floats, size: int) -> Floats:
    """Sum of the ``values`` of all spans ``[first, end)`` over each of ``size`` places, rounded once; 0 where none is.

    Infinities add up as floats do; ``values`` hold no NaN.
    """
    finite = np.isfinite(values)
    sums = np.zeros(size)
    if finite.any():
        limbs, exponent = _limbs(first[finite], end[finite], values[finite], size)
        for start in range(0, size, _AT_ONCE >> 3):
            some = slice(start, start + (_AT_ONCE >> 3))
            sums[some] = _rounded(limbs[:, some], exponent)
    for infinity in (np.inf, -np.inf):
        there = values == infinity
        if there.any():
            with np.errstate(invalid="ignore"):  # of both infinities: NaN
                sums = np.where(span_counts(first[there], end[there], size) > 0, sums + infinity, sums)
    return sums


def _limbs(first: Integers, end: Integers, values: Floats, size: int) -> tuple[Integers, int]:
    """Sums over each place as a column of limbs, least first, and the power of two that the first one counts."""
    exponents = np.frexp(values)[1]
    lowest = (int(exponents.min()) - _DIGITS - _LEAST) // _BITS
    height = (int(exponents.max()) - _DIGITS - _LEAST) // _BITS - lowest + 4  # three of one float, one to carry into
    steps = np.zeros(height * (size + 1), dtype=np.int64)
    for start in range(0, len(values), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        for limb, part in _parts(values[some]):
            row = (limb - lowest) * (size + 1)
            steps += np.bincount(row + first[some], part, len(steps)).astype(np.int64)
            steps -= np.bincount(row + end[some], part, len(steps)).astype(np.int64)
    running = steps.reshape(height, size + 1)
    return np.cumsum(running, axis=1, out=running)[:, :size], lowest * _BITS + _LEAST


def _parts(values: Floats) -> Iterator[tuple[Integers, Floats]]:
    """Each value as three whole numbers of less than 32 bits, with its sign, and the limbs that they belong to."""
    significand, exponent = np.frexp(values)
    whole = np.ldexp(np.abs(significand), _DIGITS).astype(np.int64)
    bit = exponent.astype(np.int64) - _DIGITS - _LEAST
    limb, shift = bit >> 5, bit & 31
    upper = whole >> (_BITS - shift)
    for above, part in enumerate(((whole << shift) & _MASK, upper & _MASK, upper >> _BITS)):
        yield limb + above, np.copysign(part, values)


def _rounded(limbs: Integers, exponent: int) -> Floats:
    """The nearest float to each column of ``limbs``, ties to even."""
    negative = _carried(limbs)[-1] < 0
    padding = np.zeros((2, limbs.shape[1]), dtype=np.int64)
    limbs = np.concatenate([padding, _carried(np.where(negative, -limbs, limbs))])
    there = limbs != 0
    top = np.maximum(len(limbs) - 1 - np.argmax(there[::-1], axis=0), 2)
    high, middle, low = (_row(limbs, top - down).astype(np.uint64) for down in range(3))
    # The 64 bits from the highest that is set: more than a float has, so that the last may stand for all that follow.
    used = np.frexp(high.astype(np.float64))[1].astype(np.uint64)
    spare = np.uint64(_BITS) - used
    bits = (((high << np.uint64(_BITS)) | middle) << spare) | (low >> used)
    rest = (low & ((np.uint64(1) << used) - np.uint64(1))) != 0
    rest |= _row(np.logical_or.accumulate(there, axis=0), np.maximum(top - 3, 0))
    with np.errstate(over="ignore"):
        sums = np.ldexp((bits | rest).astype(np.float64), exponent + _BITS * (top - 3) - spare.astype(np.int64))
    signed: Floats = np.where(negative, -sums, sums)
    return signed


def _row(table: NDArray[np.generic], row: Integers) -> NDArray[np.generic]:
    """Of each column the entry in its ``row``."""
    found: NDArray[np.generic] = np.take_along_axis(table, row[None], axis=0)[0]
    return found


def _carried(limbs: Integers) -> Integers:
    """The same numbers with all limbs but the last from 0 to 2**32 - 1."""
    limbs = limbs.copy()
    for row in range(len(limbs) - 1):
        limbs[row + 1] += limbs[row] >> _BITS
        limbs[row] &= _MASK
    return limbs

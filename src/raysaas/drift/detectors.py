"""Distances between a reference and a current distribution; pure functions over numpy arrays.

``psi``, ``ks`` and ``jensen_shannon`` take two 1-D arrays of samples: numbers, or strings for categories; missing
values are NaN or None. The ``*_from_counts`` variants take two count vectors over the same bins, which merge by
addition; the monitor uses those. Bin edges come from the reference only, so values are comparable between windows.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raysaas.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SMOOTHING = 0.5


class Ks(NamedTuple):
    """Two-sample Kolmogorov-Smirnov result: the greatest gap between the distribution functions, and its p-value."""

    statistic: float
    pvalue: float


class Shift(NamedTuple):
    """A PSI freed of sampling noise: the raw value, that minus its expectation under no change, and the p-value."""

    psi: float
    excess: float
    pvalue: float


def psi(reference: ArrayLike, current: ArrayLike, bins: int = 10) -> float:
    """Population stability index of two samples, binned at quantiles of the reference.

    Parameters
    ----------
    reference, current : 1-D arrays of samples; numbers or strings. Missing values form a bin of their own.
    bins : number of quantile bins for numbers; references with at most ``bins`` values get a bin per value.

    Returns
    -------
    float : 0 for equal shares; by custom, above 0.1 is a moderate and above 0.25 a major shift.

    Raises
    ------
    InputError : an array is empty or not one-dimensional.

    References
    ----------
    Lewis, E. M. (1994). An Introduction to Credit Scoring; the same quantity is Jeffreys' divergence (1946).

    Examples
    --------
    >>> x = np.arange(1000.0)
    >>> psi(x, x)
    0.0
    >>> psi(x, x + 500) > 0.25
    True
    >>> psi(["a", "a", "b"] * 50, ["a", "b", "b"] * 50) > 0.2
    True
    """
    return psi_from_counts(*_binned(reference, current, bins))


def psi_from_counts(reference: ArrayLike, current: ArrayLike, smoothing: float = SMOOTHING) -> float:
    """Population stability index of two count vectors over the same bins.

    ``smoothing`` rows of the smaller vector are added to every bin's share on both sides (Laplace; 0.5 is Jeffreys'
    prior), so empty bins stay finite and only shares matter: multiplying the larger vector changes nothing.

    >>> psi_from_counts([100, 200, 700], [10, 20, 70])
    0.0
    >>> round(psi_from_counts([500, 500], [250, 750]), 2)
    0.27
    """
    p, q = _shares(reference, current, smoothing)
    return float(np.sum((q - p) * np.log(q / p)))


def psi_shift(reference: ArrayLike, current: ArrayLike) -> Shift:
    """PSI of two count vectors with its sampling noise taken off, and the chance of seeing it without any change.

    Bins that expect fewer than 5 rows of the smaller vector are pooled first. Without a change, PSI times nm/(n+m)
    follows chi-squared with bins - 1 degrees of freedom, so its expectation is (bins - 1)(1/n + 1/m).

    References
    ----------
    Yurdakul, B. and Naranjo, J. (2020). Statistical properties of the population stability index. Journal of Risk
    Model Validation 14.

    Examples
    --------
    >>> shift = psi_shift([5000, 5000], [210, 190])
    >>> shift.excess < 0.01 and shift.pvalue > 0.05
    True
    """
    from scipy.special import chdtrc

    old, new = pool(reference, current)
    n, m, free = float(old.sum()), float(new.sum()), len(old) - 1
    raw = psi_from_counts(old, new)
    noise = free * (1 / n + 1 / m)
    pvalue = float(chdtrc(free, raw * n * m / (n + m))) if free > 0 else 1.0
    return Shift(raw, raw - noise, pvalue)


def pool(reference: ArrayLike, current: ArrayLike, min_expected: float = 5.0) -> tuple[Floats, Floats]:
    """Merge the bins in which the smaller vector expects under ``min_expected`` rows into one last bin.

    >>> pool([900, 96, 4, 0], [80, 10, 5, 5])
    (array([900.,  96.,   4.]), array([80., 10., 10.]))
    """
    old, new = _counts(reference, current)
    expected = old / old.sum() * min(old.sum(), new.sum())
    rare = expected < min_expected
    if not (old[rare].any() or new[rare].any()):
        return old[~rare], new[~rare]
    return np.append(old[~rare], old[rare].sum()), np.append(new[~rare], new[rare].sum())


def ks(reference: ArrayLike, current: ArrayLike) -> Ks:
    """Two-sample Kolmogorov-Smirnov test of numeric samples, two-sided; missing values are left out.

    The same numbers as ``scipy.stats.ks_2samp``.

    References
    ----------
    Hodges, J. L. (1958). The significance probability of the Smirnov two-sample test. Arkiv för Matematik 3.

    Examples
    --------
    >>> ks([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).statistic
    0.0
    >>> ks(np.arange(100), np.arange(100) + 50).statistic
    0.5
    """
    from scipy.stats import ks_2samp

    old, new = (_present(_samples(values).astype(np.float64)) for values in (reference, current))
    result = ks_2samp(old, new)
    return Ks(float(result.statistic), float(result.pvalue))


def ks_from_counts(reference: ArrayLike, current: ArrayLike) -> Ks:
    """Kolmogorov-Smirnov over counts of ordered bins; never above the statistic of the samples, its p-value asymptotic.

    >>> ks_from_counts([50, 50], [25, 75]).statistic
    0.25
    """
    from scipy.special import kolmogorov

    old, new = _counts(reference, current)
    n, m = old.sum(), new.sum()
    gap = float(np.abs(np.cumsum(old) / n - np.cumsum(new) / m).max())
    return Ks(gap, float(kolmogorov(gap * np.sqrt(n * m / (n + m)))))


def jensen_shannon(reference: ArrayLike, current: ArrayLike, bins: int = 10) -> float:
    """Jensen-Shannon distance (square root of the divergence, base 2) of two samples, binned as in :func:`psi`.

    Returns a value from 0 (equal shares) to 1 (no common bin). Raises ``InputError`` as :func:`psi` does.

    References
    ----------
    Endres, D. M. and Schindelin, J. E. (2003). A new metric for probability distributions. IEEE Trans. Inf. Theory 49.

    Examples
    --------
    >>> jensen_shannon(["a"] * 9, ["b"] * 9)
    1.0
    >>> jensen_shannon(np.arange(50), np.arange(50))
    0.0
    """
    return jensen_shannon_from_counts(*_binned(reference, current, bins))


def jensen_shannon_from_counts(reference: ArrayLike, current: ArrayLike) -> float:
    """Jensen-Shannon distance, base 2, of two count (or share) vectors over the same bins, without smoothing.

    >>> jensen_shannon_from_counts([1, 0], [0, 1])
    1.0
    """
    p, q = _shares(reference, current, 0.0)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return float(np.sqrt(min(max(divergence, 0.0), 1.0)))


def quantile_edges(reference: ArrayLike, bins: int = 10) -> Floats:
    """Inner bin edges, ascending, from the finite reference values: a bin is ``edge[i-1] <= x < edge[i]``.

    >>> quantile_edges([0, 0, 0, 1, 1])
    array([0.5])
    """
    present = _present(np.asarray(reference, dtype=np.float64))
    values = np.unique(present)
    if len(values) == 1:
        return np.array([values[0], np.nextafter(values[0], np.inf)])
    if len(values) <= bins:
        return np.asarray(values[:-1] / 2 + values[1:] / 2, dtype=np.float64)
    return np.unique(np.quantile(present, np.arange(1, bins) / bins))


def _binned(reference: ArrayLike, current: ArrayLike, bins: int) -> tuple[Ints, Ints]:
    if bins < 2:
        raise InputError(f"bins={bins} is not allowed: expected at least 2.")
    old, new = _samples(reference), _samples(current)
    if old.dtype.kind == "O" or new.dtype.kind == "O":
        values = sorted({_name(value) for value in (*old, *new)})
        return _tally(old, values), _tally(new, values)
    old, new = old.astype(np.float64), new.astype(np.float64)
    edges = quantile_edges(old, bins) if np.isfinite(old).any() else np.empty(0)
    return _histogram(old, edges), _histogram(new, edges)


def _samples(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise InputError(f"A sample of shape {array.shape} is not allowed: expected a non-empty one-dimensional array.")
    if array.dtype.kind == "O" and all(value is None or isinstance(value, Real) for value in array):
        return array.astype(np.float64)
    return array if array.dtype.kind in "biuf" else array.astype(object)


def _name(value: object) -> str:
    return "\0missing" if value is None or value != value else str(value)


def _tally(values: NDArray[Any], names: Sequence[str]) -> Ints:
    index = {name: position for position, name in enumerate(names)}
    return np.bincount([index[_name(value)] for value in values], minlength=len(names))


def _histogram(values: Floats, edges: Floats) -> Ints:
    missing = np.isnan(values)
    place = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
    return np.bincount(place, minlength=len(edges) + 2)


def _present(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _counts(reference: ArrayLike, current: ArrayLike) -> tuple[Floats, Floats]:
    old, new = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if old.shape != new.shape or old.ndim != 1:
        raise InputError(f"Counts of shapes {old.shape} and {new.shape} cannot be compared: expected the same bins.")
    if old.sum() <= 0 or new.sum() <= 0 or min(old.min(), new.min()) < 0:
        raise InputError("Counts cannot be compared: expected non-negative numbers with a positive sum on both sides.")
    return old, new


def _shares(reference: ArrayLike, current: ArrayLike, smoothing: float) -> tuple[Floats, Floats]:
    old, new = _counts(reference, current)
    used = (old + new) > 0
    extra = smoothing / min(old.sum(), new.sum())
    old, new = old[used] / old.sum() + extra, new[used] / new.sum() + extra
    return old / old.sum(), new / new.sum()


def _relative_entropy(p: Floats, q: Floats) -> float:
    held = p > 0
    return float(np.sum(p[held] * np.log2(p[held] / q[held])))

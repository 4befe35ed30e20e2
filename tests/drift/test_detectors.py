"""Distances against scipy and brute force, and the noise correction against simulation."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from raysaas.drift import detectors
from raysaas.drift.detectors import (
    jensen_shannon,
    jensen_shannon_from_counts,
    ks,
    ks_from_counts,
    pool,
    psi,
    psi_from_counts,
    psi_shift,
    quantile_edges,
)
from raysaas.errors import InputError

COUNTS = arrays(np.int64, st.shared(st.integers(2, 12), key="bins"), elements=st.integers(0, 500)).filter(
    lambda counts: counts.sum() > 0
)
FLOATS = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, float("nan")])
SAMPLES = st.lists(FLOATS, min_size=1, max_size=60).filter(lambda values: not np.isnan(values).all())
DISTANCES = [psi_from_counts, jensen_shannon_from_counts, lambda p, q: ks_from_counts(p, q).statistic]


@pytest.mark.parametrize("distance", DISTANCES)
@given(p=COUNTS, q=COUNTS)
def test_symmetric_not_negative_zero_on_equal_shares(distance, p, q):
    assert distance(p, q) == pytest.approx(distance(q, p), abs=1e-12)
    assert distance(p, q) >= -1e-12
    assert distance(p, p * 3) == pytest.approx(0.0, abs=1e-6)


@given(p=COUNTS, q=COUNTS)
def test_order_and_empty_bins_do_not_matter(p, q):
    order = np.random.default_rng(0).permutation(len(p))
    wide = np.append(p, [0, 0]), np.append(q, [0, 0])
    for distance in (psi_from_counts, jensen_shannon_from_counts):
        assert distance(p[order], q[order]) == pytest.approx(distance(p, q), abs=1e-9)
        assert distance(*wide) == pytest.approx(distance(p, q), abs=1e-9)


@given(p=COUNTS, q=COUNTS)
def test_psi_is_finite_and_scale_free_in_the_larger_vector(p, q):
    small, large = sorted((p, q), key=np.sum)
    assert np.isfinite(psi_from_counts(p, q))
    assert psi_from_counts(large * 7, small) == pytest.approx(psi_from_counts(large, small), rel=1e-9)


@given(p=COUNTS, q=COUNTS)
def test_pool_keeps_every_row(p, q):
    old, new = pool(p, q)
    assert (old.sum(), new.sum()) == (p.sum(), q.sum())
    share = min(p.sum(), q.sum()) / p.sum()
    assert (old[:-1] * share >= 5 - 1e-9).all()


@given(p=COUNTS, q=COUNTS)
def test_jensen_shannon_is_scipys(p, q):
    assert jensen_shannon_from_counts(p, q) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-6)


@given(reference=SAMPLES, current=SAMPLES)
@pytest.mark.filterwarnings("ignore:ks_2samp")
def test_ks_is_scipys(reference, current):
    old, new = (np.array(values)[~np.isnan(values)] for values in (reference, current))
    expected = scipy.stats.ks_2samp(old, new)
    assert ks(reference, current) == pytest.approx((expected.statistic, expected.pvalue))


@given(reference=SAMPLES, current=SAMPLES)
@pytest.mark.filterwarnings("ignore:ks_2samp")
def test_binned_ks_never_exceeds_the_samples(reference, current):
    old, new = (np.array(values)[~np.isnan(values)] for values in (reference, current))
    counts = (np.bincount(np.searchsorted(np.unique(old), x, side="right"), minlength=len(old) + 1) for x in (old, new))
    assert ks_from_counts(*counts).statistic <= ks(old, new).statistic + 1e-9


@given(reference=SAMPLES, current=SAMPLES, bins=st.integers(2, 20))
def test_samples_are_binned_at_reference_quantiles(reference, current, bins):
    edges = quantile_edges(reference, bins)

    def brute(values):
        counts = [0] * (len(edges) + 2)
        for value in values:
            counts[len(edges) + 1 if np.isnan(value) else sum(edge <= value for edge in edges)] += 1
        return counts

    expected = psi_from_counts(brute(reference), brute(current))
    assert psi(reference, current, bins) == pytest.approx(expected)
    assert jensen_shannon(reference, current, bins) == pytest.approx(
        jensen_shannon_from_counts(brute(reference), brute(current))
    )


@given(values=st.lists(st.sampled_from(["a", "b", None, "c"]), min_size=1, max_size=50))
def test_identical_categories_are_zero(values):
    assert psi(values, values) == 0
    assert jensen_shannon(values, list(reversed(values))) == pytest.approx(0, abs=1e-7)


def test_monotone_maps_change_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=900), rng.normal(0.5, 1, size=700)
    assert psi(np.exp(x), np.exp(y)) == pytest.approx(psi(x, y), abs=0.02)
    assert ks(np.exp(x), np.exp(y)) == ks(x, y)


def test_a_constant_that_moves_and_missing_values_show():
    assert psi([5.0] * 100, [5.0] * 100) == 0
    assert psi([5.0] * 100, [6.0] * 100) > 1
    assert psi([5.0] * 100, [4.0] * 100) > 1
    assert psi([1.0, 2.0] * 50, [1.0, None] * 50) > 0.5


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]]])
def test_bad_samples_are_refused(bad):
    for distance in (psi, ks, jensen_shannon):
        with pytest.raises(InputError, match="non-empty"):
            distance([1.0, 2.0], bad)


@pytest.mark.parametrize(("p", "q"), [([1, 2], [1, 2, 3]), ([0, 0], [1, 1]), ([1, -1], [1, 1])])
def test_bad_counts_are_refused(p, q):
    with pytest.raises(InputError, match="Counts"):
        psi_from_counts(p, q)


@pytest.mark.parametrize(("bins", "window"), [(10, 400), (10, 100), (31, 400), (3, 50)])
def test_without_change_the_excess_is_centred_and_p_values_honest(bins, window):
    rng = np.random.default_rng(bins)
    shares = rng.dirichlet(np.ones(bins) * 3)
    reference = rng.multinomial(20_000, shares)
    shifts = [psi_shift(reference, rng.multinomial(window, shares)) for _ in range(2000)]
    noise = (bins - 1) * (1 / window + 1 / 20_000)
    assert abs(np.mean([shift.excess for shift in shifts])) < 0.25 * noise
    assert np.mean([shift.pvalue < 0.01 for shift in shifts]) < 0.02
    assert np.mean([shift.pvalue < 0.5 for shift in shifts]) == pytest.approx(0.5, abs=0.17)


def test_small_windows_do_not_cry_wolf_where_plain_psi_does():
    rng = np.random.default_rng(0)
    reference = rng.multinomial(5000, [0.1] * 10)
    windows = [rng.multinomial(50, [0.1] * 10) for _ in range(1000)]
    shifts = [psi_shift(reference, window) for window in windows]
    assert np.mean([psi_from_counts(reference, window) > 0.15 for window in windows]) > 0.3
    assert np.mean([shift.excess > 0.15 for shift in shifts]) < 0.06
    assert np.mean([shift.excess > 0.15 and shift.pvalue < 0.001 for shift in shifts]) < 0.01


def test_docstring_examples_hold():
    import doctest

    from raysaas.drift import performance, sketches

    for module in (detectors, performance, sketches):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0

"""Outcomes that come early, late, again, corrected or for others' decisions count as the log says."""

import random
from datetime import timedelta

import numpy as np
import pytest

from raysaas.drift.performance import measure
from raysaas.drift.policy import Wait
from raysaas.records import Severity, Task
from raysaas.stores.journal import pending
from raysaas.stores.logs import as_table
from raysaas.stores.matured import joined
from raysaas.stores.outcomes import id_of

from .conftest import USE_CASE, Shop, risk, rows
from .mortal import Killed, Mortal


def log_of(shop: Shop) -> dict[str, str | None]:
    """What counts of each decision, as the log says it."""
    parts = [as_table(pending(shop.root / "journal", USE_CASE, kind), kind) for kind in ("decisions", "outcomes")]
    rows = joined(*parts)
    return dict(zip(rows["id"].to_pylist(), rows["outcome"].to_pylist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_early_late_repeated_and_corrected_outcomes_count_as_the_log_says(shop: Shop, seed: int) -> None:
    """By id or by key, in any order of time, with restarts in between; windows are reported meanwhile."""
    rng = random.Random(seed)
    shop.release(shop.arms[0])
    decisions, outcomes = shop.journal("decisions"), shop.journal("outcomes")
    ids: list[str] = []
    for _ in range(450):
        if rng.random() < 0.4:
            ids.append(f"d{len(ids)}")
            key = rng.choice([None, f"k{rng.randrange(60)}"])
            decisions.append([{"id": ids[-1], "use_case": USE_CASE, "tenant": rng.choice("tu"), "inputs": {"age": 40.0},
                               "version": 1, "arm": "champion", "score": rng.random(), "label": "no", "key": key,
                               "time": shop.tick().isoformat()}])  # fmt: skip
        elif ids:
            name = rng.choice([{"decision_id": rng.choice(ids)}, {"decision_id": None, "key": f"k{rng.randrange(60)}"}])
            tenant = rng.choice("tu")  # who may know the id of another's decision
            known = shop.tick()
            observed = known + timedelta(seconds=rng.choice([0, 60, -rng.randrange(3)]))
            outcomes.append([{**name, "use_case": USE_CASE, "tenant": tenant, "known_at": known.isoformat(),
                              "label": rng.choice(["yes", "yes", "no", "no", "maybe"]),
                              "observed_at": observed.isoformat()}])  # fmt: skip
        if rng.random() < 0.1:
            polled(shop, rng)
    watch = shop.watch(min_outcomes=40)
    watch.poll()
    track = watch.state.tracks[1]
    held = {id_of(key): row.outcome for window in (track.matured, *track.reported) for key, row in window.rows.items()}
    assert held == {key: outcome for key, outcome in log_of(shop).items() if outcome in ("yes", "no")}
    assert len(held) > 40
    recorded = {report.window: report.performance["log_loss"] for report in shop.ledger.drift(USE_CASE, 99)}
    assert recorded == {window.number: measure(Task.binary, ("no", "yes"), list(window.rows.values()))["log_loss"]
                        for window in track.reported}  # fmt: skip
    assert any(window.num_corrected for window in track.reported)


def polled(shop: Shop, rng: random.Random) -> None:
    """Poll, perhaps after another one was killed in its poll."""
    real = shop.ledger
    shop.ledger = Mortal(real, rng.randrange(1, 6), rng.random() < 0.5)  # type: ignore[assignment]
    try:
        shop.tick(6)
        shop.watch(min_outcomes=40).poll()
    except Killed:
        pass
    finally:
        shop.ledger = real
    shop.watch(min_outcomes=40).poll()


def test_corrected_outcomes_change_the_report_of_their_window(shop: Shop) -> None:
    shop.release(shop.arms[0])
    watch = shop.watch(min_outcomes=200, consecutive=1)
    columns = rows(200, seed=11)
    right = ["yes" if yes else "no" for yes in np.random.default_rng(0).random(200) < risk(columns)]
    ids = shop.decide(columns, at=shop.tick())
    shop.observe(ids, ["no" if label == "yes" else "yes" for label in right])
    (wrong,) = watch.poll()
    assert (wrong.severity, wrong.decisions) == (Severity.drift, (ids[0], ids[-1]))
    watch.save()
    watch = shop.watch(min_outcomes=200, consecutive=1)
    shop.observe(ids, right)
    (mended,) = watch.poll()
    assert (mended.window, mended.severity, mended.decisions) == (wrong.window, Severity.silent, wrong.decisions)
    assert mended.performance["num_corrected"] == 200
    assert shop.ledger.drift(USE_CASE) == [mended]
    assert isinstance(watch.last_action, Wait)
    shop.observe(ids, right)
    assert watch.poll() == []

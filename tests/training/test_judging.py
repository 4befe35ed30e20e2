"""Judging candidates against one training set: what leaks is refused, unless the use case allows it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from tests.training.tables import settings, training_set

from raysaas.records import Family
from raysaas.training.evaluate import Candidate
from raysaas.training.judging import Judge


def test_a_leaking_column_is_refused_unless_the_use_case_allows_it(tmp_path: Path) -> None:
    table = training_set(800)
    refund = np.array(table["label"].to_pylist()) == "Yes"
    table = table.append_column("refund_total", pa.array(refund * 9.5))
    metrics = {"auc": 0.99, "chance": 0.5, "chance_se": 0.02}
    made = Candidate(
        family=Family.trees, path=tmp_path, digest="0" * 64, metrics=metrics, baseline={"auc": 0.9}, num_rows=800,
        seconds=1.0,
    )  # fmt: skip
    chosen = settings(str(tmp_path))
    judge = Judge(chosen, table)
    verdict = judge.verdict(made, None)
    assert (verdict.released, "refund_total" in verdict.reason) == (False, True)
    (warning,) = judge.warnings
    assert warning.startswith("refund_total alone predicts the label")

    chosen.use_case.allow_leaks = ["refund_total"]
    allowed = Judge(chosen, table)
    assert allowed.verdict(made, None).released
    assert allowed.warnings == [warning], "what is allowed is still said"

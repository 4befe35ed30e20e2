"""A row gets the same bits whatever rows it was answered with, so its decision can be computed again alone."""

import numpy as np
import pytest

from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.models.network import build
from raysaas.models.profile import Profile
from raysaas.records import Family, Task

NUM = 256
LABELS = {Task.binary: ["no", "yes"], Task.multiclass: ["a", "b", "c"], Task.regression: []}


def columns(num_fields):
    rng = np.random.default_rng(num_fields)
    data = {f"f{i}": np.where(rng.random(NUM) < 0.1, np.nan, rng.normal(0, 10.0**i, NUM)) for i in range(num_fields)}
    return data | {"plan": rng.choice(np.array(["free", "pro", None], object), NUM)}


def fitted(folder, task, num_fields, hidden):
    data = columns(num_fields)
    kinds = dict.fromkeys(data, "number") | {"plan": "category"}
    encoder = Encoder.fit(data, kinds)
    model = {"family": Family.network}
    if hidden:
        outputs = len(LABELS[task]) if task is Task.multiclass else 1
        model["network"] = build(encoder.width, outputs, hidden, 0.0, seed=3)
    else:
        import lightgbm

        target = np.random.default_rng(1).integers(0, 3 if task is Task.multiclass else 2, NUM)
        objective = {"objective": str(task), "num_class": 3 if task is Task.multiclass else 1, "verbose": -1}
        trained = lightgbm.train(objective, lightgbm.Dataset(encoder.matrix(data), target), 50)
        model = {"family": Family.trees, "trees": trained.model_to_string()}
    profile = Profile.fit(data, kinds, np.random.default_rng(0).random(NUM))
    bundle.save(folder, encoder=encoder, task=task, labels=LABELS[task], profile=profile, **model)
    return bundle.load(folder), data


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize(("num_fields", "hidden"), [(3, [8]), (12, [64, 64]), (5, [130, 33]), (6, [])])
def test_256_rows_at_once_are_the_same_bits_as_one_by_one(tmp_path, task, num_fields, hidden):
    model, data = fitted(tmp_path / "bundle", task, num_fields, hidden)

    def answers(start, stop):
        found = model.predict({name: column[start:stop] for name, column in data.items()})
        return found.score if found.scores is None else found.scores

    alone = np.concatenate([answers(i, i + 1) for i in range(NUM)])
    assert np.isfinite(alone).all()
    for size in (2, 3, 4, 7, 16, 17, 64, NUM):
        together = np.concatenate([answers(i, i + size) for i in range(0, NUM, size)])
        assert together.tobytes() == alone.tobytes(), f"in batches of {size}"

"""The application's arguments survive the JSON they travel in."""

import json

from raysaas.records import Task
from raysaas.serving.spec import AppSpec
from raysaas.settings import ExtraFields, Serve, Storage


def test_round_trip_through_json(tmp_path):
    spec = AppSpec(
        use_case="shop", task=Task.regression, title="Shop", views=("shop__a",), storage=Storage(home=str(tmp_path)),
        serve=Serve(extra_fields=ExtraFields.ignore, port=9),
    )  # fmt: skip
    back = AppSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec
    assert isinstance(back.serve.extra_fields, ExtraFields)
    assert AppSpec.from_dict(spec.to_dict() | {"of_tomorrow": 1}) == spec

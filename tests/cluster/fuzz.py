"""Calls that schemathesis makes up of an OpenAPI document, each answer held against it."""

from collections import Counter

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks


def call_often(operation: object, mode: GenerationMode, headers: dict, num: int, made: Counter) -> None:
    """``num`` calls of one operation; ``made`` counts them by label and status."""
    wanted = [
        not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
        checks.response_schema_conformance,
    ]  # fmt: skip

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=num, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def call(case: schemathesis.Case) -> None:
        name = "X-Request-Timeout-Ms"
        if str(case.headers.get(name, "")).isdecimal():
            case.headers[name] = "20000"  # a deadline of 1 ms is answered with 504, as it should be
        response = case.call(headers=headers)
        made[operation.label, response.status_code] += 1
        case.validate_response(response, checks=wanted)

    call()

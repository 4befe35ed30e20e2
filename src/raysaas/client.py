"""A small HTTP client of the serving endpoints, for the command line and the demo. Any HTTP client does as well."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import httpx

from raysaas.errors import AccessDenied, InputError, NotFound, RaysaasError, Unavailable

_BY_STATUS = {401: AccessDenied, 403: AccessDenied, 404: NotFound, 429: Unavailable, 502: Unavailable, 503: Unavailable}


class Client:
    """Keep-alive connection to one installation with one key; use it as a context manager or close it."""

    def __init__(self, url: str, key: str, timeout_s: float = 30.0) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def predict(
        self, use_case: str, *, instances: Sequence[Mapping[str, Any]] = (), entities: Sequence[str] = (),
        keys: Sequence[str | None] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """``{"decisions": [...]}`` in request order; ``keys`` are your own names of the decisions.

        Raises the platform error that matches the HTTP status.
        """
        given = {"instances": instances, "entities": entities, "keys": keys}
        return self._call("POST", f"/{use_case}/predict", {name: list(value) for name, value in given.items() if value})

    def feedback(self, use_case: str, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Send what really happened: ``decision_id`` or ``key``, ``label``, optionally ``observed_at``."""
        return self._call("POST", f"/{use_case}/feedback", {"outcomes": list(outcomes)})

    def events(self, use_case: str, source: str, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Send rows of ``source`` as they happen; when this returns none of them can be lost any more."""
        return self._call("POST", f"/{use_case}/events/{source}", {"events": list(events)})

    def health(self, use_case: str) -> dict[str, Any]:
        """The application's state, which needs no key."""
        return self._call("GET", f"/{use_case}/health")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            url = f"{str(self._http.base_url).rstrip('/')}{path}"
            raise Unavailable(f"{url} does not answer: {error}.") from error
        if response.is_error:
            raise _failure(response)
        return dict(response.json())


def _failure(response: httpx.Response) -> RaysaasError:
    kind = _BY_STATUS.get(response.status_code, InputError if response.status_code < 500 else Unavailable)
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError):
        detail = response.text[:200] or response.reason_phrase
        if response.status_code == HTTPStatus.NOT_FOUND:  # Serve's own answer: no application has this path
            detail = "no such use case is deployed; `raysaas status` shows those that are."
    return kind(f"{response.request.url.path} answered {response.status_code}: {detail}")

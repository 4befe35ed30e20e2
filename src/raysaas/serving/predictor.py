"""One replica's whole request path, in process: rows, features, arm, model, journal, answer.

Everything here is synchronous and short (a tenth of a millisecond for one row), because it runs on the replica's event
loop; what can be slow (loading a bundle) runs in a thread and swaps in a finished object.
"""

import asyncio
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import orjson

from raysaas.errors import CorruptBundle, InputError, Unavailable
from raysaas.models.bundle import Bundle, Prediction
from raysaas.models.instances import by_row
from raysaas.models.scorers import ON_CPU
from raysaas.records import Task
from raysaas.serving.arm_stats import ArmStats
from raysaas.serving.batch import Batcher, Decisions, Done, Job
from raysaas.serving.body import Uploads
from raysaas.serving.contract import Contract
from raysaas.serving.events import Events
from raysaas.serving.gate import Gate
from raysaas.serving.lookup import Looked, Lookup
from raysaas.serving.outcomes import outcome_records, parse_feedback
from raysaas.serving.own_versions import Cold, OwnVersions
from raysaas.serving.protocol import PredictRequest, decisions_body, parse_predict
from raysaas.serving.shadow import Shadow
from raysaas.serving.spec import AppSpec
from raysaas.serving.split import CHAMPION, TENANT, pick
from raysaas.serving.versions import Answering, Version, Versions
from raysaas.settings import ExtraFields
from raysaas.stores.journal import Journal
from raysaas.stores.ledger import Ledger
from raysaas.tenancy.keys import Access

Row = dict[str, Any]


class Predictor:
    """What one replica knows and does; free of Ray and of HTTP."""

    def __init__(self, spec: AppSpec, clock: Callable[[], float] = time.time) -> None:
        self.spec, self.clock = spec, clock
        self.ledger = Ledger(str(spec.storage.ledger_url))
        self.gate = Gate(self.ledger, spec.use_case, spec.serve.quota_rps, spec.serve.quota_burst, clock)
        self.uploads = Uploads(spec.serve.max_ongoing_requests)
        self._lookup, self._contract = Lookup(spec), Contract(spec.contract)
        self._versions = Versions(spec.serve.num_gpus)
        self.own = OwnVersions(spec.serve.tenant_models, self._versions.device)
        self._waiting: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly
        self._answering: Answering | None = None
        self.problem: str | None = None
        self._decisions, self._outcomes, shadows = (
            self._journal(kind) for kind in ("decisions", "outcomes", "shadows")
        )
        self._shadow, self.arm_stats = Shadow(shadows), ArmStats(self._journal("stats"))
        self.events = Events(spec.events, self._journal, spec.serve.max_instances, clock)
        self._journals = (
            self._decisions, self._outcomes, shadows, self.arm_stats.journal, *self.events.journals,
        )  # fmt: skip
        self._random = random.Random(os.urandom(16))
        self._batcher = Batcher(self._decide_all)

    def _journal(self, kind: str, segment_age_s: float = math.inf) -> Journal:
        serve = self.spec.serve
        return Journal(
            str(self.spec.storage.journal),
            self.spec.use_case,
            kind,
            segment_bytes=serve.segment_bytes,
            segment_age_s=min(segment_age_s, serve.segment_age_s),
            deadline_s=serve.journal_deadline_s,
        )

    @property
    def answering(self) -> Answering:
        """The versions that answer now; Unavailable before the first release."""
        if self._answering is None:
            raise Unavailable(f"No version of {self.spec.use_case} is released yet. Try again after a deploy.")
        return self._answering

    def release(self, user_config: Mapping[str, Any]) -> None:
        """Switch to a release: load and warm all of it, then swap. Slow; safe to call from any thread.

        Raises
        ------
        CorruptBundle
            A bundle is broken. What answered before still answers, and :meth:`health` says why nothing changed.
        """
        try:
            answering = self._versions.prepare(user_config)
            self.own.follow(self._answering, answering)
            with suppress(Unavailable):
                self._lookup.refresh(answering.services)
            self._answering = answering
            self.problem = None
        except CorruptBundle as error:
            self.problem = f"Release {user_config.get('sequence')} was refused. {error}"
            raise

    async def predict(self, access: Access, body: bytes, deadline: float = math.inf) -> bytes:
        """Answer ``POST /predict``; every decision is in the journal when this returns."""
        request = parse_predict(body, self.spec.serve.max_instances)
        return decisions_body(await self.decide(access.tenant, request, deadline))

    async def decide(self, tenant: str, request: PredictRequest, deadline: float = math.inf) -> Decisions:
        """Score the rows of ``request`` in order and journal them; return the public part of each decision.

        Raises DeadlineExceeded when that cannot be done by ``deadline`` (of ``time.monotonic``).
        """
        self._contract.check(request, self.answering.champion.bundle.encoder.fields)
        while tenant in self.answering.tenants:
            await self.own.ready(self.answering, tenant, deadline)
            with suppress(Cold):  # it was evicted, or the release changed, after it was ready
                return await self._batcher.decide(tenant, request, deadline)
        return await self._batcher.decide(tenant, request, deadline)

    def submit(self, access: Access, body: bytes, deadline: float, done: Done) -> None:
        """As :meth:`predict`, without a coroutine: ``done`` hears of it, unless this raises."""
        request = parse_predict(body, self.spec.serve.max_instances)
        if access.tenant in self.answering.tenants:  # whose version may have to be loaded first
            task = asyncio.get_running_loop().create_task(self._patiently(access.tenant, request, deadline, done))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
            return
        self._contract.check(request, self.answering.champion.bundle.encoder.fields)
        self._batcher.submit((access.tenant, request), done, deadline)

    async def _patiently(self, tenant: str, request: PredictRequest, deadline: float, done: Done) -> None:
        try:
            done(await self.decide(tenant, request, deadline))
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, or waits for ever
            done(error)

    def _decide_all(self, jobs: Sequence[Job]) -> list[Decisions]:
        now, answering = self.clock(), self.answering
        rows = self._rows(jobs, answering.champion)
        tenants = [tenant for tenant, request in jobs for _ in request.instances]
        entities = [entity for _, request in jobs for entity in request.entities]
        keys = [key for _, request in jobs for key in request.keys or [None] * len(request.instances)]
        ids = self._ids(len(rows), now)
        moment = datetime.fromtimestamp(now, UTC).isoformat()
        public: Decisions = [{}] * len(rows)
        records: list[Row] = []
        order: list[int] = []
        sides = self._arms(answering, tenants, entities, ids)
        for version, arm, places in sides:
            own = rows if version.features == answering.champion.features else self._rows(jobs, version, strict=False)
            if version is not answering.champion:
                self._encoded(answering.champion, rows, places)  # the public schema is the champion's
            measured = self.arm_stats.measure(arm, version.number, len(places)) if answering.variants else nullcontext()
            try:
                with measured:
                    columns = self._encoded(version, own, places, known_only=version is not answering.champion)
                    scored = _scored(version.bundle, version.bundle.predict(columns))
                    answers = list(zip(places, by_row(columns), scored, strict=True))
                    backend = _backend(version.bundle)
            except Exception as error:
                if arm == CHAMPION or (arm == TENANT and self._may_be_of_the_request(error)):
                    raise
                if arm == TENANT:
                    self.own.failed(version, error)
                sides.append((answering.champion, CHAMPION, places))  # a version that breaks fails no request
                continue
            for i, values, answer in answers:
                public[i] = {"decision_id": ids[i], **answer, "model_version": version.number, "arm": arm}
                context = {"tenant": tenants[i], "entity": entities[i], "time": moment, **_origin(own[i]), **backend}
                context |= {} if keys[i] is None else {"key": keys[i]}
                records.append(self._record(public[i], context, dict(zip(columns, values, strict=True))))
            order += places
        self._decisions.append(records)
        if answering.shadow is not None:
            self._shadow.score(answering.shadow, self._for_shadow(answering, jobs, records, order))
        parts = iter(public)
        return [list(islice(parts, len(request.instances))) for _, request in jobs]

    def _may_be_of_the_request(self, error: Exception) -> bool:
        """Whether a value can be wrong that the champion's schema did not judge, of a field that it does not know."""
        return isinstance(error, InputError) and self.spec.serve.extra_fields is ExtraFields.ignore

    def _rows(self, jobs: Sequence[Job], version: Version, *, strict: bool = True) -> list[Looked]:
        encoder, read = version.bundle.encoder, self._lookup.rows
        return [row for tenant, job in jobs for row in read(tenant, job, encoder, version.features, strict=strict)]

    def _for_shadow(
        self, answering: Answering, jobs: Sequence[Job], records: list[Row], order: Sequence[int]
    ) -> list[Row]:
        """``records`` as the shadow takes them: with its own features where those are not the champion's."""
        shadow = answering.shadow
        if shadow is None or shadow.features == answering.champion.features:
            return records
        rows = self._rows(jobs, shadow, strict=False)
        return [{**record, "inputs": rows[i].values} for record, i in zip(records, order, strict=True)]

    async def feedback(self, access: Access, body: bytes) -> bytes:
        """Answer ``POST /feedback``; every outcome is in the journal when this returns."""
        now = datetime.fromtimestamp(self.clock(), UTC)
        outcomes = parse_feedback(body, self.spec.serve.max_instances, now)
        labels = self.answering.champion.bundle.labels
        self._outcomes.append(outcome_records(outcomes, self.spec, access.tenant, labels, now))
        return orjson.dumps({"accepted": len(outcomes)})

    def health(self) -> dict[str, Any]:
        """What a load balancer and the deployer ask: which release answers, and what is wrong."""
        now = self._answering
        problem = self.problem or self._versions.problem or self.own.problem()
        status = "starting" if now is None else "degraded" if problem else "ok"
        return {
            "status": status,
            "use_case": self.spec.use_case,
            "sequence": now.sequence if now else None,
            "champion": now.champion.number if now else None,
            "problem": problem,
            "backend": now.champion.bundle.backend if now else None,
            "pid": os.getpid(),
            "variants": {one.name: one.version.number for one in now.variants} if now else {},
        }

    def tick(self) -> None:
        """Work of every second, off the request path: new keys, quotas, switched online rows, journal rotation."""
        self.gate.refresh()
        self.gate.settle()
        if self._answering is not None:
            with suppress(Unavailable):  # the requests say so
                self._lookup.refresh(self._answering.services)
        with suppress(Unavailable):  # counts are lost rather than a tick
            self.arm_stats.flush(datetime.fromtimestamp(self.clock(), UTC))
        for journal in self._journals:
            journal.rotate_if_due()

    def close(self) -> None:
        """Close the journal segments, so that they can be shipped at once."""
        self._shadow.close()
        self.own.close()
        for journal in self._journals:
            journal.close()
        self.gate.leave()
        self.ledger.close()

    def _ids(self, num: int, now: float) -> list[str]:
        # Time first, so that ids sort by age; 80 random bits, so that none is guessed or repeated.
        head, bits = f"{int(now * 1000):012x}", self._random.getrandbits
        return [f"{head}{bits(80):020x}" for _ in range(num)]

    def _record(self, decision: Row, context: Row, inputs: Row) -> Row:
        return {
            "id": decision["decision_id"],
            "use_case": self.spec.use_case,
            "inputs": inputs,
            "version": decision["model_version"],
            "arm": decision["arm"],
            "score": decision["score"],
            "label": decision["label"],
            **context,
        }

    def _arms(
        self, answering: Answering, tenants: Sequence[str], entities: Sequence[str | None], ids: Sequence[str]
    ) -> list[tuple[Version, str, Sequence[int]]]:
        """Who answers what: versions with the names of their arms and the places of their rows. Raises Cold."""
        own = {tenant: self.own.version(answering, tenant) for tenant in set(tenants)} if answering.tenants else {}
        shares = [one.share for one in answering.variants]
        if not any(own.values()) and not any(shares):
            return [(answering.champion, CHAMPION, range(len(ids)))]
        use_case, experiment = self.spec.use_case, answering.experiment
        sides: dict[str, tuple[Version, str, list[int]]] = {}
        for i, (tenant, entity, key) in enumerate(zip(tenants, entities, ids, strict=True)):
            version, arm = own.get(tenant), TENANT
            if version is None:
                broken = tenant in answering.tenants  # for whom no version on trial stands in
                index = None if broken else pick(shares, use_case, tenant, entity or key, experiment)
                one = None if index is None else answering.variants[index]
                version, arm = (one.version, one.name) if one else (answering.champion, CHAMPION)
            sides.setdefault(f"{arm}/{version.bundle.digest}", (version, arm, []))[2].append(i)
        return list(sides.values())

    def _encoded(
        self, version: Version, rows: Sequence[Looked], places: Sequence[int], *, known_only: bool = False
    ) -> Mapping[str, Any]:
        """The columns that ``version`` takes of some of ``rows``; with ``known_only`` fields it does not know pass."""
        extra: Any = "ignore" if known_only else self.spec.serve.extra_fields.value
        return version.bundle.encoder.rows([rows[i].values for i in places], extra)


def _origin(row: Looked) -> Row:
    """What a decision by entity says of where its inputs are from."""
    if row.features_at is None:
        return {}
    return {"features_at": row.features_at} | ({"given": row.given} if row.given else {})


def _backend(bundle: Bundle) -> Row:
    """What computed a decision, where that is not what ``raysaas why`` can do again bit for bit."""
    return {} if bundle.backend in ON_CPU else {"backend": bundle.backend}


def _scored(bundle: Bundle, prediction: Prediction) -> list[Row]:
    scores = prediction.score.tolist()
    if prediction.label is None:
        return [{"score": score, "label": None} for score in scores]
    if prediction.scores is None or bundle.task is not Task.multiclass:
        return [{"score": score, "label": label} for score, label in zip(scores, prediction.label, strict=True)]
    every = [dict(zip(bundle.labels, row, strict=True)) for row in prediction.scores.tolist()]
    return [
        {"score": score, "label": label, "scores": by_label}
        for score, label, by_label in zip(scores, prediction.label, every, strict=True)
    ]

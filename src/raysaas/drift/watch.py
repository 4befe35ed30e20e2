"""The watch over one use case: journal in, drift reports and retrain orders out. Plain Python; the actor only calls it.

The newest outcome of a decision counts, also once its window was reported: the report is then made again in its place.
What it knows is saved in the ledger in one write: places in the journal, unfinished windows, and reports that are made
but not yet recorded. A process killed anywhere starts again from there: no decision is lost from a window or counted
twice, whatever order segments are read in.
"""

import logging
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from raysaas.drift import performance
from raysaas.drift.detectors import psi_shift
from raysaas.drift.policy import Action, Retrain, Wait, decide, judge, judge_performance
from raysaas.drift.sketches import DecisionWindow
from raysaas.drift.state import Reference, State
from raysaas.drift.track import OutcomeWindow, Track
from raysaas.records import DriftReport, OrderState, Release, RetrainOrder, Severity
from raysaas.settings import Drift
from raysaas.stores.journal import tail
from raysaas.stores.ledger import Ledger
from raysaas.stores.outcomes import Told

MAX_PENDING = 50_000
SAVE_EVERY_S = 5.0
_CORRECTED = "num_corrected"  # how many outcomes of a window were corrected since it was reported

_log = logging.getLogger(__name__)

OnOrder = Callable[[RetrainOrder], None]


class Watch:
    """Folds new journal records into windows, compares full windows with the reference, acts on the policy's answer."""

    def __init__(
        self, use_case: str, journal: str, ledger: Ledger, drift: Drift, on_order: OnOrder | None = None, *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.use_case = use_case
        self.last_action: Action = Wait("No window is full yet.")
        self.last_report: DriftReport | None = None
        self._journal, self._ledger, self._drift, self._on_order, self._clock = journal, ledger, drift, on_order, clock
        self._references: dict[int, Reference] = {}
        self._release: Release | None = None
        self._key = f"drift/{use_case}"
        self._saved_at, self._dirty, self._resumed = clock(), False, False
        self.state = self._load()

    def poll(self) -> list[DriftReport]:
        """Take in what is new; the reports of windows that became full. After an error the next call starts from what
        was saved."""
        try:
            return self._poll()
        except BaseException:
            self.reload()
            raise

    def reload(self) -> None:
        """Forget what was not saved."""
        self.state, self._dirty, self._references, self._resumed = self._load(), False, {}, False

    def save(self) -> None:
        """Write down everything; called by ``poll`` after each full window and otherwise every few seconds."""
        self._ledger.set_state(self._key, self.state.to_json())
        self._saved_at, self._dirty = self._clock(), False

    def status(self) -> dict[str, Any]:
        """Champion, counters, fill of its windows, score quantiles, last severity and action, as plain JSON types."""
        track = self.state.tracks.get(self.state.champion or -1, Track())
        window = track.decisions
        quantiles = {f"p{share}": window.score.at(share / 100) for share in (10, 50, 90)} if window else {}
        return {
            "use_case": self.use_case, "version": self.state.champion, **self.state.counters,
            "window": {"next": track.next_window, "filled": window.num_rows if window else 0, "of": self._drift.window},
            "outcomes_waiting": len(track.matured.rows), "score": quantiles,
            "severity": str(self.last_report.severity) if self.last_report else None,
            "action": {"kind": type(self.last_action).__name__.lower(), "reason": self.last_action.reason},
        }  # fmt: skip

    def _load(self) -> State:
        saved = self._ledger.get_state(self._key)
        return State.from_json(saved) if saved else State()

    def _poll(self) -> list[DriftReport]:
        release = self._ledger.release(self.use_case)
        if release is None:
            return []
        self._follow(release)
        self._resume()
        done = self._flush()
        # Outcomes are read before decisions, so that the decision of every outcome read is read too.
        outcomes, places = tail(self._journal, self.use_case, "outcomes", self.state.offsets["outcomes"])
        done += self._take_decisions()
        self._dirty |= bool(outcomes)
        for record in outcomes:
            self._take_outcome(record)
        self._report_again()
        self.state.offsets["outcomes"] = places
        done += self._flush()
        if self._dirty and (self._clock() - self._saved_at).total_seconds() >= SAVE_EVERY_S:
            self.save()
        return done

    def _follow(self, release: Release) -> None:
        self._release = release
        arms = [release.champion, *(variant.arm for variant in release.variants)]
        for arm in arms:
            if arm.version not in self._references:
                self._references[arm.version] = Reference.read(arm)
        watched = {arm.version for arm in arms}
        self._references = {version: self._references[version] for version in watched}
        if release.champion.version != self.state.champion:
            self.state.champion, self._dirty = release.champion.version, True
            self.state.tracks.setdefault(release.champion.version, Track()).restart()
        for version, track in self.state.tracks.items():
            if version not in watched and (track.decisions or track.pending or track.matured.rows or track.reported):
                track.restart()

    def _resume(self) -> None:
        # An order opened just before the process died was never handed on.
        for order in [] if self._resumed else self._ledger.orders(self.use_case):
            ours = order.evidence.get("ordered_by") == self._key
            if ours and order.state is OrderState.open and order.id not in self.state.submitted:
                self._submit(order)
        self._resumed = True

    def _take_decisions(self) -> list[DriftReport]:
        done: list[DriftReport] = []
        while True:
            records, places = tail(self._journal, self.use_case, "decisions", self.state.offsets["decisions"])
            if not records:
                return done
            self._dirty = True
            if not {record.get("version") for record in records} <= set(self._references):
                release = self._ledger.release(self.use_case)
                self._follow(release) if release else None
            for version, reference in self._references.items():
                mine = [record for record in records if record.get("version") == version and _complete(record)]
                self._fold(version, reference, mine)
                self.state.counters["decisions"] += len(mine)
            self.state.offsets["decisions"] = places
            done += self._flush()

    def _fold(self, version: int, reference: Reference, records: list[dict[str, Any]]) -> None:
        track = self.state.tracks.setdefault(version, Track())
        for record in records:
            name = track.remember(record)
            if (told := self.state.early.of(record)) is not None:
                self._tell(version, reference, track, name, told)
        track.trim(MAX_PENDING)
        while records:
            room = self._drift.window - (track.decisions.num_rows if track.decisions else 0)
            part = DecisionWindow.of(reference.profile, records[:room])
            track.decisions = track.decisions + part if track.decisions else part
            records = records[room:]
            if track.decisions.num_rows >= self._drift.window:
                self.state.outbox.append(self._report(version, reference, track.decisions))
                track.decisions = None

    def _take_outcome(self, record: Mapping[str, Any]) -> None:
        told, effects = Told.of(record), 0
        if told is not None:
            if not record.get("decision_id") and record.get("key") is not None:
                self.state.early.add(record, told)
            for version, reference in self._references.items():
                track = self.state.tracks.get(version, Track())
                effects += sum(self._tell(version, reference, track, key, told) for key in track.decided(record))
        self.state.counters["ignored"] += not effects

    def _tell(self, version: int, reference: Reference, track: Track, key: str, told: Told) -> bool:
        """Take the outcome of one decision; whether it changed anything."""
        change = track.tell(key, told, usable=performance.valid(reference.task, reference.labels, told.label))
        if change:
            self.state.counters["outcomes" if change == "first" else "corrected"] += 1
        if change == "first":
            self._finish_outcomes(version, reference, track)
        return bool(change)

    def _finish_outcomes(self, version: int, reference: Reference, track: Track) -> None:
        rows = list(track.matured.rows.values())
        if len(rows) < self._drift.min_outcomes:
            return
        measured = performance.measure(reference.task, reference.labels, rows)
        if measured:
            window = track.close(self._clock())
            self.state.outbox.append(self._outcome_report(version, reference, track, window, measured))

    def _report_again(self) -> None:
        """Make the reports of windows anew whose outcomes were corrected."""
        for version, reference in self._references.items():
            track = self.state.tracks.get(version, Track())
            for window in [window for window in track.reported if window.stale]:
                window.stale = False
                measured = performance.measure(reference.task, reference.labels, list(window.rows.values()))
                if measured:
                    self.state.outbox.append(self._outcome_report(version, reference, track, window, measured))

    def _report(self, version: int, reference: Reference, window: DecisionWindow) -> DriftReport:
        base = reference.profile.reference()
        shifts = {name: psi_shift(base.features[name], counts) for name, counts in window.counts.features.items()}
        prediction = psi_shift(base.score, window.counts.score)
        severity, cause = judge(shifts, prediction, self._drift)
        number = self.state.tracks[version].number()
        return DriftReport(
            use_case=self.use_case, version=version, window=number, num_decisions=window.num_rows,
            num_requests=window.num_requests, started_at=window.started_at, ended_at=window.ended_at,
            decisions=(window.first, window.last),
            features={name: max(shift.excess, 0.0) for name, shift in shifts.items()},
            prediction=max(prediction.excess, 0.0), severity=severity, cause=cause,
        )  # fmt: skip

    def _outcome_report(
        self, version: int, reference: Reference, track: Track, window: OutcomeWindow, measured: dict[str, float],
    ) -> DriftReport:  # fmt: skip
        rows = list(window.rows.values())
        if not (reference.metrics or track.baseline):
            _log.warning("Version %s of %s names no metrics: first outcomes are its reference.", version, self.use_case)
            track.baseline_of = window.number
        if track.baseline_of == window.number:
            track.baseline = dict(measured)
        drop = performance.compare(
            reference.task, reference.labels, rows, measured, reference.metrics or track.baseline
        )
        severity, cause = judge_performance(drop, self._drift) if drop else (Severity.silent, ())
        known = {f"reference_{drop.metric}": drop.reference, "standard_error": drop.error} if drop else {}
        corrected = {_CORRECTED: float(window.num_corrected)} if window.num_corrected else {}
        measured = {**measured, **known, "num_outcomes": float(len(rows)), **corrected}
        at = datetime.fromisoformat(window.ended_at)
        return DriftReport(
            use_case=self.use_case, version=version, window=window.number, num_decisions=len(rows),
            num_requests=len({row.moment for row in rows}), started_at=at, ended_at=at, decisions=window.span(),
            features={}, prediction=0.0, performance=measured, severity=severity, cause=cause,
        )  # fmt: skip

    def _flush(self) -> list[DriftReport]:
        if not self.state.outbox:
            return []
        self.save()
        done, self.state.outbox = self.state.outbox, []
        for report in done:
            self._ledger.correct_drift(report) if _corrected(report) else self._ledger.add_drift(report)
            self._act(report)
        self.last_report = done[-1]
        self.state.counters["reports"] += len(done)
        self.save()
        return done

    def _act(self, report: DriftReport) -> None:
        track = self.state.tracks[report.version]
        if report.version != self.state.champion or report.window < track.since:
            return
        recorded = self._ledger.drift(self.use_case, 4 * self._drift.consecutive + 50)
        last = math.inf if _corrected(report) else report.window
        mine = [old for old in recorded if old.version == report.version and track.since <= old.window <= last]
        history = sorted(mine, key=lambda old: -old.window)
        if self._ledger.expire_orders(self.use_case, self._clock()):
            _log.warning("The job of an earlier retrain order of %s died; the order is closed.", self.use_case)
        self.last_action = decide(history, self._ledger.orders(self.use_case), self._clock(), self._drift)
        if isinstance(self.last_action, Retrain):
            sequence = self._release.sequence if self._release else 0
            evidence = {**self.last_action.evidence, "ordered_by": self._key, "release": sequence}
            order = self._ledger.open_order(self.use_case, self.last_action.reason, evidence, self._clock())
            if order:
                self._submit(order)

    def _submit(self, order: RetrainOrder) -> None:
        self.state.submitted = [*self.state.submitted[-20:], order.id]
        if self._on_order is None:
            return
        try:
            self._on_order(order)
        except Exception as error:  # noqa: BLE001  whatever the hook raises, an order that nobody took must not stay open
            _log.exception("Retrain order %s of %s could not be handed on.", order.id, self.use_case)
            result = f"The order could not be handed on: {error}"
            self._ledger.close_order(order.id, OrderState.failed, result, self._clock())


def _corrected(report: DriftReport) -> bool:
    return report.performance.get(_CORRECTED, 0.0) > 0


def _complete(record: Mapping[str, Any]) -> bool:
    shapes = {"id": str, "time": str, "inputs": dict, "score": int | float}
    return all(isinstance(record.get(key), shape) for key, shape in shapes.items())

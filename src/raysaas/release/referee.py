"""The referee of one use case: journals and ledger in, actions out. Plain Python; the actor only calls it.

What it knows is saved in the ledger in one write, places in the journals included: a process killed anywhere starts
again from there. It also sees when a release was recorded and never reached Serve, because whoever did it died.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from raysaas.models import bundle
from raysaas.records import Release
from raysaas.release.blocks import CHAMPION
from raysaas.release.judge import ACTOR, Action, Kind, judge, judge_again
from raysaas.release.steps import CHALLENGER
from raysaas.release.trial import Trial
from raysaas.settings import ReleasePolicy
from raysaas.stores.journal import drop_taken, tail
from raysaas.stores.ledger import Ledger

SAVE_EVERY_S, SAVE_SELDOM_S = 10.0, 120.0  # while versions are compared; while only late outcomes are waited for
SETTLE_S = 5.0  # replicas take a release within this time
STRAY_S = 60.0  # counts of no comparison are removed when they are this old
UNAPPLIED_S = 15.0  # a release that Serve did not get by then has lost whoever recorded it
_KINDS = ("outcomes", "decisions", "shadows", "stats")  # an outcome that was read has its decision read after it

Act = Callable[[Action, int], None]


class Referee:
    """Follows the release in force; ``act`` carries out an action that was decided at a sequence."""

    def __init__(
        self, use_case: str, journal: str, ledger: Ledger, policy: ReleasePolicy, act: Act,
        apply: Callable[[], None] = lambda: None, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.use_case, self.last = use_case, Action(kind=Kind.wait, reason="Nothing was released yet.")
        self._journal, self._ledger, self._policy, self._clock = journal, ledger, policy, clock
        self._act, self._apply, self._key = act, apply, f"release/{use_case}"
        self.trial: Trial | None = None
        self._offsets: dict[str, dict[str, int]] = {}
        self._history: list[Release] = []
        self._saved_at, self._tried = clock(), (0, clock())
        self.reload()

    def reload(self) -> None:
        """Forget what was not saved."""
        saved = self._ledger.get_state(self._key) or {}
        self._offsets = saved.get("offsets", {})
        self.trial = Trial.from_json(saved["trial"]) if saved.get("trial") else None

    def save(self) -> None:
        """Write down everything."""
        trial = self.trial.to_json() if self.trial else None
        self._ledger.set_state(self._key, {"offsets": self._offsets, "trial": trial, "status": self.status()})
        self._saved_at = self._clock()
        self._sweep()

    def _sweep(self) -> None:
        """Remove segments of replicas' counts: those that are part of what was saved, or of no comparison."""
        offsets, keep_s = (self._offsets.get("stats", {}), 0.0) if self.trial else (None, STRAY_S)
        with suppress(OSError):  # a disk that cannot be written is for those to report who must write it
            drop_taken(self._journal, self.use_case, "stats", offsets, keep_s=keep_s)

    def poll(self) -> Action:
        """Take in what is new and act on it. After an error the next call starts from what was saved."""
        try:
            self.last = self._poll()
            return self.last
        except BaseException:
            self.reload()
            raise

    def _poll(self) -> Action:
        release = self._ledger.release(self.use_case)
        if release is None:
            return self.last
        self._recover(release)
        if not self._history or self._history[0].sequence != release.sequence:
            self._history = self._ledger.releases(self.use_case)
        promoted = self._follow(self._history)
        if self.trial is None:
            if self._due(SAVE_SELDOM_S):
                self.save()
            return Action(kind=Kind.wait, reason="Nothing is compared.")
        fresh = self._take(self.trial)
        if promoted is None:
            action = judge(self.trial, release, self._policy)
        else:
            action = judge_again(self.trial, promoted, self._policy, self._clock())
        changed = (action.kind, action.reason) != (self.last.kind, self.last.reason)
        self.last = action
        due = self._due(SAVE_SELDOM_S if promoted else SAVE_EVERY_S)
        if action.kind is not Kind.wait or ((fresh or changed) and due):
            self.save()
        if action.kind is not Kind.wait and not release.frozen:
            self._act(action, release.sequence)
        return action

    def _recover(self, release: Release) -> None:
        applied = self._ledger.get_state(f"applied/{self.use_case}")
        old = (self._clock() - release.at).total_seconds() >= UNAPPLIED_S
        if applied is not None and applied["sequence"] != release.sequence and old and self._patient(release):
            self._apply()

    def _patient(self, release: Release) -> bool:
        """Whether it is time to try; a release is tried again after as long as it was waited for."""
        now, (sequence, at) = self._clock(), self._tried
        if sequence == release.sequence and (now - at).total_seconds() < UNAPPLIED_S:
            return False
        self._tried = (release.sequence, now)
        return True

    def _follow(self, history: list[Release]) -> Release | None:
        """Begin, go on with or end the trial; the promotion that ended it while that can be undone."""
        release = history[0]
        if release.variants or release.shadow:
            if self.trial is None or self.trial.id != _id(history):
                begun = _begun(history)
                begun.early = self.trial.early if self.trial is not None else begun.early
                self.trial = begun
            shares = {variant.name: variant.share for variant in release.variants}
            if shares:
                since = _same(history, lambda one: one.variants)[-1]
                self.trial.enter(since.sequence, since.at.isoformat(), shares | {CHAMPION: 1 - sum(shares.values())})
            return None
        promoted = _same(history, lambda one: one.champion)[-1]
        if self.trial is not None and not self._undoable(self.trial, promoted):
            self.trial = None
            self.save()
        return promoted

    def _undoable(self, trial: Trial, promoted: Release) -> bool:
        ours = {version for name, version in trial.versions.items() if name != CHAMPION}
        young = self._clock() - promoted.at <= timedelta(days=self._policy.undo_days)
        return promoted.actor == ACTOR and promoted.champion.version in ours and young

    def _take(self, trial: Trial) -> bool:
        """Fold new records into ``trial``; whether there were any."""
        new = {kind: self._tail(kind, trial.since) for kind in _KINDS}
        settled = (datetime.fromisoformat(trial.stage_since or trial.since) + timedelta(seconds=SETTLE_S)).isoformat()
        for record in new["decisions"]:
            trial.decision(record, settled)
        for record in new["shadows"]:
            trial.shadow(record)
        for record in new["outcomes"]:
            trial.outcome(record)
        for record in new["stats"]:
            trial.stats(record)
        return any(new.values())

    def _tail(self, kind: str, since: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            records, places = tail(self._journal, self.use_case, kind, self._offsets.get(kind, {}))
            self._offsets[kind] = places
            if not records:
                return found
            found += [record for record in records if record.get("time", since) >= since]

    def _due(self, seconds: float) -> bool:
        return (self._clock() - self._saved_at).total_seconds() >= seconds

    def status(self) -> dict[str, Any]:
        """What is compared and how it stands, as plain JSON types."""
        told: dict[str, Any] = {}
        if self.trial is not None:
            told = {name: contest.told(self.trial.versions[name]) for name, contest in self.trial.contests.items()}
        return {"use_case": self.use_case, "contests": told, "kind": str(self.last.kind), "reason": self.last.reason}


def _begun(history: list[Release]) -> Trial:
    """A trial without evidence for the release in force."""
    release = history[0]
    begun = _same(history, lambda one: (one.experiment, one.shadow))[-1]
    manifest = bundle.read_manifest(release.champion.uri, release.champion.digest)
    challengers = {variant.name: variant.arm.version for variant in release.variants}
    if release.shadow:
        challengers = {CHALLENGER: release.shadow.version}
    return Trial(
        id=_id(history), task=str(manifest["task"]), labels=list(manifest["labels"]), since=begun.at.isoformat(),
        versions={CHAMPION: release.champion.version, **challengers}, paired=release.shadow is not None,
    )  # fmt: skip


def _id(history: list[Release]) -> str:
    begun = _same(history, lambda one: (one.experiment, one.shadow))[-1]
    return f"{begun.use_case}/{begun.sequence}"


def _same(history: list[Release], part: Callable[[Release], object]) -> list[Release]:
    """The releases, newest first, back to the one in which ``part`` became what it is now."""
    found: list[Release] = []
    for release in history:
        if part(release) != part(history[0]):
            break
        found.append(release)
    return found

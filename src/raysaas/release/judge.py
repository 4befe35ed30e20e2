"""What to do about a running comparison: wait, let a canary grow, promote, or roll back; pure.

Guard-rails and the split are judged at once, outcomes as they mature. A canary grows while nothing speaks against it;
the step to all of the traffic needs proof. In an A/B test the first variant that proves better is promoted, and the
test ends when every one proved worse.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from raysaas.records import Release
from raysaas.release import ratio, steps
from raysaas.release.blocks import CHAMPION
from raysaas.release.contest import Contest
from raysaas.release.tally import rails
from raysaas.release.trial import Trial
from raysaas.release.verdict import Evidence, Promote, RollBack, Verdict, decide
from raysaas.settings import ReleasePolicy

ACTOR = "release"


class Kind(StrEnum):
    """What an action does."""

    wait = "wait"
    advance = "advance"
    promote = "promote"
    roll_back = "roll_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One decision of the judge; ``version`` is whom it is about, ``share`` that of the next stage."""

    kind: Kind
    reason: str
    version: int | None = None
    share: float | None = None


def judge(trial: Trial, release: Release, policy: ReleasePolicy) -> Action:
    """The action for ``release``, the one in force, which compares what ``trial`` saw."""
    if release.frozen:
        return Action(kind=Kind.wait, reason="The use case is frozen.")
    if broken := _broken(trial, policy):
        return Action(kind=Kind.roll_back, reason=broken)
    verdicts = {name: _verdict(trial, contest, contest.evidence, policy) for name, contest in trial.contests.items()}
    for name, verdict in verdicts.items():
        if isinstance(verdict, Promote):
            return Action(kind=Kind.promote, reason=verdict.reason, version=trial.versions[name])
    told = next(iter(verdicts.values()))
    if all(isinstance(verdict, RollBack) for verdict in verdicts.values()):
        return Action(kind=Kind.roll_back, reason=told.reason)
    return _grow(trial, release, policy, told)


def judge_again(trial: Trial, promoted: Release, policy: ReleasePolicy, now: datetime) -> Action:
    """Whether outcomes that came or were corrected after ``promoted``, the promotion that ended ``trial``, prove it
    wrong: what is known now counts."""
    if now - promoted.at > timedelta(days=policy.undo_days):
        return Action(kind=Kind.wait, reason="The time to undo the promotion is over.")
    name = next(name for name, version in trial.versions.items() if version == promoted.champion.version)
    contest = trial.contests[name]
    verdict = _verdict(trial, contest, contest.as_known(), replace(policy, max_outcomes=2**62))
    if isinstance(verdict, RollBack):
        return Action(kind=Kind.roll_back, reason=f"Later outcomes undo the promotion. {verdict.reason}")
    return Action(kind=Kind.wait, reason="Outcomes that come late can still undo the promotion.")


def _verdict(trial: Trial, contest: Contest, evidence: Evidence, policy: ReleasePolicy) -> Verdict:
    return decide(
        evidence, corrected=contest.as_known(), alpha=policy.alpha / len(trial.contests),
        num_outcomes=contest.num_outcomes, max_outcomes=policy.max_outcomes, unproven=policy.unproven,
    )  # fmt: skip


def _broken(trial: Trial, policy: ReleasePolicy) -> str:
    """Why the comparison must not go on; empty when it may."""
    for name in trial.contests:
        for rail in rails(trial.tallies[CHAMPION], trial.tallies[name], policy):
            if rail.broken():
                return rail.told()
    return ratio.broken(trial.split, trial.shares) if trial.shares else ""


def _grow(trial: Trial, release: Release, policy: ReleasePolicy, verdict: Verdict) -> Action:
    names = [variant.name for variant in release.variants]
    share = steps.next_stage(release, policy.stages) if names == [steps.CHALLENGER] else None
    if share is None:
        return Action(kind=Kind.wait, reason=verdict.reason)
    num, version = trial.num.get(names[0], 0), trial.versions[names[0]]
    if num < policy.stage_decisions:
        return Action(kind=Kind.wait, reason=f"{num} of {policy.stage_decisions} decisions of this stage.")
    reason = f"Nothing speaks against it after {num} decisions at {release.variants[0].share:.4g}."
    return Action(kind=Kind.advance, reason=reason, version=version, share=share)

"""How the accounts of the simulated SaaS live: week by week, seat by seat, until they leave. The planted truth is here.

A latent engagement (a habit for life and a mood) and a latent trouble move by first-order autoregression. They raise or
lower the chance that an account decides to leave; it leaves some weeks later, and its use shows it meanwhile. Another
account takes the seat, so that after the burn-in the population is stationary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date

import numpy as np
from numpy.typing import NDArray

from raysaas.use_case import Simulation

SHARD = 1000
BURN_IN_WEEKS = 52
HISTORY_WEEKS = 13  # before ``start``, so that the longest window is full at the first cut
NOTICE_WEEKS = (3, 7)  # from the decision to the end; use falls before the change and rises after it
NUM_REGIONS, NUM_INDUSTRIES = 3, 5

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(slots=True)
class Account:
    """What an account keeps for life, one element per seat; ``since`` is its first day, counted from ``start``."""

    number: Ints
    since: Floats
    plan: Ints
    seats: Ints
    region: Ints
    industry: Ints
    habit: Floats


@dataclass(slots=True)
class Week:
    """One week of all seats: the accounts, their latent state, what they met, and the day they leave (or infinity)."""

    day: int
    after: bool
    account: Account
    engagement: Floats
    trouble: Floats
    tickets: Ints
    failed: Bools
    leaves: Floats


def decision_hazard(after: bool, engagement: Floats, tickets: Floats, failing: Bools, plan: Ints) -> Floats:
    """Chance that an account decides this week to leave: the planted truth; linear models miss its interactions."""
    if after:
        dear = 1.5 * engagement * (plan > 0) + 2.6 * (plan == 1)
        urge = dear + 1.6 * np.minimum(tickets, 4) + 1.2 * failing - 4.6
        return np.asarray(0.001 + 0.18 / (1 + np.exp(-urge)))
    idle = -engagement * np.where(plan == 2, 1.0, 2.5)
    unheard = np.minimum(tickets, 4) * np.where(plan == 2, 2.4, 0.5)
    unpaid = failing * np.where(plan == 0, 3.5, 1.0)
    return np.asarray(0.001 + 0.24 / (1 + np.exp(4.2 - idle - unheard - unpaid)))


class Shard:
    """The seats of one shard; ``weeks`` lives them, from the burn-in to the last day."""

    def __init__(self, spec: Simulation, seed: int, shard: int) -> None:
        self.spec = spec
        self.first = shard * SHARD
        self.size = min(SHARD, spec.accounts - self.first)
        self.rng = np.random.default_rng((seed, shard))
        self.change_day = (date.fromisoformat(spec.change_at) - date.fromisoformat(spec.start)).days
        sizes = 1 / (2.0 + np.arange(spec.tenants))
        self.tenant = self.rng.choice(spec.tenants, self.size, p=sizes / sizes.sum())
        self.billing_day = self.rng.integers(0, 30, self.size)

    def weeks(self) -> Iterator[Week]:
        rng, n = self.rng, self.size
        account = self._draw(np.zeros(n, np.int64), np.full(n, -1e6))
        mood, trouble = rng.normal(size=(2, n))
        failing, recent = np.zeros(n, bool), np.zeros((4, n))
        notice = np.zeros(n, np.int64)
        for week in range(-HISTORY_WEEKS - BURN_IN_WEEKS, -(-self.spec.days // 7)):
            day, after = week * 7, week * 7 >= self.change_day
            mood = 0.96 * mood + 0.28 * rng.normal(size=n)
            trouble = 0.9 * trouble + 0.436 * rng.normal(size=n)
            wish = 0.5 * account.habit + 0.9 * mood
            engagement = wish + np.where(notice > 0, 0.3 if after else -0.65, 0.0)
            tickets = rng.poisson(0.1 * np.exp(0.8 * trouble))
            recent[week % 4] = tickets
            billed = (day + 6 - self.billing_day) // 30 > (day - 1 - self.billing_day) // 30
            failing = np.where(billed, rng.random(n) < np.where(failing, 0.6, 0.06), failing)
            decides = rng.random(n) < decision_hazard(after, wish, recent.sum(axis=0), failing, account.plan)
            gone = notice == 1
            leaves = np.where(gone, day + 7 * rng.random(n), np.inf)
            yield Week(day, after, account, engagement, trouble, tickets, failing, leaves)
            notice = np.where(notice > 0, notice - 1, decides * rng.integers(*NOTICE_WEEKS, n))
            account = self._succeed(account, gone, day + 7 + rng.random(n))
            mood, trouble = (np.where(gone, rng.normal(size=n), state) for state in (mood, trouble))
            failing, recent = failing & ~gone, recent * ~gone

    def _draw(self, number: Ints, since: Floats) -> Account:
        rng, n = self.rng, self.size
        plan = rng.choice(3, n, p=[0.45, 0.35, 0.2])
        seats = np.ceil(np.exp(rng.normal(1.3 + 0.8 * plan + 0.1 * (self.tenant % 3), 0.6))).astype(np.int64)
        region = np.where(rng.random(n) < 0.5, self.tenant % 3, rng.integers(0, NUM_REGIONS, n))
        return Account(number, since, plan, seats, region, rng.integers(0, NUM_INDUSTRIES, n), rng.normal(size=n))

    def _succeed(self, old: Account, gone: Bools, since: Floats) -> Account:
        new = self._draw(old.number + 1, since)
        return Account(*(np.where(gone, getattr(new, f.name), getattr(old, f.name)) for f in fields(Account)))

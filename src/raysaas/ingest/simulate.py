"""A multi-tenant SaaS that never was: accounts, their usage, tickets, payments, and the churn that follows from them.

``Simulation.accounts`` seats are always taken (see ``population``), and no feature drifts by itself. At ``change_at`` a
release doubles the events of a session, ``pro`` becomes ``team``, prices rise, and the reasons to leave turn round:
before, the idle leave; after, the heavy users do.

Shards of a fixed number of seats are seeded by (seed, shard): the rows do not depend on who draws them, or how many do.
"""

from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raysaas.errors import ConfigError
from raysaas.ingest.population import HISTORY_WEEKS, SHARD, Bools, Floats, Ints, Shard, Week
from raysaas.settings import Settings
from raysaas.use_case import Simulation

SHARDS_PER_PART = 8
PLANS = ("starter", "pro", "enterprise", "team")
REGIONS = ("emea", "amer", "apac")
INDUSTRIES = ("retail", "finance", "health", "media", "education")
PRICES = np.array([12.0, 30.0, 55.0])
DAY_US = 86_400_000_000


class Rows:
    """The rows of one shard, gathered week by week into one list of column blocks per source."""

    def __init__(self, shard: Shard) -> None:
        self.shard, self.rng = shard, shard.rng
        self.blocks: dict[str, list[dict[str, Any]]] = {key: [] for key in SOURCES}
        self.known: Ints = np.full(shard.size, -1, np.int64)

    def add(self, week: Week) -> None:
        if week.day < -7 * HISTORY_WEEKS:
            return
        self._usage(week)
        self._tickets(week)
        self._payments(week)
        if week.day + 7 > 0:
            self._accounts(week)
            self._churns(week)

    def _put(self, source: str, week: Week, seat: Ints, time: NDArray[np.floating[Any]], **columns: Any) -> None:
        account = week.account
        there = (time >= account.since[seat]) & (time < week.leaves[seat]) & (time < self.shard.spec.days)
        block = {"seat": seat, "number": account.number[seat], "time": time, **columns}
        self.blocks[source].append({key: values[there] for key, values in block.items()})

    def _usage(self, week: Week) -> None:
        rng, n = self.rng, self.shard.size
        active = rng.random((7, n)) < 1 / (1 + np.exp(1.15 - 0.75 * week.engagement))
        day, seat = np.nonzero(active)
        time = week.day + day + 0.35 + 0.64 * rng.random(len(day))
        push, seats = week.engagement[seat], week.account.seats[seat]
        users = 1 + rng.binomial(seats - 1, 1 / (1 + np.exp(1.0 - 0.7 * push)))
        sessions = users + rng.poisson(users * np.exp(0.35 * push - 0.3))
        volume = np.where(time >= self.shard.change_day, 16.0, 8.0)
        events = rng.poisson(sessions * volume)
        errors = rng.poisson(sessions * 0.1 * np.exp(0.5 * week.trouble[seat]))
        adopted = 1 + rng.binomial(11, 1 / (1 + np.exp(0.8 - 0.6 * push)))
        self._put(
            "usage",
            week,
            seat,
            time,
            active_users=users,
            sessions=sessions,
            events=events,
            depth=events / sessions,
            errors=errors,
            features_used=adopted,
        )

    def _tickets(self, week: Week) -> None:
        seat = np.repeat(np.arange(self.shard.size), week.tickets)
        severity = 1 + self.rng.binomial(2, 1 / (1 + np.exp(0.9 - 0.6 * week.trouble[seat])))
        self._put("tickets", week, seat, week.day + 7.0 * self.rng.random(len(seat)), severity=severity)

    def _payments(self, week: Week) -> None:
        due = (self.shard.billing_day - week.day) % 30
        seat = np.nonzero(due < 7)[0]
        dearer = np.where(week.day + due[seat] >= self.shard.change_day, 1.25, 1.0)
        amount = np.round(week.account.seats[seat] * PRICES[week.account.plan[seat]] * dearer, 2)
        self._put(
            "payments",
            week,
            seat,
            week.day + due[seat] + 0.25,
            amount=amount,
            failed=week.failed[seat].astype(np.int64),
        )

    def _accounts(self, week: Week) -> None:
        """One row per account when it is first seen, and one more for each ``pro`` when that plan becomes ``team``."""
        account, change = week.account, float(self.shard.change_day)
        seat = np.nonzero(account.number != self.known)[0]
        since = np.maximum(account.since[seat], max(week.day, 0))
        self._profile(week, seat, since, renamed=since >= change)
        if week.day <= change < week.day + 7:
            seat = np.nonzero((account.plan == 1) & (account.since < change))[0]
            self._profile(week, seat, np.full(len(seat), change), renamed=np.ones(len(seat), bool))
        self.known = account.number

    def _profile(self, week: Week, seat: Ints, time: Floats, renamed: Bools) -> None:
        account = week.account
        plan = np.where(renamed & (account.plan[seat] == 1), 3, account.plan[seat])
        self._put(
            "accounts",
            week,
            seat,
            time,
            plan=plan,
            seats=account.seats[seat],
            region=account.region[seat],
            industry=account.industry[seat],
        )

    def _churns(self, week: Week) -> None:
        seat = np.nonzero((week.leaves >= 0) & (week.leaves < self.shard.spec.days))[0]
        block = {"seat": seat, "number": week.account.number[seat], "time": week.leaves[seat]}
        self.blocks["churns"].append(block)


SOURCES = {
    "accounts": "recorded_at",
    "usage": "used_at",
    "tickets": "opened_at",
    "payments": "paid_at",
    "churns": "churned_at",
}
WORDS = {"plan": PLANS, "region": REGIONS, "industry": INDUSTRIES}


def shard_tables(spec: Simulation, seed: int, shard: int) -> dict[str, pa.Table]:
    """All rows of one shard, one table per source, in order of time."""
    seats = Shard(spec, seed, shard)
    rows = Rows(seats)
    for week in seats.weeks():
        rows.add(week)
    return {source: _table(spec, seats, source, blocks) for source, blocks in rows.blocks.items()}


def _table(spec: Simulation, shard: Shard, source: str, blocks: list[dict[str, Any]]) -> pa.Table:
    columns = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    order = np.argsort(columns["time"], kind="stable")
    columns = {key: values[order] for key, values in columns.items()}
    seat, number, time = (columns.pop(key) for key in ("seat", "number", "time"))
    start = np.datetime64(spec.start, "us").astype(np.int64)
    stamp = start + np.round(time * DAY_US).astype(np.int64)
    table = {
        "tenant": _words([f"tenant_{k + 1}" for k in range(spec.tenants)], shard.tenant[seat]),
        "account_id": _account_ids(shard, seat, number),
        SOURCES[source]: _times(stamp),
    }
    if source == "churns":
        table["known_at"] = _times(stamp + spec.label_delay_days * DAY_US)
    for key, values in columns.items():
        table[key] = _words(WORDS[key], values) if key in WORDS else pa.array(values)
    return pa.table(table)


def _words(words: Any, codes: Ints) -> pa.Array:
    return pa.array(list(words), pa.string()).take(pa.array(codes))


def _times(stamp: Ints) -> pa.Array:
    return pa.array(stamp, pa.timestamp("us", "UTC"))


def _account_ids(shard: Shard, seat: Ints, number: Ints) -> pa.Array:
    width = int(number.max(initial=0)) + 1
    keys, codes = np.unique(seat * width + number, return_inverse=True)
    return _words([f"acc-{shard.first + key // width:07d}-{key % width}" for key in keys.tolist()], codes)


def _months(table: pa.Table, since: date | None, upto: date | None) -> Iterator[tuple[str, pa.Table]]:
    """Slices of a table by the month its rows arrive in; a month arrives when its first day is in [since, upto)."""
    arrival = table["known_at"] if "known_at" in table.column_names else table[2]
    order = np.argsort(arrival.to_numpy(), kind="stable")
    months = arrival.to_numpy()[order].astype("datetime64[M]")
    for month in np.unique(months):
        first = month.astype("datetime64[D]").astype(date)
        if (since is None or first >= since) and (upto is None or first < upto):
            lo, hi = np.searchsorted(months, [month, month + 1])
            yield first.strftime("%Y%m"), table.take(pa.array(order[lo:hi]))


def _write(
    spec: Simulation, out_dir: Path, seed: int, shards: range, suffix: str, since: date | None, upto: date | None
) -> dict[str, int]:
    """Draw shards one by one and append their rows to one file per source and month; memory is that of one shard."""
    out_dir.mkdir(parents=True, exist_ok=True)
    writers: dict[str, pq.ParquetWriter] = {}
    counts = dict.fromkeys(SOURCES, 0)
    for shard in shards:
        for source, table in shard_tables(spec, seed, shard).items():
            for month, rows in _months(table, since, upto):
                name = f"{source}-{month}{suffix}.parquet"
                if name not in writers:
                    writers[name] = pq.ParquetWriter(out_dir / name, rows.schema, compression="zstd")
                writers[name].write_table(rows)
                counts[source] += rows.num_rows
    for writer in writers.values():
        writer.close()
    return counts


def simulate(
    spec: Simulation, out_dir: Path, seed: int, *, upto: date | None = None, since: date | None = None
) -> dict[str, int]:
    """Write the simulated rows as Parquet, one file per source and month, and return the number of rows per source.

    Only months whose first day lies in [since, upto) are written, so two calls that share a border write every month
    once. Rows before ``spec.start`` are history that fills the windows of the first cuts.
    """
    return _write(spec, Path(out_dir), seed, range(-(-spec.accounts // SHARD)), "", since, upto)


def simulate_distributed(
    spec: Simulation, out_dir: Path, seed: int, *, upto: date | None = None, since: date | None = None
) -> dict[str, int]:
    """``simulate`` as Ray Data tasks: the same rows in more files, a part of ``SHARDS_PER_PART`` shards per task."""
    import ray.data

    num_shards = -(-spec.accounts // SHARD)
    num_parts = -(-num_shards // SHARDS_PER_PART)
    out = Path(out_dir).resolve()
    part = partial(_write_part, spec=spec, out_dir=out, seed=seed, num_shards=num_shards, since=since, upto=upto)
    counts = ray.data.range(num_parts, override_num_blocks=num_parts).map(part).take_all()
    return {source: sum(int(count[source]) for count in counts) for source in SOURCES}


def into_data_dir(settings: Settings) -> dict[str, int]:
    """``simulate_distributed`` of the use case to where its sources look for files. Raises ConfigError."""
    use_case = settings.use_case
    if use_case.simulate is None:
        raise ConfigError(f"use_case {use_case.name} has no `simulate`: nothing says what its rows look like.")
    if settings.data_dir is None:
        raise ConfigError("Simulated files are written under data_dir: set data_dir=FOLDER.")
    return simulate_distributed(use_case.simulate, Path(settings.data_dir) / use_case.name, settings.seed)


def _write_part(
    row: dict[str, Any],
    *,
    spec: Simulation,
    out_dir: Path,
    seed: int,
    num_shards: int,
    since: date | None,
    upto: date | None,
) -> dict[str, int]:
    first = int(row["id"]) * SHARDS_PER_PART
    shards = range(first, min(first + SHARDS_PER_PART, num_shards))
    return _write(spec, out_dir, seed, shards, f"-{int(row['id']):05d}", since, upto)

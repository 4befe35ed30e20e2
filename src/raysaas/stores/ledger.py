"""State that must survive, in SQL: keys, releases, drift reports, retrain orders, small actor state.

SQLAlchemy Core; WAL SQLite by default, PostgreSQL by URL. Rules that must hold over processes are database constraints:
a release sequence is unique, and at most one retrain order per use case is open.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from raysaas.errors import NotFound, Unavailable
from raysaas.records import Arm, DriftReport, OrderState, Release, RetrainOrder, Severity, Variant

ORDER_BEAT_S, ORDER_DEAD_S = 10.0, 120.0

_META = sa.MetaData()
_KEYS = sa.Table(
    "api_keys", _META,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("expires_at", sa.DateTime),
    sa.Column("created_at", sa.DateTime, nullable=False),
)  # fmt: skip
_RELEASES = sa.Table(
    "releases", _META,
    sa.Column("use_case", sa.String, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("at", sa.DateTime, nullable=False),
)  # fmt: skip
_DRIFT = sa.Table(
    "drift_reports", _META,
    sa.Column("use_case", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("window", sa.Integer, primary_key=True),
    sa.Column("ended_at", sa.DateTime, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)  # fmt: skip
_ORDERS = sa.Table(
    "retrain_orders", _META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("use_case", sa.String, nullable=False),
    sa.Column("open_for", sa.String, unique=True),  # the use case while the order is open, else null
    sa.Column("state", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("result", sa.String, nullable=False, default=""),
    sa.Column("opened_at", sa.DateTime, nullable=False),
    sa.Column("beat_at", sa.DateTime),  # the last sign of life of the job that carries it out
    sa.Column("closed_at", sa.DateTime),
)  # fmt: skip
_STATE = sa.Table(
    "actor_state", _META,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
)  # fmt: skip
_TOMBSTONES = sa.Table(
    "tombstones", _META,
    sa.Column("use_case", sa.String, primary_key=True),
    sa.Column("source", sa.String, primary_key=True),
    sa.Column("digest", sa.String, primary_key=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """One API key at rest: only its digest is kept."""

    digest: str
    tenant: str
    scopes: tuple[str, ...]
    expires_at: datetime | None
    created_at: datetime


class Ledger:
    """The SQL state of one installation; safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, pool_pre_ping=True)
        if self._engine.dialect.name == "sqlite":
            Path(self._engine.url.database or ".").parent.mkdir(parents=True, exist_ok=True)
            event.listen(self._engine, "connect", _sqlite_pragmas)
        self.make_tables(_META)

    @property
    def engine(self) -> sa.Engine:
        """For stores that keep tables of their own in the ledger."""
        return self._engine

    def make_tables(self, tables: sa.MetaData) -> None:
        """Create those that are not there yet."""
        for attempt in range(5):
            try:
                tables.create_all(self._engine)
                break
            except (sa.exc.OperationalError, sa.exc.ProgrammingError, IntegrityError):
                if attempt == 4:  # two processes made the tables at once: the loser looks again
                    raise

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @property
    def tables(self) -> list[str]:
        """Names of its SQL tables."""
        return sorted(_META.tables)

    # --- API keys

    def add_key(self, digest: str, tenant: str, scopes: list[str], expires_at: datetime | None = None) -> None:
        """Remember a key by its digest."""
        row = {"digest": digest, "tenant": tenant, "scopes": scopes, "expires_at": _naive(expires_at)}
        with self._engine.begin() as connection:
            connection.execute(_KEYS.insert().values(created_at=_naive(datetime.now(UTC)), **row))

    def keys(self) -> list[KeyRow]:
        """Every key, expired ones included."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_KEYS)).mappings().all()
        return [_key(row) for row in rows]

    def end_key(self, digest: str, at: datetime) -> None:
        """Let a key expire at ``at``, unless it does so before."""
        sooner = _KEYS.c.expires_at.is_(None) | (_KEYS.c.expires_at > _naive(at))
        with self._engine.begin() as connection:
            where = (_KEYS.c.digest == digest) & sooner
            connection.execute(_KEYS.update().where(where).values(expires_at=_naive(at)))

    def drop_key(self, digest: str) -> bool:
        """Delete one key; False when it was gone."""
        with self._engine.begin() as connection:
            return connection.execute(_KEYS.delete().where(_KEYS.c.digest == digest)).rowcount > 0

    def drop_keys(self, tenant: str) -> int:
        """Delete every key of a tenant; how many there were."""
        with self._engine.begin() as connection:
            return connection.execute(_KEYS.delete().where(_KEYS.c.tenant == tenant)).rowcount

    # --- who was forgotten

    def add_tombstone(self, use_case: str, source: str, digest: str) -> None:
        """Remember a digest; nothing happens when it is known."""
        with suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(_TOMBSTONES.insert().values(use_case=use_case, source=source, digest=digest))

    def drop_tombstone(self, use_case: str, source: str, digest: str) -> bool:
        """Forget a digest again; whether it was there."""
        row = (_TOMBSTONES.c.use_case == use_case) & (_TOMBSTONES.c.source == source) & (_TOMBSTONES.c.digest == digest)
        with self._engine.begin() as connection:
            return connection.execute(_TOMBSTONES.delete().where(row)).rowcount == 1

    def tombstones(self, use_case: str, source: str) -> frozenset[str]:
        """The digests of a source."""
        where = (_TOMBSTONES.c.use_case == use_case) & (_TOMBSTONES.c.source == source)
        with self._engine.connect() as connection:
            return frozenset(connection.execute(sa.select(_TOMBSTONES.c.digest).where(where)).scalars())

    # --- releases

    def set_release(self, release: Release) -> None:
        """Record a release; its sequence must be the last one plus one, else somebody else released: Unavailable."""
        last = self.release(release.use_case)
        expected = last.sequence + 1 if last else 1
        body = asdict(release) | {"at": release.at.isoformat()}
        row = {"use_case": release.use_case, "sequence": release.sequence, "body": body, "at": _naive(release.at)}
        try:
            if release.sequence != expected:
                raise Unavailable(f"Release {release.sequence} of {release.use_case} is not next: expected {expected}.")
            with self._engine.begin() as connection:
                connection.execute(_RELEASES.insert().values(**row))
        except IntegrityError as error:
            message = f"Release {release.sequence} of {release.use_case} was recorded by another process. Try again."
            raise Unavailable(message) from error

    def releases(self, use_case: str, limit: int | None = None) -> list[Release]:
        """Every release, or the ``limit`` last ones, newest first."""
        query = (
            sa.select(_RELEASES.c.body).where(_RELEASES.c.use_case == use_case).order_by(_RELEASES.c.sequence.desc())
        ).limit(limit)
        with self._engine.connect() as connection:
            return [_release(body) for body in connection.execute(query).scalars()]

    def release(self, use_case: str) -> Release | None:
        """The release in force, or None when nothing was released yet."""
        return next(iter(self.releases(use_case, 1)), None)

    def released(self) -> list[str]:
        """Names of the use cases that have a release."""
        with self._engine.connect() as connection:
            return sorted(connection.execute(sa.select(_RELEASES.c.use_case).distinct()).scalars())

    # --- drift reports

    def add_drift(self, report: DriftReport) -> bool:
        """Record a report; False when that window was recorded before."""
        row = {"use_case": report.use_case, "version": report.version, "window": report.window}
        try:
            with self._engine.begin() as connection:
                body = _drift_body(report)
                connection.execute(_DRIFT.insert().values(body=body, ended_at=_naive(report.ended_at), **row))
        except IntegrityError:
            return False
        return True

    def correct_drift(self, report: DriftReport) -> None:
        """Put a report in the place of the one recorded of its window: outcomes were corrected."""
        if not self.add_drift(report):
            where = {"use_case": report.use_case, "version": report.version, "window": report.window}
            with self._engine.begin() as connection:
                connection.execute(_DRIFT.update().filter_by(**where).values(body=_drift_body(report)))

    def drift(self, use_case: str, limit: int = 50) -> list[DriftReport]:
        """The newest reports, newest first."""
        query = sa.select(_DRIFT.c.body).where(_DRIFT.c.use_case == use_case)
        query = query.order_by(_DRIFT.c.ended_at.desc(), _DRIFT.c.window.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [_drift(body) for body in connection.execute(query).scalars()]

    # --- retrain orders

    def open_order(self, use_case: str, reason: str, evidence: Mapping[str, Any], now: datetime) -> RetrainOrder | None:
        """Order a retraining; None when one is open already."""
        row = {"use_case": use_case, "open_for": use_case, "state": OrderState.open, "reason": reason}
        try:
            with self._engine.begin() as connection:
                statement = _ORDERS.insert().values(evidence=dict(evidence), opened_at=_naive(now), **row)
                key = connection.execute(statement).inserted_primary_key
        except IntegrityError:
            return None
        return self.order(key[0]) if key else None

    def start_order(self, order_id: int) -> bool:
        """Take an open order; False when somebody else took it."""
        where = (_ORDERS.c.id == order_id) & (_ORDERS.c.state == OrderState.open)
        with self._engine.begin() as connection:
            return connection.execute(_ORDERS.update().where(where).values(state=OrderState.running)).rowcount == 1

    @contextmanager
    def beating(self, order_id: int) -> Iterator[None]:
        """Give signs of life of an order while its job runs, so that a long job is not taken for a dead one."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.is_set():
                with suppress(SQLAlchemyError):  # a ledger that is busy now may answer the next beat
                    self.beat_order(order_id, datetime.now(UTC))
                stop.wait(ORDER_BEAT_S)

        thread = threading.Thread(target=beat, name="order-beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def beat_order(self, order_id: int, now: datetime) -> None:
        """Say that the job of an order is alive."""
        with self._engine.begin() as connection:
            connection.execute(_ORDERS.update().where(_ORDERS.c.id == order_id).values(beat_at=_naive(now)))

    def expire_orders(self, use_case: str, now: datetime) -> int:
        """Close as failed the orders without a sign of life for ``ORDER_DEAD_S``; return how many there were."""
        before = now - timedelta(seconds=ORDER_DEAD_S)
        seen = sa.func.coalesce(_ORDERS.c.beat_at, _ORDERS.c.opened_at)
        where = (_ORDERS.c.open_for == use_case) & (seen < _naive(before))
        result = f"the job gave no sign of life for {ORDER_DEAD_S:g} s"
        values = {"state": OrderState.failed, "result": result, "closed_at": _naive(now), "open_for": None}
        with self._engine.begin() as connection:
            return connection.execute(_ORDERS.update().where(where).values(**values)).rowcount

    def close_order(self, order_id: int, state: OrderState, result: str, now: datetime) -> None:
        """End an order as done or failed."""
        values = {"state": state, "result": result, "closed_at": _naive(now), "open_for": None}
        with self._engine.begin() as connection:
            connection.execute(_ORDERS.update().where(_ORDERS.c.id == order_id).values(**values))

    def order(self, order_id: int) -> RetrainOrder:
        """One order, or NotFound."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_ORDERS).where(_ORDERS.c.id == order_id)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"There is no retrain order {order_id}.")
        return _order(row)

    def orders(self, use_case: str) -> list[RetrainOrder]:
        """Every order, newest first."""
        query = sa.select(_ORDERS).where(_ORDERS.c.use_case == use_case).order_by(_ORDERS.c.id.desc())
        with self._engine.connect() as connection:
            return [_order(row) for row in connection.execute(query).mappings()]

    # --- small durable state of actors

    def get_state(self, key: str) -> dict[str, Any] | None:
        """What an actor last saved under ``key``."""
        with self._engine.connect() as connection:
            body = connection.execute(sa.select(_STATE.c.body).where(_STATE.c.key == key)).scalar_one_or_none()
        return dict(body) if body is not None else None

    def set_state(self, key: str, body: Mapping[str, Any]) -> None:
        """Save an actor's state; the last writer wins, so a key has one writer."""
        with self._engine.begin() as connection:
            changed = connection.execute(_STATE.update().where(_STATE.c.key == key).values(body=dict(body)))
            if changed.rowcount == 0:
                connection.execute(_STATE.insert().values(key=key, body=dict(body)))

    def first_state(self, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Save ``body`` unless something is saved under ``key``, and return what is: all processes see the same."""
        with suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(_STATE.insert().values(key=key, body=dict(body)))
        return self.get_state(key) or dict(body)


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "busy_timeout=10000", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _naive(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment else None


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None


def _key(row: Mapping[Any, Any]) -> KeyRow:
    created = row["created_at"].replace(tzinfo=UTC)
    values = {key: row[key] for key in ("digest", "tenant")}
    return KeyRow(**values, scopes=tuple(row["scopes"]), expires_at=_aware(row["expires_at"]), created_at=created)


def _release(body: Mapping[str, Any]) -> Release:
    champion = Arm(**body["champion"])
    variants = tuple(Variant(**{**one, "arm": Arm(**one["arm"])}) for one in body.get("variants") or _challenger(body))
    experiment = body.get("experiment") or ":".join(str(arm.version) for arm in (champion, *(v.arm for v in variants)))
    return Release(
        **{key: body[key] for key in ("use_case", "sequence", "actor", "reason")},
        champion=champion,
        variants=variants,
        shadow=Arm(**body["shadow"]) if body["shadow"] else None,
        tenants={tenant: Arm(**arm) for tenant, arm in body.get("tenants", {}).items()},
        frozen=body.get("frozen", False),
        experiment=experiment if variants else "",
        at=datetime.fromisoformat(body["at"]),
    )


def _challenger(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The one variant of a row that was written when a release had room for no other."""
    if not body.get("challenger"):
        return []
    return [{"name": "challenger", "arm": body["challenger"], "share": body["challenger_share"]}]


def _drift_body(report: DriftReport) -> dict[str, Any]:
    return asdict(report) | {"started_at": report.started_at.isoformat(), "ended_at": report.ended_at.isoformat()}


def _drift(body: Mapping[str, Any]) -> DriftReport:
    times = {key: datetime.fromisoformat(body[key]) for key in ("started_at", "ended_at")}
    tuples = {key: tuple(body[key]) for key in ("decisions", "cause")}
    return DriftReport(**{**body, **times, **tuples, "severity": Severity(body["severity"])})


def _order(row: Mapping[Any, Any]) -> RetrainOrder:
    values = {key: row[key] for key in ("id", "use_case", "reason", "evidence", "result")}
    values |= {"opened_at": _aware(row["opened_at"]), "closed_at": _aware(row["closed_at"])}
    return RetrainOrder(**values, state=OrderState(row["state"]))

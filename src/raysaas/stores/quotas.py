"""What replicas tell each other of the use of request limits, and the limits of tenants that have their own, in SQL.

A row of ``quota_use`` is one replica's last report; only that replica writes it. ``beat`` counts its reports: whoever
reads sees by it, with its own clock, whether the replica is alive, so that clocks of nodes need not agree.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from raysaas.stores.ledger import Ledger

_META = sa.MetaData()
_USE = sa.Table(
    "quota_use", _META,
    sa.Column("use_case", sa.String, primary_key=True),
    sa.Column("replica", sa.String, primary_key=True),
    sa.Column("beat", sa.Integer, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)  # fmt: skip
_LIMITS = sa.Table(
    "quota_limits", _META,
    sa.Column("use_case", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, primary_key=True),
    sa.Column("rps", sa.Float, nullable=False),
)  # fmt: skip


class QuotaBook:
    """The quota tables of one installation's ledger, for one use case."""

    def __init__(self, ledger: Ledger, use_case: str) -> None:
        self._engine, self._use_case = ledger.engine, use_case
        ledger.make_tables(_META)

    def tell(self, replica: str, beat: int, body: Mapping[str, Sequence[float]]) -> None:
        """Replace the report of ``replica``."""
        mine = (_USE.c.use_case == self._use_case) & (_USE.c.replica == replica)
        row: dict[str, Any] = {"beat": beat, "body": dict(body)}
        with self._engine.begin() as connection:
            if connection.execute(_USE.update().where(mine).values(**row)).rowcount == 0:
                connection.execute(_USE.insert().values(use_case=self._use_case, replica=replica, **row))

    def told(self) -> dict[str, tuple[int, dict[str, list[float]]]]:
        """Every replica's last report, with its beat."""
        query = sa.select(_USE.c.replica, _USE.c.beat, _USE.c.body).where(_USE.c.use_case == self._use_case)
        with self._engine.connect() as connection:
            return {replica: (beat, body) for replica, beat, body in connection.execute(query)}

    def forget(self, replicas: Sequence[str]) -> None:
        """Delete the reports of replicas that are gone."""
        where = (_USE.c.use_case == self._use_case) & _USE.c.replica.in_(replicas)
        with self._engine.begin() as connection:
            connection.execute(_USE.delete().where(where))

    def forget_tenant(self, tenant: str) -> None:
        """Delete the limit of ``tenant`` and all reports: some name it, and replicas make new ones within seconds."""
        self.set_limit(tenant, None)
        with self._engine.begin() as connection:
            connection.execute(_USE.delete().where(_USE.c.use_case == self._use_case))

    def limits(self) -> dict[str, float]:
        """Requests a second by tenant, of those that have a limit of their own."""
        query = sa.select(_LIMITS.c.tenant, _LIMITS.c.rps).where(_LIMITS.c.use_case == self._use_case)
        with self._engine.connect() as connection:
            return dict(connection.execute(query).tuples().all())

    def set_limit(self, tenant: str, rps: float | None) -> None:
        """Give ``tenant`` a limit of its own; None takes it away."""
        mine = (_LIMITS.c.use_case == self._use_case) & (_LIMITS.c.tenant == tenant)
        with self._engine.begin() as connection:
            connection.execute(_LIMITS.delete().where(mine))
            if rps is not None:
                connection.execute(_LIMITS.insert().values(use_case=self._use_case, tenant=tenant, rps=rps))

"""The online side of a materialisation: rows of a definition's own generation first, then the switch to them."""

from collections.abc import Iterable

import pyarrow as pa

from raysaas.settings import Settings
from raysaas.stores.generations import OnlineService, publish, retire
from raysaas.stores.ledger import Ledger
from raysaas.stores.online import OnlineStore

_KEPT_RELEASES = 10


def online_store(settings: Settings) -> OnlineStore:
    """The store of an installation."""
    return OnlineStore(str(settings.storage.online_url))


def write_all(settings: Settings, service: OnlineService, rows: Iterable[tuple[str, pa.Table]]) -> None:
    """Write the rows of every view of ``service`` (by its full name), then make it the current one.

    What a model of the last ten releases reads stays; older generations go.
    """
    store, places = online_store(settings), {view.name: view.rows for view in service.views}
    for name, table in rows:
        store.write(places[name], table)
    publish(store, service)
    ledger = Ledger(str(settings.storage.ledger_url))
    releases = ledger.releases(service.use_case)[:_KEPT_RELEASES]
    ledger.close()
    retire(store, service.use_case, {arm.features for release in releases for arm in release.arms()})

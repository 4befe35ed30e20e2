"""The quota tables on SQLite and PostgreSQL, and replicas that find each other in them."""

import pytest

from raysaas.serving.gate import Peers
from raysaas.stores.ledger import Ledger
from raysaas.stores.quotas import QuotaBook
from raysaas.tenancy.quota import Use


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request, tmp_path):
    url = f"sqlite:///{tmp_path}/l.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    ledger = Ledger(url)
    yield ledger
    ledger.close()


def test_limits_are_kept_by_use_case_and_go_again(ledger):
    shop, bank = QuotaBook(ledger, "shop"), QuotaBook(ledger, "bank")
    shop.set_limit("acme", 5.0)
    shop.set_limit("acme", 7.5)
    bank.set_limit("acme", 1.0)
    assert (shop.limits(), bank.limits()) == ({"acme": 7.5}, {"acme": 1.0})
    shop.set_limit("acme", None)
    bank.set_limit("acme", None)
    assert (shop.limits(), bank.limits()) == ({}, {})


def test_a_forgotten_tenant_is_named_nowhere(ledger):
    book = QuotaBook(ledger, "shop")
    book.set_limit("acme", 5.0)
    book.tell("r", 1, {"acme": Use(10, 4, 9, 1.5)})
    book.forget_tenant("acme")
    assert (book.limits(), book.told()) == ({}, {})
    book.tell("r", 2, {})
    assert book.told() == {"r": (2, {})}
    book.forget(["r"])


def test_replicas_hear_of_each_other_and_of_a_death_by_silence(ledger):
    one, two, other = (Peers(QuotaBook(ledger, name)) for name in ("shop", "shop", "bank"))
    use = {"acme": Use(10, 4, 9, 1.5)}
    assert other.exchange(use, 0.0) == ({}, 1)
    assert one.exchange(use, 0.0) == ({}, 1)
    assert two.exchange({}, 0.1) == ({one._name: use}, 2)
    assert one.exchange(use, 1.0) == ({two._name: {}}, 2)
    # From here on the second is killed: after 3 s its word does not count, after 15 s nor does it.
    heard = {now: one.exchange(use, now) for now in (2.0, 5.0, 17.0, 100.0)}
    assert heard == {2.0: ({two._name: {}}, 2), 5.0: ({}, 2), 17.0: ({}, 1), 100.0: ({}, 1)}
    assert one.exchange({}, 101.0) == ({}, 1)
    assert QuotaBook(ledger, "shop").told().keys() == {one._name}
    one.leave()
    other.leave()
    assert QuotaBook(ledger, "shop").told() == {}

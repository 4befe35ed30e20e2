"""Keys of one run."""

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve

from raysaas.federation.credentials import Credentials


def test_only_the_owner_reads_and_the_ca_signs_the_server(tmp_path: Path) -> None:
    keys = Credentials.create(tmp_path / "keys", 2)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    ca, server = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (keys.ca, keys.certificate))
    server.verify_directly_issued_by(ca)
    assert server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_each_node_has_its_own_key_that_flower_accepts(tmp_path: Path) -> None:
    keys = Credentials.create(tmp_path / "keys", 3)
    public = set()
    for path in keys.node_keys:
        private = load_ssh_private_key(path.read_bytes(), None)
        published = load_ssh_public_key(path.with_name(f"{path.name}.pub").read_bytes())
        assert uses_nist_ec_curve(published)
        assert public_key_to_bytes(private.public_key()) == public_key_to_bytes(published)
        public.add(public_key_to_bytes(published))
    assert len(public) == 3


def test_keys_are_never_written_over(tmp_path: Path) -> None:
    Credentials.create(tmp_path / "keys", 1)
    with pytest.raises(FileExistsError):
        Credentials.create(tmp_path / "keys", 1)

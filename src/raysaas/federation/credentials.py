"""Keys of one federated run: a throw-away CA, the SuperLink's certificate, one EC key per SuperNode, and two secrets.

Made anew for each run in a folder that only its owner can read, and deleted with it. Flower signs a timestamp with a
node's key, so the keys prove identity only together with TLS.
"""

import datetime as dt
import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

_VALIDITY = dt.timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Paths of one run's keys; a node's public key lies beside its private one as ``.pub``.

    ``control`` is the token of the SuperLink's Control API, ``executor`` the secret of the one process that may run
    ServerApps.
    """

    ca: Path
    certificate: Path
    key: Path
    control: Path
    executor: Path
    node_keys: tuple[Path, ...]

    @classmethod
    def create(cls, folder: Path, num_nodes: int) -> "Credentials":
        """Write new keys into ``folder``, which must not exist yet."""
        folder.mkdir(mode=0o700, parents=True)
        ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca = _certificate("raysaas federation CA", ca_key.public_key(), ca_key, None)
        server = _certificate("localhost", server_key.public_key(), ca_key, ca)
        return cls(
            ca=_write(folder / "ca.crt", ca.public_bytes(Encoding.PEM)),
            certificate=_write(folder / "server.crt", server.public_bytes(Encoding.PEM)),
            key=_write(folder / "server.key", _private(server_key, PrivateFormat.PKCS8)),
            control=_write(folder / "control.token", secrets.token_urlsafe(32).encode()),
            executor=_write(folder / "executor.secret", secrets.token_bytes(32)),
            node_keys=tuple(_node_key(folder / f"node-{index}") for index in range(num_nodes)),
        )


def _node_key(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP384R1())
    _write(path.with_name(f"{path.name}.pub"), key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return _write(path, _private(key, PrivateFormat.OpenSSH))


def _private(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def _write(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
    return path


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    subject: str, public: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None
) -> x509.Certificate:
    is_ca, now = issuer is None, dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer.subject if issuer else _name(subject))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(_usage(is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not is_ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

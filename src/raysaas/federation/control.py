"""A SuperLink whose Control API asks for the run's token: ``python -m raysaas.federation.control TOKEN_FILE ARGS``.

Flower as published has only an enterprise plugin for accounts on the server, but its command line sends whatever access
token it finds, and a SuperLink takes any plugin in its configuration. Should a later Flower not, it does not start.
"""

import hmac
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flwr.cli.constant import ACCESS_TOKEN_STORE_KEY, AUTHN_TYPE_STORE_KEY, REFRESH_TOKEN_STORE_KEY
from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, AuthnType
from flwr.supercore.auth.typing import AccountAuthCredentials, AccountAuthLoginDetails, AccountInfo
from flwr.supercore.credential_store.file_credential_store import FileCredentialStore
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import _parse_superlink_lifespan_config, _run_superlink_http_api

Metadata = Sequence[tuple[str, str | bytes]]


class ControlToken(ControlAuthnPlugin):
    """Whoever has the token is the one account that there is; tokens are neither given out nor renewed."""

    def __init__(self, token: bytes = b"") -> None:
        self._token = token

    def validate_tokens_in_metadata(self, metadata: Metadata) -> tuple[bool, AccountInfo | None]:
        """Whether the call has the token, compared in constant time."""
        given = dict(metadata).get(ACCESS_TOKEN_KEY, b"")
        given = given.encode() if isinstance(given, str) else given
        if not self._token or not hmac.compare_digest(given, self._token):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        """There is no login."""
        return None

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        """There is no login."""
        return None

    def refresh_tokens(self, metadata: Metadata) -> tuple[Metadata | None, AccountInfo | None]:
        """The token lasts as long as the run."""
        return None, None


def write_login(home: Path, address: str, token: Path) -> None:
    """Let ``flwr`` commands with that ``FLWR_HOME`` send the token to the SuperLink at ``address`` (host:port)."""
    store = FileCredentialStore(home / "credentials.yaml")
    store.set(AUTHN_TYPE_STORE_KEY % address, AuthnType.OIDC.encode())
    store.set(ACCESS_TOKEN_STORE_KEY % address, token.read_bytes())
    store.set(REFRESH_TOKEN_STORE_KEY % address, b"none")


def main() -> None:
    """Run the SuperLink with the arguments of ``flower-superlink`` that follow the token's file."""
    token = Path(sys.argv.pop(1)).read_bytes()
    _run_superlink_http_api(replace(_parse_superlink_lifespan_config(), authn_plugin=ControlToken(token)))


if __name__ == "__main__":
    main()

"""Where OpenLineage events go: the transport that the library's own settings name, else a file below ``home``.

``OPENLINEAGE__TRANSPORT__*``, ``OPENLINEAGE_URL`` or an ``openlineage.yml`` choose another transport, as in every
program that uses openlineage-python; ``OPENLINEAGE_DISABLED=true`` switches events off.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import RunEvent

# The library would run git in the current folder, and send the repository's address along.
_FACETS = {"source_code_location": {"disabled": True}}


def events_file(home: str) -> Path:
    """The file of events, one JSON object per line, when no other transport is chosen."""
    return Path(home) / "lineage" / "events.jsonl"


def emit(home: str, event: "RunEvent") -> None:
    """Send an event; whatever goes wrong with the transport is raised."""
    _client(home).emit(event)


@cache
def _client(home: str) -> "OpenLineageClient":
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.file import FileConfig, FileTransport

    config = {"facets": _FACETS}
    path = events_file(home)
    client = OpenLineageClient(transport=FileTransport(FileConfig(str(path), append=True)), config=config)
    if client.config.transport:
        return OpenLineageClient(config=config)
    path.parent.mkdir(parents=True, exist_ok=True)
    return client

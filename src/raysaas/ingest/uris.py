"""URIs of object stores as people write them: with wildcards, with a key, with the options of the store. Pure.

``s3://KEY:SECRET@bucket/2026/*.csv?endpoint_override=host:9000&scheme=http``; keys may also lie where the store's own
SDK looks for them, on every node.
"""

import re
from urllib.parse import urlsplit


def is_uri(path: str) -> bool:
    """Whether ``path`` has a scheme; one letter before the colon is a Windows drive."""
    return len(urlsplit(path).scheme) > 1


def told(uri: str) -> str:
    """A URI as people may see it: without the user and password, and without the options of the store."""
    return re.sub(r"^([^:/]+://)[^/@]*@", r"\1", parted(uri)[0]) if is_uri(uri) else uri


def parted(uri: str) -> tuple[str, str]:
    """A URI's path, where ``?`` is a wildcard, and its options, ``?key=value&...``."""
    at = re.search(r"\?\w+=", uri)
    return (uri[: at.start()], uri[at.start() :]) if at else (uri, "")


def authority(uri: str) -> str:
    """What comes before the path inside the store: the scheme, and the user and password."""
    match = re.match(r"^[^:/]+://(?:[^/@]*@)?", uri)
    return match.group() if match else ""

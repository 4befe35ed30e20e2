"""Older versions that an object store keeps of objects that were deleted: gone too, where the store lets us.

A bucket with versioning answers a deletion with a marker and keeps the bytes. pyarrow cannot see those, boto3 can; it
is no dependency of the platform, so where it is missing the caller is told what was not looked into.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

_AT_ONCE = 1000  # objects that one call of S3 deletes


def drop_versions(folder: str) -> tuple[int, str]:
    """Delete for good what a bucket keeps of objects below ``folder`` (a URI) that were deleted or overwritten.

    Returns how many versions, and a sentence on what may be left; the objects that are there now stay as they are.
    """
    place = urlsplit(folder)
    if place.scheme in ("", "file"):
        return 0, ""
    bucket = f"{place.scheme}://{place.netloc}"
    if place.scheme != "s3":
        return 0, f"{bucket} may keep older versions of deleted objects: it was not looked into"
    if find_spec("boto3") is None:
        return 0, f"{bucket} may keep older versions of deleted objects: install boto3 to have them deleted"
    return _dropped(place.netloc, f"{place.path.strip('/')}/", bucket)


def _dropped(name: str, prefix: str, bucket: str) -> tuple[int, str]:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    count, kept = 0, ""
    try:
        client = boto3.client("s3")
        old = list(_old(client, name, prefix))
        for start in range(0, len(old), _AT_ONCE):
            some = old[start : start + _AT_ONCE]
            told = client.delete_objects(Bucket=name, Delete={"Objects": some, "Quiet": True})
            errors = told.get("Errors", [])
            count += len(some) - len(errors)
            kept = kept or next((str(error.get("Code")) for error in errors), "")
    except (BotoCoreError, ClientError) as error:
        kept = type(error).__name__ if isinstance(error, BotoCoreError) else str(error.response["Error"]["Code"])
    return count, f"{bucket} keeps older versions of deleted objects ({kept}): delete them there" if kept else ""


def _old(client: Any, name: str, prefix: str) -> Iterator[dict[str, str]]:
    """Versions that are not the newest of their object, and every mark of a deletion; none of a plain bucket."""
    for page in client.get_paginator("list_object_versions").paginate(Bucket=name, Prefix=prefix):
        old = [one for one in page.get("Versions", []) if not one["IsLatest"]]
        for one in [*old, *page.get("DeleteMarkers", [])]:
            yield {"Key": one["Key"], "VersionId": one["VersionId"]}

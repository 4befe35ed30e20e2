"""The current bundle to a site: from a folder and from a real local HTTP server."""

import functools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raysaas.errors import CorruptBundle, NotFound, Unavailable
from raysaas.models import bundle
from raysaas_edge.pull import current, has_current, pull


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_bundle_arrives_whole_from_folder_and_url(
    tmp_path: Path, served: tuple[Path, str], make_bundle: Callable[..., str]
) -> None:
    folder, url = served
    digest = make_bundle(folder / "churn")
    for name, source in (("a", str(folder / "churn")), ("b", f"{url}/churn")):
        got = pull(source, tmp_path / name, digest=digest)
        assert bundle.load(got).digest == digest
        assert current(tmp_path / name) == got
    assert not list((tmp_path / "b").glob(".pull-*"))


def test_a_new_version_replaces_the_old_one_and_keeps_it(tmp_path: Path, make_bundle: Callable[..., str]) -> None:
    first, second = make_bundle(tmp_path / "1", 1), make_bundle(tmp_path / "2", 2)
    old, new = pull(str(tmp_path / "1"), tmp_path / "home"), pull(str(tmp_path / "2"), tmp_path / "home")
    assert (bundle.load(old).digest, bundle.load(new).digest) == (first, second)
    assert current(tmp_path / "home") == new


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "encoder.json"])
def test_a_changed_byte_is_refused_and_the_old_bundle_stays(
    tmp_path: Path, served: tuple[Path, str], toy_bundle: Path, name: str
) -> None:
    folder, url = served
    good = pull(str(toy_bundle), tmp_path / "home")
    shutil.copytree(toy_bundle, folder / "bad")
    data = bytearray((folder / "bad" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "bad" / name).write_bytes(data)
    with pytest.raises(CorruptBundle):
        pull(f"{url}/bad", tmp_path / "home")
    assert current(tmp_path / "home") == good


def test_a_manifest_cannot_write_outside_its_folder(tmp_path: Path, served: tuple[Path, str], toy_bundle: Path) -> None:
    folder, url = served
    shutil.copytree(toy_bundle, folder / "evil")
    manifest = json.loads((folder / "evil" / "manifest.json").read_text())
    manifest["files"]["../../escaped"] = {"sha256": "0" * 64, "bytes": 4}
    (folder / "evil" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptBundle, match="escaped"):
        pull(f"{url}/evil", tmp_path / "home")
    assert not list(tmp_path.rglob("escaped"))


def test_an_absent_source_says_which(tmp_path: Path, served: tuple[Path, str]) -> None:
    with pytest.raises(NotFound):
        pull(f"{served[1]}/none", tmp_path / "home")
    with pytest.raises(NotFound):
        pull(str(tmp_path / "none"), tmp_path / "home")
    with pytest.raises(Unavailable, match="cannot be reached"):
        pull("http://127.0.0.1:9/x", tmp_path / "home")
    assert not has_current(tmp_path / "home")
    with pytest.raises(NotFound, match="No bundle was pulled"):
        current(tmp_path / "home")

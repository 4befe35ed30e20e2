"""A disk that is full, read-only, gone or stuck: 503 and no answer without its record; no restart to recover."""

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysaas.stores.journal import tail

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
ROWS = {"instances": [ROW]}


def journaled(app, kind="decisions"):
    return [record["id"] for record in tail(app.spec.storage.journal, "shop", kind, {})[0]]


def refused(reply):
    assert (reply.status, reply.json["type"].rpartition("/")[2]) == (503, "unavailable")
    assert "nothing was kept" in reply.json["detail"]
    assert "/" not in reply.json["detail"], "no path of the server is told"


@pytest.fixture
def file_limit():
    """Set the kernel's limit of a file's length, by which a write ends early as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num: resource.setrlimit(resource.RLIMIT_FSIZE, (num, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_cut_short_is_blanked_and_the_next_one_is_whole(make_app, file_limit):
    app = make_app()
    first = app.client("POST", "/predict", ROWS).json["decisions"][0]["decision_id"]
    (segment,) = Path(app.spec.storage.journal, "shop").glob("decisions-*.open")
    file_limit(segment.stat().st_size + 50)
    for _ in range(3):
        refused(app.client("POST", "/predict", ROWS))
    file_limit(resource.RLIM_INFINITY)
    second = app.client("POST", "/predict", ROWS).json["decisions"][0]["decision_id"]
    assert journaled(app) == [first, second]


def test_a_folder_deleted_under_a_replica_takes_no_answer_with_it(make_app):
    app = make_app()
    app.client("POST", "/predict", ROWS)
    shutil.rmtree(app.spec.storage.journal)
    kept = app.client("POST", "/predict", ROWS).json["decisions"][0]["decision_id"]
    assert journaled(app) == [kept]


def test_a_disk_that_hangs_is_503_within_the_deadline_for_all_and_heals(make_app):
    app = make_app(serve={"journal_deadline_s": 0.1})
    first = app.client("POST", "/predict", ROWS).json["decisions"][0]["decision_id"]
    journal = app.predictor._decisions
    reading, writing = os.pipe()  # in the place of the open segment: a write to a full pipe waits in the kernel
    os.write(writing, b"x" * 65536)  # all that a pipe holds
    file, journal._fd = journal._fd, writing
    started = time.monotonic()
    for _ in range(20):
        refused(app.client("POST", "/predict", ROWS))
    assert time.monotonic() - started < 2, "the first waits for the deadline, nobody after it"
    assert app.client("GET", "/health", key="").status == 200
    told = {"outcomes": [{"decision_id": first, "label": "Yes"}]}
    assert app.client("POST", "/feedback", told).status == 200, "another journal goes on"
    app.predictor.tick()
    os.read(reading, 1 << 20)
    deadline = time.monotonic() + 5
    while journal._bounded._hung and time.monotonic() < deadline:
        time.sleep(0.01)
    journal._fd = file
    second = app.client("POST", "/predict", ROWS).json["decisions"][0]["decision_id"]
    assert journaled(app) == [first, second]
    os.close(reading)


DRILL = """
import subprocess, sys
from pathlib import Path
from raysaas.errors import Unavailable
from raysaas.stores.journal import Journal, tail

disk = Path(sys.argv[1])
journal, kept = Journal(disk, "shop", "decisions", deadline_s=5), []

def attempt(name):
    try:
        journal.append([{"id": f"{name}-{i}", "pad": "x" * 200} for i in range(3)])
    except Unavailable as error:
        return str(error)
    kept.extend(f"{name}-{i}" for i in range(3))

def remount(how):
    journal.rotate()  # a disk with open files cannot be made read-only
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

assert attempt("good") is None
ballast = (disk / "ballast").open("wb", buffering=0)
try:
    while True:
        ballast.write(b"x" * 512)
except OSError:
    pass
full = 0
for i in range(200):  # a page of the segment may have room left
    said = attempt(f"full{i}")
    full += said is not None
    assert said is None or "No space left" in said, said
assert full > 100, full
ballast.close()
(disk / "ballast").unlink()
assert attempt("freed") is None
remount("ro")
assert "Read-only" in attempt("read-only")
journal.rotate_if_due()
remount("rw")
assert attempt("writable") is None
assert [r["id"] for r in tail(disk, "shop", "decisions", {})[0]] == kept
print("kept", len(kept))
"""


def test_a_full_and_a_read_only_file_system_lose_nothing_and_heal(tmp_path):
    probe = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this kernel lets us mount nothing")
    script = f'mount -t tmpfs -o size=128k tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, DRILL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("kept ")

"""Kill drill: is every answered decision in the log exactly once, whoever is killed with -9 meanwhile?

    python benchmarks/drill_kill.py [--kills 20] [--seed 0] [--data-dir DIR] [--only replica,gcs]

A private head serves telco_churn with two replicas. Load generators write down the decision ids of each answer (fsync)
before they send on; a shipper moves journal segments to Iceberg all the time. Replicas, the shipper, Serve's controller
and the head's processes are killed at random moments; after the head's, `raysaas up` starts another. At the end every
id in the load generators' own ledger is looked for in journal and Iceberg ``log.decisions``.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

KINDS = ("replica", "shipper", "controller", "gcs", "raylet")
USE_CASE = "telco_churn"
ROWS = 3  # of a request
LOADERS = 3

LOAD = """
import json, os, sys, time
import httpx
path, head_file, name, rows = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
key = os.environ["RAYSAAS_API_KEY"]
out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
row = json.loads(sys.argv[5])
http, url = None, None
while True:
    try:
        if http is None:
            url = json.load(open(head_file))["url"]
            http = httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=10)
        reply = http.post(f"{url}/{name}/predict", json={"instances": [row] * rows})
        ids = [d["decision_id"] for d in reply.json()["decisions"]] if reply.status_code == 200 else []
        why = "" if ids else reply.text[:150]
        note = {"at": time.time(), "status": reply.status_code, "ids": ids, "why": why}
    except (httpx.HTTPError, OSError, ValueError) as error:
        http, note = None, {"at": time.time(), "status": type(error).__name__, "ids": []}
        time.sleep(0.05)
    os.write(out, json.dumps(note).encode() + b"\\n")
    os.fsync(out)
"""
SHIP = """
import sys, time
from pathlib import Path
from raysaas import entry, lifecycle
settings = entry.saved(Path(sys.argv[1]))
while True:
    lifecycle.ship(settings)
    print("shipped", flush=True)
"""


class Drill:
    """One installation under load, its processes, and what the load generators were answered."""

    def __init__(self, home: Path, data_dir: str) -> None:
        self.home, self.folder = home / "var", home
        ports = ["cluster.port=0", "cluster.dashboard_port=0", "serve.port=0"]
        size = ["serve.min_replicas=2", "serve.segment_age_s=1", "serve.segment_bytes=200000", "model.families=[trees]"]
        self.overrides = [f"home={self.home}", f"data_dir={data_dir}", *ports, *size]
        self.up = self.raysaas("up")
        self.raysaas("run", "pipeline", f"use_case={USE_CASE}")
        self.head = self._head()
        self.key = self.raysaas("key", "create", "--tenant", "drill")["key"]
        self.row = self._example()
        self.shipper: subprocess.Popen[str] | None = None
        self.loaders: list[subprocess.Popen[bytes]] = []

    def raysaas(self, *words: str) -> dict:
        """Run the command line as a person would."""
        own = self.overrides if words[0] != "key" else self.overrides[:1]
        command = [str(Path(sys.executable).parent / "raysaas"), *words, *own, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stderr[-2000:]}")
        sys.stderr.write("".join(line + "\n" for line in done.stderr.splitlines() if "not up" in line))
        return json.loads(done.stdout)

    def _head(self) -> dict:
        return json.loads((self.home / "head.json").read_text())

    def _example(self) -> dict:
        document = httpx.get(f"{self.head['url']}/{USE_CASE}/openapi.json", timeout=30).json()
        call = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
        return next(iter(call["examples"].values()))["value"]["instances"][0]

    def start(self) -> None:
        """Start load and shipper."""
        env = {**os.environ, "RAYSAAS_API_KEY": self.key}
        words = [str(self.home / "head.json"), USE_CASE, str(ROWS), json.dumps(self.row)]
        for i in range(LOADERS):
            command = [sys.executable, "-c", LOAD, str(self.folder / f"answers-{i}.jsonl"), *words]
            self.loaders.append(subprocess.Popen(command, env=env))
        self.ship()

    def ship(self) -> None:
        """Start the shipper; returns when it is at work."""
        settings = str(self.home / "deployed" / f"{USE_CASE}.json")
        log = (self.folder / "shipper.log").open("a")
        self.shipper = subprocess.Popen(
            [sys.executable, "-c", SHIP, settings], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert self.shipper.stdout is not None
        self.shipper.stdout.readline()

    def answers(self) -> Iterator[dict]:
        """What the load generators wrote down."""
        for path in self.folder.glob("answers-*.jsonl"):
            yield from (json.loads(line) for line in path.read_text().splitlines())

    def last_answer(self) -> float:
        """When the newest good answer came."""
        newest = 0.0
        for path in self.folder.glob("answers-*.jsonl"):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 4000))
                lines = file.read().splitlines()[1:-1]
            good = [json.loads(line)["at"] for line in lines if b'"ids": []' not in line]
            newest = max([newest, *good])
        return newest

    # --- victims

    def details(self) -> dict:
        """Serve's own account of its processes."""
        token = (Path.home() / ".ray" / "auth_token").read_text().strip()
        url = f"{self._head()['dashboard_url']}/api/serve/applications/"
        return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).json()

    def victim(self, kind: str) -> int:
        """Process id of one of a kind."""
        if kind == "shipper":
            return self.shipper.pid
        if kind in ("gcs", "raylet"):
            name = {"gcs": "gcs_server", "raylet": "raylet"}[kind]
            return next(p.pid for p in self._ours() if p.name() == name)
        if kind == "controller":  # a renamed process, so its environment cannot be read
            raylet = psutil.Process(self.victim("raylet"))
            return next(p.pid for p in raylet.children(recursive=True) if "::ServeController" in "".join(p.cmdline()))
        details = self.details()
        endpoint = details["applications"][USE_CASE]["deployments"]["Endpoint"]
        return random.choice([r["pid"] for r in endpoint["replicas"] if r["state"] == "RUNNING"])

    def _ours(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RAYSAAS_CLUSTER") == self._head()["id"]:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, kind: str) -> float:
        """Kill one of a kind; seconds until answers come again (and the shipper works again)."""
        pid = self.victim(kind)
        os.kill(pid, signal.SIGKILL)
        killed = time.time()
        if kind == "shipper":
            self.shipper.wait()
            self.ship()
        elif kind in ("gcs", "raylet"):
            self.await_gone(pid)
            if USE_CASE not in self.raysaas("up").get("restored", {}):
                sys.exit("`raysaas up` did not deploy the use case again")
        else:
            self.await_gone(pid)
            self._until(lambda: self.victim(kind) != pid, 60)
        self._until(lambda: self.last_answer() > time.time() - 0.5 > killed, 90)
        return time.time() - killed

    def await_gone(self, pid: int) -> None:
        """Until the killed process is no more."""
        self._until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 20)

    def _until(self, done: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if done():
                    return
            except (httpx.HTTPError, StopIteration, KeyError, IndexError, ValueError, psutil.Error):
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after {timeout_s} s")
            time.sleep(0.1)

    def stop(self) -> None:
        """End load, shipper and head."""
        for process in [*self.loaders, self.shipper]:
            if process:
                process.kill()
                process.wait()

    def verdict(self) -> dict:
        """Ship the rest, and compare."""
        from raysaas import entry, lifecycle
        from raysaas.stores import journal
        from raysaas.stores.tables import Tables

        settings = entry.saved(self.home / "deployed" / f"{USE_CASE}.json")
        lifecycle.ship(settings, wait=True)
        left = [r["id"] for r in journal.pending(settings.storage.journal, USE_CASE, "decisions")]
        kept = Counter([*Tables(settings.storage).read("log.decisions", columns=["id"])["id"].to_pylist(), *left])
        notes = list(self.answers())
        answered = [one for note in notes for one in note["ids"]]
        statuses = Counter(f"{note['status']} {note.get('why', '')}".strip() for note in notes)
        return {
            "answered": len(answered),
            "answered_twice": len(answered) - len(set(answered)),
            "in_log": sum(kept.values()),
            "missing": len(set(answered) - kept.keys()),
            "in_log_twice": sum(1 for num in kept.values() if num > 1),
            "never_answered": len(kept.keys() - set(answered)),
            "left_in_journal": len(left),
            "statuses": dict(statuses),
        }


def main() -> None:
    """Run the drill and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--data-dir", default=os.environ.get("RAYSAAS_DATA_DIR", "../shared/data"))
    given = parser.parse_args()
    random.seed(given.seed)
    kinds = given.only.split(",")
    order = [kinds[i % len(kinds)] for i in range(given.kills)]
    random.shuffle(order)
    with tempfile.TemporaryDirectory(prefix="raysaas-drill-") as folder:
        drill = Drill(Path(folder), str(Path(given.data_dir).resolve()))
        took: dict[str, list[float]] = {kind: [] for kind in kinds}
        try:
            drill.start()
            for number, kind in enumerate(order, 1):
                time.sleep(random.uniform(0.3, 2.0))
                took[kind].append(drill.kill(kind))
                print(f"{number:>3}  {kind:<11} {took[kind][-1]:6.1f} s", flush=True)
            time.sleep(2)
            drill.stop()
            found = drill.verdict()
        finally:
            drill.stop()
            drill.raysaas("down")
    for kind, seconds in took.items():
        if seconds:
            shown = ", ".join(f"{one:.1f}" for one in seconds)
            print(f"{kind:<11} killed {len(seconds)} times, back after (s): {shown}")
    print(json.dumps(found))
    sys.exit(1 if found["missing"] or found["in_log_twice"] or found["answered_twice"] else 0)


if __name__ == "__main__":
    main()

"""``raysaas-edge``: one site's agent.

    raysaas-edge pull --config edge.yaml                       fetch and verify the current bundle
    raysaas-edge predict --config edge.yaml rows.jsonl         answer for rows, keep them here
    raysaas-edge outcome --config edge.yaml outcomes.jsonl     what really happened, queued for the cluster
    raysaas-edge send --config edge.yaml                       send the queue now
    raysaas-edge export --config edge.yaml                     rows with known outcome as Parquet, to train on
    raysaas-edge status --config edge.yaml                     counters
    raysaas-edge run --config edge.yaml                        all of it until stopped, files dropped into HOME/inbox

Answers are JSON on stdout, everything else goes to stderr. Exit codes: 0 done, 65 input or config wrong, 75 try later.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raysaas.errors import InputError, RaysaasError
from raysaas_edge import config as configuration
from raysaas_edge.buffer import Buffer
from raysaas_edge.config import EdgeConfig
from raysaas_edge.predict import Predictor
from raysaas_edge.pull import current, has_current, pull
from raysaas_edge.uplink import Backoff, Uplink

log = logging.getLogger("raysaas_edge")


class Agent:
    """One site: its config, its buffer and, once pulled, its predictor."""

    def __init__(self, config: EdgeConfig) -> None:
        self.config = config
        self.bundles, self.rows = config.home / "bundles", config.home / "rows.parquet"
        self.buffer = Buffer(config.home / "buffer.db", config.max_rows)
        self._predictor: Predictor | None = None

    def pull(self) -> Path:
        """Fetch the current bundle; the one that answers changes only when this succeeds."""
        key = self.config.key if self.config.key_file else None
        folder = pull(self.config.bundle, self.bundles, digest=self.config.digest, key=key)
        if self._predictor is None or self._predictor.bundle.path != folder:
            self._predictor = Predictor(folder, self.config.digest)
        return folder

    @property
    def predictor(self) -> Predictor:
        """The predictor of the current bundle."""
        if self._predictor is None:
            self._predictor = Predictor(current(self.bundles), self.config.digest)
        return self._predictor

    @property
    def ready(self) -> bool:
        """Whether a bundle was pulled, now or in an earlier life."""
        return self._predictor is not None or has_current(self.bundles)

    def predict(self, instances: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answer for rows; decisions are in the buffer before they are returned."""
        ignore = self.config.extra_fields == "ignore"
        decisions = self.predictor.predict(instances, extra="ignore" if ignore else "refuse")
        self.buffer.add_decisions(decisions)
        return [
            {"decision_id": d.id, "score": d.score, "label": d.label, "model_version": d.version[:16]}
            for d in decisions
        ]

    def outcome(self, outcomes: Sequence[Mapping[str, Any]]) -> int:
        """Queue outcomes ``{"decision_id", "label", "observed_at"}``; returns how many were given."""
        self.buffer.add_outcomes([_outcome(each, number) for number, each in enumerate(outcomes, start=1)])
        return len(outcomes)

    def send(self) -> int:
        """Send the queue; returns how many outcomes the cluster confirmed."""
        if self.config.cluster is None:
            raise InputError("cluster is not set in edge.yaml: give the URL in front of the use case's endpoint.")
        # Few attempts: the queue waits, and the loop comes back.
        backoff = Backoff(first_s=0.2, attempts=3)
        uplink = Uplink(self.config.cluster, self.config.use_case, self.config.key, self.config.site, backoff=backoff)
        try:
            return uplink.flush(self.buffer)
        finally:
            uplink.close()

    def export(self) -> int:
        """Write rows with known outcome for federated training; returns their number."""
        return self.buffer.export(self.rows, self.predictor.bundle.encoder)


def _outcome(item: Mapping[str, Any], number: int) -> tuple[str, str, datetime]:
    try:
        observed = datetime.fromisoformat(str(item["observed_at"])) if item.get("observed_at") else datetime.now(UTC)
        aware = observed if observed.tzinfo else observed.replace(tzinfo=UTC)
        return str(item["decision_id"]), str(item["label"]), aware
    except (KeyError, ValueError) as error:
        message = f"Outcome {number} is wrong: {error}; expected decision_id, label and an ISO observed_at."
        raise InputError(message) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON Lines file; InputError names file and line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    parsed = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(item, dict):
            raise InputError(f"{path}, line {number} is not an object.")
        parsed.append(item)
    return parsed


def _run(agent: Agent, _: Path | None) -> dict[str, Any]:
    from raysaas_edge.loop import run

    return {"cycles": run(agent)}


COMMANDS: dict[str, Callable[[Agent, Path], dict[str, Any]]] = {
    "pull": lambda agent, _: {"bundle": str(agent.pull()), "digest": agent.predictor.bundle.digest},
    "predict": lambda agent, file: {"decisions": agent.predict(read_lines(file))},
    "outcome": lambda agent, file: {"queued": agent.outcome(read_lines(file))},
    "send": lambda agent, _: {"sent": agent.send()} | agent.buffer.counts(),
    "export": lambda agent, _: {"rows": agent.export(), "file": str(agent.rows)},
    "status": lambda agent, _: {"site": agent.config.site} | agent.buffer.counts(),
    "run": _run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="raysaas-edge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("file", nargs="?", type=Path, help="JSON Lines, for predict and outcome")
    parser.add_argument("--config", type=Path, required=True, help="the site's edge.yaml")
    given = parser.parse_intermixed_args(arguments)
    if given.command in {"predict", "outcome"} and given.file is None:
        parser.error(f"{given.command} needs a JSON Lines file")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        agent = Agent(configuration.read(given.config))
        sys.stdout.write(json.dumps(COMMANDS[given.command](agent, given.file)) + "\n")
    except RaysaasError as error:
        sys.stderr.write(f"raysaas-edge: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A real site joins a real SuperLink: the agent starts its SuperNode, brings it back, and stops it."""

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from raysaas.federation.credentials import Credentials
from raysaas.federation.superlink import CONNECTION, Federation, free_ports
from raysaas.models import bundle, network, steps
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Family, Task
from raysaas_edge.agent import Agent
from raysaas_edge.config import EdgeConfig, SuperNode
from raysaas_edge.loop import SuperNodeProcess


def _bundle(out: Path) -> Path:
    import torch

    columns, kinds = {"usage": np.linspace(-1, 1, 40)}, {"usage": "number"}
    encoder = Encoder.fit(columns, kinds)
    module = network.build(encoder.width, 1, [4], 0.0, seed=0)
    scores = steps.predict(module, torch.from_numpy(encoder.dense(columns)), task=Task.binary)
    profile = Profile.fit(columns, kinds, scores)
    bundle.save(
        out, encoder=encoder, task=Task.binary, labels=["No", "Yes"], family=Family.network, profile=profile,
        network=module,
    )  # fmt: skip
    return out


def _wait(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, f"{what} did not happen within 60 s"
        time.sleep(0.1)


def test_a_site_joins_comes_back_and_leaves(tmp_path: Path) -> None:
    home = tmp_path / "cluster"
    home.mkdir(mode=0o700)
    with Federation(home, tmp_path / "logs", {"site-0": tmp_path / "unused.parquet"}) as federation:
        key = Credentials.create(tmp_path / "site-keys", 1).node_keys[0]
        federation.flwr("supernode", "register", f"{key}.pub", CONNECTION)
        (port,) = free_ports(1)
        node = SuperNode(
            superlink=federation.address,
            root_certificates=str(federation.credentials.ca),
            private_key=str(key),
            port=port,
        )
        config = EdgeConfig(
            site="store-17", use_case="toy", home=tmp_path / "edge", bundle=str(_bundle(tmp_path / "b")), supernode=node
        )
        agent = Agent(config)
        agent.pull()
        supernode, log = SuperNodeProcess(agent), config.home / "flower" / "supernode.log"
        supernode.keep()
        assert supernode.pid is None, "there is nothing to train on yet"
        (decision,) = agent.predict([{"usage": 0.5}])
        agent.buffer.add_outcomes([(decision["decision_id"], "Yes", datetime.now(UTC))])
        try:
            supernode.keep()
            first = supernode.pid
            assert first is not None
            _wait(lambda: "SuperNode ID" in log.read_text(), "joining")
            supernode.keep()
            assert supernode.pid == first
            os.kill(first, signal.SIGTERM)
            _wait(lambda: supernode.pid is None, "ending")
            supernode.keep()
            _wait(lambda: log.read_text().count("SuperNode ID") == 2, "joining again")
        finally:
            supernode.stop()
        assert supernode.pid is None
        federation.check(min_nodes=1)

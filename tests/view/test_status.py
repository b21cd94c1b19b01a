"""`kdplan status`: states in the store, the table, and the form for scripts."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from kdplan.runtime.store import Artifact, Store
from kdplan.view.status import print_status, status, to_json
from tests.view.samples import sample


def test_status(tmp_path: Path) -> None:
    store, planned = Store(tmp_path), sample(1)[1]
    with store.begin("big@train-key") as running:
        running.commit({Artifact.weights_name(): b"w", "summary.json": {}})
    with store.begin("alone-key") as running:
        running.log({"step": 300, "epoch": 3, "loss": 0.25, "val": {"top1": 0.5}})
        running.save_checkpoint(300, {}, {})
        running.log({"step": 310, "epoch": 3, "loss": 0.25})
    with store.begin("kd-key"):
        states = {s.name: s for s in status(planned, store)}
        assert {n: s.state for n, s in states.items()} == {
            "big@train": "done",
            "kd": "running",
            "alone": "interrupted",
            "sweep[weight=0]": "missing",
        }
        assert (states["alone"].step, states["alone"].seen) == (300, 310)
        assert states["alone"].metrics == {"loss": 0.25, "top1": 0.5}
        assert "process" in states["kd"].who and states["big@train"].bytes > 0
        json.dumps(to_json(list(states.values())))
        console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        print_status(planned, store, console)
        assert "300, seen 310" in console.export_text()
    (store.phase_folder("big@train-key") / Artifact.weights_name()).unlink()
    assert status(planned, store)[0].state == "corrupt"

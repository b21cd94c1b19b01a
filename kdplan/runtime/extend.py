"""Training a finished phase further: its last state becomes the first checkpoint of the longer phase."""

from __future__ import annotations

from kdplan.runtime.checkpoint import TENSORS
from kdplan.runtime.snapshots import snapshot_file
from kdplan.runtime.store import Artifact, Work
from kdplan.runtime.store.artifact import FINAL, FINAL_STATE
from kdplan.runtime.store.atomic import make_folder, write


def adopt(work: Work, artifact: Artifact) -> None:
    """Puts the state of a finished phase where a resumed run of a longer one looks for it.

    Everything is checked against the artifact's hashes. A phase that has a checkpoint of its own keeps that.

    Raises
    ------
    StoreCorrupt
        If the artifact is damaged.
    """
    if work.latest_checkpoint() is not None:
        return
    state = artifact.json(FINAL_STATE)
    folder = work.snapshots
    make_folder(folder)
    kept = dict(state["snapshots"]["kept"])
    if state["snapshots"]["best"] is not None:
        kept["best"] = state["snapshots"]["best"]["epoch"]
    for snapshot, epoch in kept.items():
        for slot in range(state["networks"]):
            write(folder / snapshot_file(epoch, slot), artifact.weights(slot, snapshot))
    write(work.metrics_file, artifact.read("metrics.jsonl"))
    work.save_checkpoint(state["step"], {TENSORS: artifact.read(FINAL)}, state)

"""What a run leaves, read from Python: for plots and analyses of one's own.

kdplan run examples/01_first_plan/plan.kd
kdplan export examples/01_first_plan/plan.kd tiny -o tiny
python examples/04_reading_artifacts/read.py examples/01_first_plan/plan.kd --export tiny
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import safetensors.torch
import torch

from kdplan.runtime.export import load
from kdplan.runtime.store import Store


def show_phase(store: Store, name: str, key: str) -> None:
    """One phase: its results, how its loss went, its weights."""
    artifact = store.artifact(key)  # files are compared with their hashes as they are read
    losses = [line["loss"] for line in artifact.metrics()]
    weights = safetensors.torch.load(artifact.weights())
    count = sum(t.numel() for n, t in weights.items() if t.is_floating_point() and "running" not in n)
    print(f"{name}  ({key[:8]})")
    print(f"  loss by epoch: {', '.join(f'{x:.3f}' for x in losses)}")
    print(f"  {artifact.summary['steps']} steps in {artifact.summary['seconds']:.1f} s; {count:,} parameters")
    largest = max(weights, key=lambda n: weights[n].numel())
    print(f"  snapshots: {', '.join(artifact.snapshots())}; largest tensor: {largest}")


def show_export(folder: Path) -> None:
    """Load an exported network again and run it on one blank image."""
    about = json.loads((folder / "model.json").read_text())
    net = load(folder)
    with torch.no_grad():
        scores = net(torch.zeros(1, *about["input_shape"])).softmax(1)[0]
    print(f"{folder}: {about['architecture']['factory']}, classes {', '.join(about['classes'])}")
    print(f"  a blank image is most likely a {about['classes'][int(scores.argmax())]}, it says ({scores.max():.0%})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--store", type=Path, default=Path(".kdplan"))
    parser.add_argument("--export", type=Path)
    given = parser.parse_args()
    store = Store(given.store)
    for name, key in store.last_keys(given.plan).items():  # the phases as the plan was last run
        show_phase(store, name, key)
    if given.export:
        show_export(given.export)


if __name__ == "__main__":
    main()

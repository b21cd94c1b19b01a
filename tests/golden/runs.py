"""Final losses and weights of five short runs, one for each construct: what a change of structure must leave alone.

`python -m tests.golden.runs` writes `runs.json` anew, for this processor and this torch. Do so only where a change of
the numbers is meant, and say it in the changelog.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from kdplan.cli import main as kdplan

FOLDER = Path(__file__).parent
PLANS = sorted((FOLDER / "plans").glob("*.kd"))
FILE = FOLDER / "runs.json"


def processor() -> str:
    """Where bits are equal: sums are ordered by the vector unit and by the libraries' own choices for a model."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(models or ['unknown'])[0]}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def run(plan: Path, store: Path) -> dict[str, Any]:
    """Each phase's last loss, the mean size of its weights, and one digest of their bits; measured numbers."""
    code = kdplan(["run", str(plan), "--store", str(store), "--csv", str(store / "csv"), "--device", "cpu"])
    assert code == 0, f"{plan}: exit code {code}"
    phases = sorted((_phase(folder) for folder in (store / "phases").iterdir()), key=lambda p: str(p["digest"]))
    tables = {t.stem: t.read_text(encoding="utf-8").splitlines() for t in sorted((store / "csv").rglob("*.csv"))}
    return {"phases": phases, "tables": tables}


def _phase(folder: Path) -> dict[str, Any]:
    last = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    digest, sizes = hashlib.sha256(), []
    for file in sorted(folder.glob("weights-*.safetensors")):
        for name, tensor in sorted(load_file(file).items()):
            digest.update(f"{file.name}/{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
            sizes.append(tensor.double().abs().mean().item())
    return {"loss": last["loss"], "size": sum(sizes) / len(sizes), "digest": digest.hexdigest()[:16]}


def main() -> None:
    every: dict[str, Any] = {"processor": processor()}
    for plan in PLANS:
        with tempfile.TemporaryDirectory() as store:
            every[plan.stem] = run(plan, Path(store))
    FILE.write_text(json.dumps(every, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{FILE}: {len(PLANS)} runs", file=sys.stderr)


if __name__ == "__main__":
    main()

"""The keys of every phase of every plan in the repository, apart from where its data lie.

`python -m tests.golden.phase_keys` writes `phase_keys.json` anew: do so only together with a raised format or revision
number, and a line in the changelog that says whose phases are trained again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from kdplan.compile import compile_plan, compile_source
from kdplan.diagnostics.span import Source
from tests.data.folders import write_folders

ROOT = Path(__file__).parent.parent.parent
PLANS = sorted(p.relative_to(ROOT) for folder in ("plans", "examples") for p in (ROOT / folder).rglob("*.kd"))
FILE = Path(__file__).with_suffix(".json")


def phase_keys(plan: Path, root: Path | None) -> dict[str, str]:
    """Phase → key. A data set's fingerprint is of the files found here, so its name stands for it."""
    path = ROOT / plan
    found = compile_source(Source(str(path), path.read_text(encoding="utf-8")), path.parent, root).plan
    for data in found.data.values():
        data.fingerprint = data.source.name
    return {name: key.key for name, key in compile_plan(found).keys.items()}


def shown(keys: dict[str, str]) -> dict[str, object]:
    """What is committed: of few phases each key; of many the number of them and one digest of all keys."""
    if len(keys) <= 24:
        return {name: key[:16] for name, key in sorted(keys.items())}
    return {"phases": len(keys), "digest": hashlib.sha256("".join(sorted(keys.values())).encode()).hexdigest()[:16]}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = write_folders(Path(folder), Path(os.environ["KDPLAN_DATA"]))
        every = {str(plan): shown(phase_keys(plan, root)) for plan in PLANS}
    FILE.write_text(json.dumps(every, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{FILE}: {len(every)} plans", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Every plan of the repository: shipped ones, examples of the reference, and those of the error table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kdplan.diagnostics.report import table
from kdplan.view.examples import examples
from tests.fuzz.values import PLAN

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Original:
    """A plan, and the folder whose files it names; None for a folder of tests."""

    name: str
    text: str
    folder: Path | None = None


@cache
def originals() -> list[Original]:
    """All of them; each text once."""
    files = [*sorted((ROOT / "plans").rglob("*.kd")), *sorted((ROOT / "examples").rglob("*.kd"))]
    plans = [Original(str(f.relative_to(ROOT)), f.read_text(encoding="utf-8"), f.parent) for f in files]
    plans += [Original(e.of, e.plan) for e in examples()]
    for code, row in table().items():
        plans += [Original(code, bad["plan"]) for bad in row.get("bad", []) if len(bad["plan"]) < 20_000]
    plans.append(Original("values", PLAN))
    return list({p.text: p for p in plans}.values())

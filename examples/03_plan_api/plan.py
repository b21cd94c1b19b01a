"""A plan written in Python: as many students as one likes, from one teacher.

python examples/03_plan_api/plan.py                 # prints the plan as text, and how many phases it has
python examples/03_plan_api/plan.py --run --epochs 3 --store .kdplan
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kdplan.api import PlanBuilder, fn, item, labels


def make(epochs: int) -> PlanBuilder:
    """One teacher, a student for each width, one table."""
    p = PlanBuilder()
    digits = p.data("digits")
    quick = p.recipe("quick", optimizer=item("adamw", lr=3e-3), schedule=item("cosine"), epochs=epochs, batch=64)
    big = p.teacher("big", "digits_net", width=12)
    train = p.phase("train", of=big, on=digits, with_=quick, loss=fn.cross_entropy(big.logits, labels))
    students = []
    for width in (2, 4):
        small = p.student(f"small{width}", "digits_net", width=width)
        loss = fn.kd(small.logits, (big @ train).logits, temperature=4)
        students.append(small @ p.phase(f"imitate{width}", of=small, on=digits, with_=quick, loss=loss))
    p.measure("table", of=[big @ train, *students], on=digits.test, metrics=["top1", "parameters"])
    return p


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--store", type=Path, default=Path(".kdplan"))
    given = parser.parse_args()
    builder = make(given.epochs)
    if not given.run:
        print(builder.text())
        print(f"# {len(builder.build().phases)} phases")
        return
    results = builder.run(given.store)
    trained, cached = results.run.trained, results.run.cached
    print(f"trained {', '.join(trained) or 'nothing'}; there already: {', '.join(cached) or 'nothing'}")
    print(results["table"])


if __name__ == "__main__":
    main()

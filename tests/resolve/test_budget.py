"""Short plans that mean too much end in an error within two seconds of a processor, and a flag raises each limit."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.compile import compile_source
from kdplan.diagnostics.report import Diagnostic, PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir.limits import DEFAULT, Limits
from kdplan.resolve import budget
from tests.passes.plans import CE, HEAD

SMALL = "student small = digits_net(width = 4)\n"
ALONE = HEAD + SMALL + f"phase alone of small on digits with quick {{ {CE} }}\n"
LINE = """generations line of digits_net(width = 4) on digits with quick {
  count = COUNT
  patriarch { loss = cross_entropy(self.logits, labels) }
  generation { loss = kl(self.logits, previous.logits) }
}
"""
BRANCHES = """branches one of digits_net(width = 4) from layer2 on digits with quick {
  count = 100000000
  loss  = sum(cross_entropy(b.logits, labels) for b in branch)
}
"""


def doubled(first: str, step: str = "a{0} + a{0}", kind: str = "def", count: int = 60) -> str:
    """Definitions that each read the one before twice."""
    steps = "".join(f"{kind} a{i} = {step.format(i - 1)}\n" for i in range(1, count))
    return f"{kind} a0 = {first}\n{steps}"


def rate(value: str) -> str:
    """A plan with this learning rate."""
    return ALONE.replace("lr = 0.1", f"lr = {value}")


def loss(value: str, before: str = "") -> str:
    """A plan with this summand in its loss."""
    return ALONE.replace("loss = ", f"{before}loss = {value} + ")


def errors(text: str, limits: Limits = DEFAULT) -> list[Diagnostic]:
    """The errors of a plan, which are there soon."""
    start = time.process_time()
    try:
        compile_source(Source("plan.kd", text), Path("."), limits=limits)
    except PlanError as problem:
        return problem.diagnostics
    finally:
        assert time.process_time() - start < 2
    return []


AXES = "".join(f"param {name} in 1..1000\n" for name in "abc")


@pytest.mark.parametrize(
    ("text", "code", "at"),
    [
        (HEAD + LINE.replace("COUNT", "100000000"), "KD1102", "100000000"),
        (HEAD + LINE.replace("COUNT", "100000"), "KD1101", "line"),
        ("param a in 1..1000000000\n" + ALONE, "KD1102", "1..1000000000"),
        (AXES + rate("a * b * c"), "KD1101", "param b in 1..1000"),
        (HEAD + "student t[i in 0..10000000] = digits_net(width = i)", "KD1102", "0..10000000"),
        (HEAD + "student t[i in 0..99, j in 0..99] = digits_net(width = i + j)", "KD1101", "t"),
        (HEAD + BRANCHES, "KD0243", "100000000"),
        (HEAD + "student s = cifar_densenet(blocks = [6, 1000000000])", "KD0243", "1000000000"),
        (HEAD + "student s = mlp(inputs = 64, hidden = [8, -1])", "KD0243", "-1"),
        (doubled("1") + rate("a59"), "KD1102", None),
        (doubled("1", kind="param") + rate("a59"), "KD1102", None),
        (loss("a59", doubled("mean(small.logits)")), "KD1108", None),
        (loss("a59", doubled("mean(small.logits)", "small(inputs * a{0} * a{0}).logits")), "KD1108", None),
        (doubled("[1, 2]", "[a{0}[*], a{0}[*]]") + rate("a59"), "KD1102", None),
        (doubled("[1, 2]", "[a{0}[*], a{0}[*]]") + ALONE.replace("= 64", "= a59"), "KD1102", None),
        ("def f0(x) = x\n" + "".join(f"def f{i}(x) = f{i - 1}(x + x)\n" for i in range(1, 60))
         + loss("f59(mean(small.logits))"), "KD1108", None),
        (rate("10 ** 100000000"), "KD1103", "10 ** 100000000"),
        (rate("2 ** 2 ** 2 ** 2 ** 2 ** 2"), "KD1103", "2 ** 2 ** 2 ** 2 ** 2"),
        (doubled("1000000", "a{0} * a{0}", count=12) + rate("a11"), "KD1103", "a5 * a5"),
        (loss("sum(mean(small.logits) * i for i in 1..1000000000000)"), "KD1102", "1..1000000000000"),
        (rate("sum(i * j * k for i in 1..10000 for j in 1..10000 for k in 1..10000)"), "KD1102", None),
        (ALONE.replace("epochs = 1", "epochs = 100000000  keep_epochs = 1..100000000"), "KD1102", "1..100000000"),
        (ALONE.replace("epochs = 1", "epochs = 10  schedule = cosine(cycles = 10 ** 9)"), "KD1102",
         "cosine(cycles = 10 ** 9)"),
        (doubled("1", "a{0} + 1", count=5000) + rate("a4999"), "KD1106", None),
        (loss("mean(small.logits)" + " / 2" * 3000), "KD1106", None),
        (loss("sum(mean(small.logits) * i for i in 1..3000)"), "KD1108", None),
    ],
)  # fmt: skip
def test_more_than_the_limits(text: str, code: str, at: str | None) -> None:
    (problem,) = errors(text)
    assert problem.code == code and problem.span is not None
    assert at in (None, problem.span.text)


def test_a_flag_raises_each_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.kd"
    plans = {
        "instances": "param a in 1..6000\n" + rate("a"),
        "elements": rate("sum(i for i in 1..60000)"),
        "nodes": loss("sum(mean(small.logits) * i for i in 1..2000)"),
        "digits": rate("10 ** 400 / 10 ** 400"),
    }
    for name, text in plans.items():
        file.write_text(text)
        assert main(["plan", "--no-cost", str(file)]) == 2
        shown = capsys.readouterr().err
        more = shown.partition(f"--limit {name}=")[2].partition("`")[0]
        assert main(["plan", "--no-cost", str(file), "--limit", f"{name}={more if more.isdigit() else 1000}"]) == 0
        capsys.readouterr()


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = iter(range(0, 10**12, 10**8))
    monkeypatch.setattr(budget, "_resident", lambda: next(needed))
    (problem,) = errors(rate("sum(i * i for i in 1..10000)"))
    assert problem.code == "KD1104" and problem.help is not None and "--limit memory=1600" in problem.help


def test_seconds() -> None:
    limits = replace(DEFAULT, elements=10**7, seconds=0.2)
    (problem,) = errors(rate("sum(i * j for i in 1..10000 for j in 1..10000)"), limits)
    assert problem.code == "KD1105" and problem.help is not None and "--limit seconds=4" in problem.help


def test_what_is_written_out_counts_for_nothing() -> None:
    limits = Limits(instances=1, elements=1)
    one = "phase p{0} of s{0} on digits with quick {{ loss = cross_entropy(s{0}.logits, labels) }}\n"
    text = HEAD + "".join(f"student s{i} = digits_net(width = {i})\n" + one.format(i) for i in range(1, 200))
    assert errors(text, limits) == []


def test_data_and_networks_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import time, numpy as np\n\ndef few():\n    end = time.process_time() + 0.5\n"
        "    while time.process_time() < end: pass\n"
        "    return {'train': (np.zeros((10, 1, 8, 8), np.uint8), np.arange(10))}\n"
    )
    text = 'use "own.py" as my\ndata own = my.few()\n' + ALONE
    compile_source(Source("plan.kd", text), tmp_path, limits=replace(DEFAULT, seconds=0.1))


def test_a_sweep_below_the_limits_compiles() -> None:
    assert errors("param a in 1..1000\n" + rate("a")) == []


def test_a_measure_of_a_large_sweep_is_soon_there() -> None:
    """Its rows are not compared with one another, each with all."""
    sweep = ALONE.replace(CE, f"{CE} + many * 0").replace("student", "param many in 1..3000\nstudent", 1)
    assert errors(sweep + "measure m of small@alone on digits.test { nothing }") != []

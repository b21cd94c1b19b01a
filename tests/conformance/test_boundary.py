"""Whatever a user's own code raises is one error: a code, the plan's line, the user's line, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.cli import main
from tests.conformance.user_files import DATA, LOSS, NETWORK, Outcome, command, constructor, line_of, network

Capture = pytest.CaptureFixture[str]
LONG = "raise ValueError('First sentence. ' + chr(10).join('line %d' % i for i in range(100)))"


def refused(outcome: Outcome, code: str, reason: str, at: str | None) -> None:
    """One error in few lines, without a traceback, at a line of the plan and of the user's file."""
    assert outcome.exit_code == 2, outcome.output
    assert f"error[{code}]" in outcome.output and reason in outcome.output, outcome.output
    assert "Traceback" not in outcome.output and len(outcome.output.splitlines()) < 20
    assert "plan.kd:" in outcome.output
    if at is not None:
        assert f"mine.py:{at}" in outcome.output, outcome.output


FORWARD = {
    "name": ("f = undefined(f)", "undefined", "NameError: name 'undefined' is not defined"),
    "type": ("f = f + 'a'", "'a'", "TypeError: unsupported operand"),
    "key": ("f = {}['nope']", "nope", "KeyError: there is no key 'nope'"),
    "zero": ("f = f / (1 // 0)", "1 // 0", "ZeroDivisionError"),
    "import": ("import nothing_there", "nothing_there", "No module named 'nothing_there'"),
    "exit": ("sys.exit('bye')", "sys.exit", "ends the process with `sys.exit`"),
    "empty": ("raise ValueError()", "raise", "ValueError without a message"),
    "long": (LONG, "raise", "ValueError: First sentence (mine"),
    "base": ("raise BaseException('no Exception')", "raise", "BaseException: no Exception"),
    "recursion": ("return self.forward(x)", "", "calls itself without an end"),
    "attribute": ("f = self.nothing(f)", "self.nothing", "has no attribute 'nothing'"),
    "assert": ("assert x.shape[1] == 99", "assert", "AssertionError without a message"),
}
DEPENDENT = {
    "item": ("f = f * f.mean().item()", "item", "torch.where"),
    "tolist": ("f = f * f.mean(0).tolist()[0]", "tolist", "torch.where"),
    "float": ("f = f * float(f.mean())", "float", "torch.where"),
    "if": ("if f.mean() > 1:\n    f = f * 2", "if f", "torch.where"),
    "mask": ("f = f + f[f > 0].mean()", "f > 0", "(x * mask).sum()"),
    "nonzero": ("f = f + f[:, 0].nonzero().shape[0]", "nonzero", "(x * mask).sum()"),
    "unique": ("f = f + f.argmax(1).unique().shape[0]", "unique", "(x * mask).sum()"),
    "range": ("for i in range(int(f.argmax(1).max())):\n    f = f + 1", "range", "torch.where"),
    "format": ("f = f + len(f'{f.mean():.2f}')", "len", "Format shapes only"),
    "numpy": ("f = f * float(f.detach().numpy().mean())", "numpy", "functions of torch"),
}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", FORWARD)
def test_forward(case: str, tmp_path: Path, capsys: Capture) -> None:
    line, part, reason = FORWARD[case]
    code = network(line)
    refused(command(tmp_path, code, NETWORK, "check", capsys), "KD0508", reason, str(line_of(code, part)))


@pytest.mark.parametrize("case", DEPENDENT)
def test_forward_that_reads_numbers_is_called_whole(case: str, tmp_path: Path, capsys: Capture) -> None:
    """A network may do so: its module is called whole, where Python reads real numbers."""
    code = network(DEPENDENT[case][0])
    for verb in ("check", "run"):
        outcome = command(tmp_path, code, NETWORK, verb, capsys)
        assert outcome.exit_code == 0 and "KD0540" in outcome.output, outcome.output


SHAPES = {
    "mask": ("f = f[f.mean(1) > 0]", "f[f"),
    "nonzero": ("f = f[f[:, 0].nonzero()[:, 0]]", "nonzero"),
    "columns": ("f = f[:, f.mean(0) > 0]", "f[:"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_forward_whose_shape_depends_on_values(case: str, tmp_path: Path, capsys: Capture) -> None:
    line, part = SHAPES[case]
    code = network(line)
    outcome = command(tmp_path, code, NETWORK, "check", capsys)
    refused(outcome, "KD0508", "(x * mask).sum()", str(line_of(code, part)))
    assert "fit the data" not in outcome.output


@pytest.mark.parametrize("case", ["name", "type", "key", "zero", "import", "exit", "empty", "long", "base"])
def test_constructor(case: str, tmp_path: Path, capsys: Capture) -> None:
    line, part, reason = FORWARD[case]
    code = constructor(f"f = x = 0; {line}")
    refused(command(tmp_path, code, NETWORK, "check", capsys), "KD0507", reason.partition(" '")[0],
            str(line_of(code, part)))  # fmt: skip


@pytest.mark.parametrize("case", ["name", "type", "key", "zero", "import", "exit", "empty", "long", "base"])
def test_loss(case: str, tmp_path: Path, capsys: Capture) -> None:
    line, part, reason = FORWARD[case]
    code = f"def f(z):\n    f = z\n    {line}\n    return f.mean()\n"
    refused(command(tmp_path, code, LOSS, "check", capsys), "KD0506", reason, str(line_of(code, part)))


@pytest.mark.parametrize("case", DEPENDENT)
def test_loss_that_depends_on_values(case: str, tmp_path: Path, capsys: Capture) -> None:
    line, part, help = DEPENDENT[case]
    code = "def f(z):\n    f = z\n" + "".join(f"    {part}\n" for part in line.splitlines()) + "    return f.mean()\n"
    refused(command(tmp_path, code, LOSS, "check", capsys), "KD0506", help, str(line_of(code, part)))


FILES = {
    "syntax": ("def Net(:\ndef f(:\n", "SyntaxError", "def Net("),
    "indent": ("def Net():\n    x = 1\n  return x\n", "unindent", "return x"),
    "import": ("import nothing_there\n", "nothing_there", "import nothing"),
    "exit": ("sys.exit()\n", "ends the process", "sys.exit"),
    "raises": ("x = {}['a']\n", "there is no key 'a'", "x ="),
}


@pytest.mark.parametrize("plan", ["network", "loss"])
@pytest.mark.parametrize("case", FILES)
def test_file(case: str, plan: str, tmp_path: Path, capsys: Capture) -> None:
    code, reason, part = FILES[case]
    text, number = (NETWORK, "KD0507") if plan == "network" else (LOSS, "KD0512")
    refused(command(tmp_path, code, text, "check", capsys), number, reason, str(line_of(code, part)))


REFUSED = {
    "lazy": (constructor("self.fc = nn.LazyLinear(10)"), "its part `fc` is LazyLinear"),
    "scripted": (network("") + "\nPlain = Net\ndef Net(): return torch.jit.script(Plain())\n", "TorchScript"),
    "no module": ("def Net(): return 3\n", "returned a int"),
    "no super": ("class Net(nn.Module):\n    def __init__(self): self.fc = nn.Linear(1, 1)\n", "Module.__init__()"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_network_that_is_refused(case: str, tmp_path: Path, capsys: Capture) -> None:
    code, reason = REFUSED[case]
    refused(command(tmp_path, code, NETWORK, "check", capsys), "KD0507", reason, None)


def test_constructor_that_reads_its_weights(tmp_path: Path, capsys: Capture) -> None:
    code = network("f = f * self.size").replace(
        "\n\n    def", "\n        self.size = self.fc.weight.norm().item()\n\n    def"
    )
    assert command(tmp_path, code, NETWORK, "check", capsys).exit_code == 0


def test_data_class_with_late_annotations(tmp_path: Path, capsys: Capture) -> None:
    before = "import dataclasses\n\n\n@dataclasses.dataclass\nclass Sizes:\n    width: 'int' = 2\n\n\n"
    outcome = command(tmp_path, network("f = f * Sizes().width", before), NETWORK, "check", capsys)
    assert outcome.exit_code == 0, outcome.output


RETURNS = {
    "number": ("3.0", "KD0602"),
    "tensor": ("torch.tensor(3.0)", "KD0602"),
    "detached": ("z.mean().detach()", "KD0602"),
    "none": ("None", "KD0519"),
    "dict": ("{'loss': z.mean()}", "KD0519"),
    "tuple": ("(z.mean(), z.sum())", "KD0519"),
}


@pytest.mark.parametrize("term", ["my.f(small.logits)", "0.5 * my.f(small.logits)", "alone"])
@pytest.mark.parametrize("case", RETURNS)
def test_what_a_loss_returns(case: str, term: str, tmp_path: Path, capsys: Capture) -> None:
    value, number = RETURNS[case]
    plan = LOSS.replace("my.f(small.logits)", term)
    if term == "alone":
        plan = LOSS.replace("cross_entropy(small.logits, labels) + ", "")
    refused(command(tmp_path, f"def f(z):\n    return {value}\n", plan, "check", capsys), number, "", None)


NAMES = ["half", "type", "train", "forward", "parameters", "to", "state_dict", "_modules", "training", "__class__",
         "None", "class", "buffers", "T_destination", "float", "graph", "code"]  # fmt: skip
NAMED = """data digits = digits
recipe quick { optimizer = sgd(lr = 0.01)  steps = 2  batch = 32 }
teacher big = digits_net(width = 2) { phase NAME on digits with quick { loss = cross_entropy(self.logits, labels) } }
student NAME = digits_net(width = 2)
phase alone of NAME on digits with quick {
  loss = cross_entropy(NAME.logits, labels) + mse(fit(NAME.layer2, like = big.layer2), big.layer2)
}
"""


@pytest.mark.parametrize("name", NAMES)
def test_any_name(name: str, tmp_path: Path, capsys: Capture) -> None:
    outcome = command(tmp_path, "", NAMED.replace("NAME", name), "check", capsys)
    assert outcome.exit_code == 0, outcome.output


def test_any_name_runs(tmp_path: Path, capsys: Capture) -> None:
    outcome = command(tmp_path, "", NAMED.replace("NAME", "parameters"), "run", capsys)
    assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize("line", ["raise KeyError('late')", "sys.exit(0)"])
def test_phase_that_fails_late(line: str, tmp_path: Path, capsys: Capture) -> None:
    counted = "n = 0\ndef f(z):\n    global n\n    n += type(z) is torch.Tensor\n    if n > 3:\n"
    code = f"{counted}        {line}\n    return z.mean()\n"
    outcome = command(tmp_path, code, LOSS, "run", capsys)
    assert outcome.exit_code == 1 and "KD0821" in outcome.output and "step 3" in outcome.output, outcome.output
    assert f"mine.py:{line_of(code, line)}" in outcome.output and "Traceback" not in outcome.output


def test_traced_line_that_fails_late(tmp_path: Path, capsys: Capture) -> None:
    """The line is one of the network's `forward`, which the graph's generated code has replaced."""
    line = "f = f + F.embedding((x[:, 0, 3, 3] * 1000).long(), torch.ones(4, 10))"
    code = network(line)
    outcome = command(tmp_path, code, NETWORK, "run", capsys)
    assert outcome.exit_code == 1 and "KD0821" in outcome.output, outcome.output
    assert f"mine.py:{line_of(code, line)}" in outcome.output and "Traceback" not in outcome.output, outcome.output


def test_measure(tmp_path: Path, capsys: Capture) -> None:
    line = "if not self.training and len(x) > 2: raise OSError('only for training')"  # `check` has two images
    plan = NETWORK + "measure m of small@alone on digits.test { top1 }\n"
    code = network(line)
    outcome = command(tmp_path, code, plan, "run", capsys)
    assert outcome.exit_code in (1, 2) and "KD0844" in outcome.output, outcome.output
    assert f"mine.py:{line_of(code, line)}" in outcome.output and "Traceback" not in outcome.output


def test_export(tmp_path: Path, capsys: Capture) -> None:
    line = (
        "if not self.training and float(self.fc.bias.max()) < 0.3: raise OSError('only for training')"  # once trained
    )
    code, plan = network(line), NETWORK + "export out = small@alone\n"
    assert command(tmp_path, code, plan, "run", capsys).exit_code == 0
    arguments = ["export", str(tmp_path / "plan.kd"), "out", "-o", str(tmp_path / "out")]
    exit_code = main([*arguments, "--store", str(tmp_path / "store")])
    output = capsys.readouterr().err
    assert exit_code == 2 and "KD0847" in output and f"mine.py:{line_of(code, line)}" in output, output


@pytest.mark.parametrize("case", ["name", "key", "zero", "import", "exit", "empty", "long"])
def test_data(case: str, tmp_path: Path, capsys: Capture) -> None:
    line, part, reason = FORWARD[case]
    code = f"def make():\n    f = 1\n    {line}\n"
    refused(command(tmp_path, code, DATA, "check", capsys), "KD0718", reason, str(line_of(code, part)))


def test_unforeseen(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError("no luck. At all")

    monkeypatch.setattr("kdplan.compile.compile_source", lambda *_, **__: broken())
    outcome = command(tmp_path, "", NETWORK, "check", capsys)
    assert outcome.exit_code == 2 and "KD0016" in outcome.output and "no luck" in outcome.output
    monkeypatch.setenv("KDPLAN_TRACEBACK", "1")
    with pytest.raises(LookupError):
        command(tmp_path, "", NETWORK, "check", capsys)


def test_unforeseen_graph(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError("no luck. At all")

    monkeypatch.setattr("kdplan.graph.inspect.inspect_phase", broken)
    refused(command(tmp_path, network(""), NETWORK, "check", capsys), "KD0520", "no luck", None)

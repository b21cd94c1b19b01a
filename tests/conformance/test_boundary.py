"""Whatever a user's own code raises is one error: a code, the plan's line, the user's line, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.user_files import LOSS, NETWORK, Outcome, command, constructor, line_of, network

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
def test_forward_that_depends_on_values(case: str, tmp_path: Path, capsys: Capture) -> None:
    line, part, help = DEPENDENT[case]
    code = network(line)
    outcome = command(tmp_path, code, NETWORK, "check", capsys)
    refused(outcome, "KD0508", help, str(line_of(code, part)))
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

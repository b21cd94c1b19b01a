"""What the fuzz of `fuzz.py` has shown, each case reduced to a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.fuzz import Case
from tests.conformance.fuzz_rows import FILE, HEAD
from tests.conformance.fuzz_run import run

BANK = 'self.register_buffer("bank", torch.linspace(-1, 1, 48).reshape(12, 4))'
CENTER = 'self.register_buffer("center", torch.zeros(4))'
PART = """
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.t, self.head = 0, nn.Linear(4, 4)

    def forward(self, x):
        self.t += 1
        return self.head(x) / self.t
"""


def network(forward: str, init: str = "", file: str = "") -> str:
    """A file with a network whose `forward` has these lines, and gives `self.head` of its last `x`."""
    lines = [*init.splitlines(), "self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 4)"]
    own = "".join(f"        {line}\n" for line in lines)
    body = "".join(f"        {line}\n" for line in forward.splitlines())
    end = "" if "return" in forward else "        return self.head(x)\n"
    start = "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    return f"{HEAD}\n{file}\n\n{start}{own}\n    def forward(self, x):\n{body}{end}"


CASES: dict[str, tuple[str, dict[str, Any], str, str, str]] = {
    # name: (kind, use, forward, constructor, file)
    "a buffer written through a view in two calls": (
        "graph", {"twice": True}, "self.bank[0].add_(x.mean(0))\nx = x + self.bank[0]", BANK, "",
    ),
    "a frozen network writes in two calls": (
        "graph", {"twice": True, "frozen": True}, "self.bank[0].add_(x.mean(0))\nx = x + self.bank[0]", BANK, "",
    ),
    "a buffer is bound anew, then written, in two calls": (
        "graph", {"twice": True}, "self.center = x.mean(0)\nx = x - self.center\nself.center.mul_(0.5)", CENTER, "",
    ),
    "a buffer is written without gradients in two calls": (
        "graph", {"twice": True}, "with torch.no_grad():\n    self.center.add_(x.mean(0))\nx = x - self.center", CENTER,
        "",
    ),
    "one more write into a buffer that was written": (
        "graph", {}, "old = self.center\nself.center += x.mean(0)\nx = x + old\nself.center += 1\nx = x + old", CENTER,
        "",
    ),
    "a write into a value that depends on no weights": (
        "graph", {"training": False}, "w = x - 1.5\nw.add_((x / 6).mean(0))\nx = x + w + self.center", CENTER, "",
    ),
    "a frozen network fills a fresh tensor": (
        "graph", {"frozen": True}, "w = torch.zeros(x.shape[0], 4)\nw[:, 1:] = self.fc(x)[:, 1:]\nreturn w", "", "",
    ),
    "a frozen network writes into what it returns": (
        "graph", {"frozen": True}, "w = self.fc(x)\nw.clamp_(0, 0.1)\nreturn w", "", "",
    ),
    "a frozen part is read before it is written": (
        "graph", {"part": True},
        "w = self.fc(x)\na = w + self.head.bias\nw.clamp_(0, 0.1)\nreturn a + self.head(w * 2)", "", "",
    ),
    "logits are written before they are returned": (
        "graph", {}, "w = self.head(x)\nw[:, 1] = -9.0\nreturn w", "", "",
    ),
    "a part writes into what it returns": (
        "graph", {"taps": (0, 1)}, "x = self.block(x)", "self.block = Block()",
        """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        w = self.inner(x)
        w.clamp_(0, 0.1)
        return w
""",
    ),
    "a value is detached in place": (
        "graph", {}, "w = self.fc(x)\nw.detach_()\nx = self.head.bias * w + x", "", "",
    ),
    "a value is transposed in place": (
        "graph", {}, "w = self.fc(x)\nw.t_()\nx = x + w.mean(1)", "", "",
    ),
    "a draw that a frozen layer and a tap read": (
        "graph", {"frozen": True, "taps": (0,)}, "x = x + torch.rand(4)\nx = self.flat(x)", "self.flat = nn.Flatten()",
        "",
    ),
    "a tap is written behind it": (
        "graph", {"taps": (0,)}, "w = self.fc(x)\nw.clamp_(0, 0.1)\nx = x + w", "", "",
    ),
    "draws with and without weights before them": (
        "graph", {}, "a = x + self.center + torch.rand(4)\nx = self.head(a) + torch.rand(4) + torch.rand(4) * a",
        CENTER, "",
    ),
    "a write without gradients into a value that has one": (
        "graph", {}, "w = self.fc(x)\nwith torch.no_grad():\n    w.mul_(0.5)\nx = x + w", "", "",
    ),
    "the input is written": ("graph", {}, "x.mul_(0.5)", "", ""),
    "control flow on the size of a batch": ("whole", {}, "x = self.fc(x) if x.shape[0] > 5 else x", "", ""),
    "a size as a Python number": ("whole", {}, "x = self.fc(x).view(len(x), -1)", "", ""),
    "a loop over the samples": ("whole", {}, "x = torch.stack([r / 2 for r in self.fc(x).unbind(0)])", "", ""),
    "data classes": ("graph", {}, "return Output(self.head(x), x)", "", FILE["Output"]),
    "data classes of a leaf": (
        "leaf", {"taps": (1,)}, "self.t += 1\nreturn Output(self.head(self.fc(x)), x)", "self.t = 0", FILE["Output"],
    ),
    "a tap in a leaf that is called twice": (
        "leaf", {"taps": (0,)}, "x = self.part(self.part(x))", "self.part = Part()", PART,
    ),
    "a draw as a Python number": ("leaf", {}, "x = x if torch.rand(1).item() < 0.1 else self.fc(x)", "", ""),
    "a buffer as a Python number": (
        "leaf", {}, "self.n += 1\nx = self.fc(x) if self.n.item() > 3 else x",
        'self.register_buffer("n", torch.zeros(()))', "",
    ),
    "a comparison of tensors": ("leaf", {}, "x = x if torch.equal(x, x * 2) else self.fc(x)", "", ""),
    "a generator of its own": (
        "leaf", {}, "x = x + torch.randn(4, generator=torch.Generator().manual_seed(3))", "", "",
    ),
    "numbers that are drawn into a fresh tensor": ("leaf", {}, "x = x + torch.empty(4).uniform_()", "", ""),
    "a tensor attribute that is written": (
        "leaf", {}, "self.plain += 1\nx = x * self.plain", "self.plain = torch.ones(4)", "",
    ),
    "a module that asks for values writes into its input": (
        "leaf", {"twice": True}, "x = self.part(x)", "self.part = Asking()",
        """
class Asking(nn.Module):
    def forward(self, x):
        if x.mean() > 9:
            return x
        return x.mul_(0.5)
""",
    ),
    "inference mode": (
        "leaf", {},
        "with torch.inference_mode():\n    drift = x.mean(0)\nself.center.add_(drift)\nx = self.fc(x) + self.center",
        CENTER, "",
    ),
    "a question for the mode of gradients": (
        "leaf", {"frozen": True}, "x = self.fc(x) * (2 if torch.is_grad_enabled() else 3)", "", "",
    ),
    "a hook of a leaf keeps a value": (
        "leaf", {}, "x = self.part(x)\nx = x + self.kept.mean()",
        "self.part = Part()\nself.part.register_forward_hook(self.keep)",
        PART,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_equal(name: str, tmp_path: Path) -> None:
    kind, use, forward, init, file = CASES[name]
    source = network(forward, init, file)
    if "self.keep" in init:
        source += "\n    def keep(self, module, inputs, output):\n        self.kept = output.detach()\n"
    result = run(Case(source, **use), tmp_path)
    assert result.kind == kind, f"{result.kind}: {result.detail}"

"""Messages that point at the mistake: the code, the text that is underlined, and a part of the help."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kdplan.compile import check_text, compile_source
from kdplan.diagnostics.report import Diagnostic, PlanError
from kdplan.diagnostics.span import Source

START = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2)
phase kd of small on digits with quick { loss = cross_entropy(small.logits, labels) }
"""

NETS = """
import copy

from torch import nn


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)


class Copies(Base):
    def forward(self, x):
        y = self.fc(x.flatten(1))
        return y + copy.deepcopy(y)


class Hooks(Base):
    def forward(self, x):
        y = self.fc(x.flatten(1))
        y.register_hook(lambda g: 2 * g)
        return y


class Silent(Base):
    def forward(self, x):
        self.fc(x.flatten(1))


class Wrong(Base):
    def forward(self, x):
        return self.fc(x.flatten(1)).view(3, 7)


class Channels(Base):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))
"""


def only(text: str, folder: Path) -> Diagnostic:
    """The one message about the plan."""
    (found,) = check_text(START + text, folder, folder)
    return found


@pytest.mark.parametrize(
    ("text", "code", "at", "help"),
    [
        ("measure m of kd on digits.test { top1 }", "KD0250", "kd", "`small@kd`"),
        ("measure m of train on digits.test { top1 }", "KD0205", "train", "`big@train`"),
        ("export e = kd", "KD0250", "kd", "`small@kd`"),
        ("phase two of kd on digits with quick { loss = 1 }", "KD0250", "kd", "`small@kd`"),
        ("ensemble e of big.logits, small@kd", "KD0250", "big.logits", "`big`"),
        ("ensemble e of big, small@kd.layer1", "KD0250", "small@kd.layer1", "`small@kd`"),
        ("student s = ensemble(big, small@kd.logits)", "KD0250", "small@kd.logits", "`small@kd`"),
        (
            "phase x of small@y on digits with quick { loss = cross_entropy(small.logits, labels) }\n"
            "phase y of small@x on digits with quick { loss = cross_entropy(small.logits, labels) }",
            "KD0303",
            "small@x",
            "`small@init`",
        ),
        (
            "teacher idle = digits_net(width = 3)\nmeasure m of idle on digits.test { top1 }",
            "KD0301",
            "idle",
            "Add a phase that trains it, load its `weights",
        ),
        (
            "teacher twice = digits_net(width = 3) {\n"
            "  phase a on digits with quick { loss = cross_entropy(self.logits, labels) }\n"
            "  phase b on digits with quick { loss = cross_entropy(self.logits, labels) * 2 }\n"
            "}\nmeasure m of twice on digits.test { top1 }",
            "KD0301",
            "twice",
            "`twice@a`, `twice@b`",
        ),
        ("measure m of big on digits[0..14].test { top1 }", "KD0260", "0..14", "0 to 9"),
        ("measure m of big on digits[0..4].test { top1 }", "KD0406", "digits[0..4]", "`digits[part[some]]`"),
        ("measure m of big on digits.test over [seed] { top1 }", "KD0409", "[seed]", "`seed`"),
        ("measure m of big by [seed, x] on digits.test { top1 }", "KD0409", "[seed, x]", "`seed, x`"),
        ('use "/nowhere/x.kd"', "KD0211", 'use "/nowhere/x.kd"', None),
        ('use "nowhere.kd"', "KD0211", 'use "nowhere.kd"', "relative"),
        ('use "neets.py" as my', "KD0211", 'use "neets.py" as my', '"nets.py"'),
        ('data mine = arrays("mine")', "KD0713", 'arrays("mine")', "`mine.npz`"),
        (
            "branches one of digits_net(width = 2) from layer2 on digits with quick {\n"
            "  count = 2\n  loss = cross_entropy(branch[0].logits, labels)\n}",
            "KD0601",
            None,
            "in branch)",
        ),
        ('use "nets.py" as my\nmeasure m of my on digits.test { top1 }', "KD0250", "my", None),
    ],
)
def test_message(text: str, code: str, at: str | None, help: str | None, tmp_path: Path) -> None:
    """One message: its code, what it underlines, and what it says to write."""
    (tmp_path / "nets.py").write_text(NETS)
    np.savez(tmp_path / "mine.npz", inputs=np.zeros((4, 8), np.float32), labels=np.zeros(4, np.int64))
    found = only(text, tmp_path)
    assert (found.code, found.span and found.span.text) == (code, at or (found.span and found.span.text)), found
    if help is None:
        assert found.help is None
    else:
        assert found.help is not None and help in found.help
    if code == "KD0211":
        assert str(tmp_path) not in found.message or "/nowhere" not in text


def test_a_recipe_may_have_the_name_of_an_optimizer(tmp_path: Path) -> None:
    """What a setting wants decides: a recipe is no optimizer, and a param of one may stand for it."""
    text = """
    recipe sgd { optimizer = sgd(lr = 0.1)  epochs = 1 }
    recipe plateau = sgd { schedule = polynomial }
    phase p of small on digits with plateau { loss = cross_entropy(small.logits, labels) }
    """
    assert check_text(START + text, tmp_path) == []


@pytest.mark.parametrize(
    ("net", "code", "said", "help"),
    [
        ("Copies", "KD0508", "copy.deepcopy", "x.clone()"),
        ("Silent", "KD0549", "returns no tensor", "return"),
        ("Wrong", "KD0508", "shape '[3, 7]' is invalid", None),
        ("Channels", "KD0508", "to have 3 channels", "fit the data"),
    ],
)
def test_networks_of_the_user(net: str, code: str, said: str, help: str | None, tmp_path: Path) -> None:
    """What the user's code does, its line, and the `use` that reads its file; shapes are advised on only where they
    are the reason."""
    (tmp_path / "nets.py").write_text(NETS)
    text = f'use "nets.py" as my\nstudent own = my.{net}()\n'
    text += "phase p of own on digits with quick { loss = cross_entropy(own.logits, labels) }"
    found = only(text, tmp_path)
    assert found.code == code and said in found.message
    assert (found.help is None) if help is None else help in str(found.help)
    shown = [n.span.text for n in found.notes if n.span is not None]
    assert len(shown) == 2 and shown[1] == 'use "nets.py" as my'


def test_an_absent_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs it is shown."""
    monkeypatch.setitem(sys.modules, "timm", None)
    text = 'student s = timm("resnet10t", classes = 10, channels = 1)\n'
    text += "phase p of s on digits with quick { loss = cross_entropy(s.logits, labels) }"
    found = only(text, tmp_path)
    assert found.code == "KD0507" and found.help == "Install it: `pip install timm`."


@pytest.mark.parametrize(
    ("text", "code", "notes"),
    [
        (
            "".join(
                f"phase {n} of small on digits with quick {{ loss = weight * cross_entropy(small.logits, labels) }}\n"
                for n in "abc"
            ),
            "KD0205",
            ["also here", "also here"],
        ),
        (
            "def taught(n) = cross_entropy(n.logitz, labels)\n"
            "student other = digits_net(width = 3)\n"
            "phase a of small on digits with quick { loss = taught(small) }\n"
            "phase b of other on digits with quick { loss = taught(other) }\n",
            "KD0501",
            ["`other` has no tap `logitz`."],
        ),
        (
            "phase a of small on digits with quik { loss = cross_entropy(small.logits, labels) }\n"
            "phase b of small on digits with quik { loss = cross_entropy(small.logits, labels) }\n"
            "measure m of small@a, small@b on digits.test { top1 }",
            "KD0205",
            ["also here"],
        ),
    ],
)
def test_one_mistake_is_one_message(text: str, code: str, notes: list[str], tmp_path: Path) -> None:
    """The other locations are notes, and what follows from the mistake is not reported."""
    found = only(text, tmp_path)
    assert found.code == code and [n.text for n in found.notes] == notes


def test_two_mistakes_are_two_messages(tmp_path: Path) -> None:
    """Names that differ are not one mistake."""
    text = "phase a of small on digits with quik { loss = wight * cross_entropy(small.logits, labels) }"
    assert [d.code for d in check_text(START + text, tmp_path)] == ["KD0205", "KD0205"]


@pytest.mark.parametrize("path", ["", ".", "nothing.pth"])
def test_a_weights_file_that_is_not_there(path: str, tmp_path: Path) -> None:
    text = f'student s = digits_net(width = 2) {{ weights = "{path}" }}\n'
    text += "phase p of s on digits with quick { loss = cross_entropy(s.logits, labels) }"
    assert only(text, tmp_path).code == "KD0211"


@pytest.mark.parametrize(
    ("text", "code", "at", "help"),
    [
        ("student a = a", "KD0235", "a", "`student a = other@phase`"),
        ("student a = a@nowhere", "KD0235", "a", "`student a = other@phase`"),
        ("student a = a@kd", "KD0235", "a", "Did you mean `small@kd`?"),
        ("student smal = smal@kd", "KD0235", "smal", "Did you mean `small@kd`?"),
        (
            "student a = a@p\nphase p of a on digits with quick { loss = cross_entropy(a.logits, labels) }",
            "KD0235",
            "a",
            "write `a@p` where the weights that `p` leaves are meant",
        ),
        ("teacher a = ema(a, decay = 0.9)", "KD0235", "a", "another network"),
        ("student a[i in 0..2] = a[i]@p", "KD0235", "a", "another network"),
        ("student digits_ne = digits_ne(width = 2)", "KD0205", "digits_ne", "Did you mean `digits_net`?"),
        ("student resnet18 = resnet18()", "KD0205", "resnet18", '`torchvision("resnet18")`'),
        ("recipe r = r { epochs = 2 }", "KD0235", "r", "Name the recipe that it begins from"),
        ("data d = d", "KD0235", "d", None),
        ("param w = 2 * w", "KD0235", "w", None),
        ("def f(x) = f(x)", "KD0235", "f", None),
        ("student b from small@kd", "KD0219", "from", "`student b = small@kd`"),
        ("student b of small@kd { reset = [fc] }", "KD0219", "of", "`student b = small@kd`"),
        ("student b = digits_net() from small@kd", "KD0219", "from", "`student b = small@kd`"),
        ("student b = digits_net() { weights = small@kd }", "KD0244", "small@kd", "`small@kd` after the network's `=`"),
    ],
)
def test_where_a_network_begins(text: str, code: str, at: str, help: str | None, tmp_path: Path) -> None:
    """A declaration cannot read itself, and its own name is not the fix; a version of another one can stand there."""
    found = only(text, tmp_path)
    assert (found.code, found.span and found.span.text) == (code, at), found
    assert (found.help is None) if help is None else help in str(found.help)


def test_a_param_with_the_name_of_a_choice(tmp_path: Path) -> None:
    assert check_text(START + "param sgd = sgd\nrecipe slow { optimizer = sgd(lr = 0.1)  epochs = 2 }", tmp_path) == []


@pytest.mark.parametrize(
    ("own", "use", "value", "code", "help"),
    [
        ('"relu"', "student b = my.Base(act = p)", "tanh", "KD0244", "Write `--set 'p=\"tanh\"'`."),
        ('"a"', "student b = digits_net() { weights = p }", "to/a.pth", "KD0244", "Write `--set 'p=\"to/a.pth\"'`."),
        ('"a"', "", "to/a.pth", "KD0244", "Write `--set 'p=\"to/a.pth\"'`."),
        ("2", "student b = digits_net(width = p)", "tanh", "KD0244", None),
        ("2", "student b = digits_net(width = p)", "sgd", "KD0244", None),
        ("2", "", "tanh", "KD0244", None),
        ("true", "recipe r = quick { channels_last = p }", "yes", "KD0244", None),
        (
            "sgd",
            "recipe r = quick { optimizer = p(lr = 0.1) }",
            "tanh",
            "KD0205",
            "Choose from `adadelta`, `adafactor`,",
        ),
        ("sgd", "recipe r = quick { optimizer = p(lr = 0.1) }", "adamm", "KD0205", "Did you mean `adam`?"),
        (
            "sgd",
            "recipe r = quick { optimizer = p(lr = 0.1) }",
            "3",
            "KD0234",
            "Give `p` the name of what is called here.",
        ),
        ("sgd", "", "tanh", "KD0205", "Choose from `adadelta`, `adafactor`,"),
        ("mse", "def q = p(small.logits, big.logits)", "tanh", "KD0205", "Choose from "),
        ("mse", "def q = p(small.logits, big.logits)", "kll", "KD0205", "Did you mean `kl`?"),
        ("big", "def q = mse(small.logits, p.logits)", "tanh", "KD0205", "Choose from `big` and `small`."),
        ("big", "def q = mse(small.logits, p.logits)", "smal", "KD0205", "Did you mean `small`?"),
        ("quick", "phase x of small on digits with p { loss = 1 }", "tanh", "KD0205", "Choose from `quick`."),
        ("digits_net", "student b = p(width = 2)", "mpl", "KD0205", "Did you mean `mlp`?"),
    ],
)
def test_set_of_another_kind(own: str, use: str, value: str, code: str, help: str | None, tmp_path: Path) -> None:
    """What the param is decides what is suggested: nothing that could not stand there."""
    (tmp_path / "nets.py").write_text(NETS)
    text = f'{START}use "nets.py" as my\nparam p = {own}\n{use}\n'
    if use.startswith(("student", "recipe", "def")):
        of, recipe = ("b", "quick") if "student" in use else ("small", "r" if "recipe" in use else "quick")
        loss = "q" if "def" in use else f"cross_entropy({of}.logits, labels)"
        text += f"phase x of {of} on digits with {recipe} {{ loss = {loss} }}"
    with pytest.raises(PlanError) as caught:
        compile_source(Source("plan.kd", text), tmp_path, params={"p": value})
    (found,) = caught.value.diagnostics
    assert found.code == code, found
    assert (found.help is None) if help is None else str(found.help).startswith(help), found
    assert "detach" not in str(found.help)

"""The mistakes that people make most, each as a whole plan: its code, its message, and the help that fixes it."""

from __future__ import annotations

import pytest

from kdplan.compile import check_text

DATA = "data digits = digits\n"
RECIPE = "recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }\n"
START = DATA + RECIPE + "student small = digits_net(width = 2)\n"
BIG = """teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
"""
ALONE = "phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }\n"
OTHER = "student other = digits_net(width = 3)\n"


def phase(loss: str, of: str = "small", on: str = "digits", more: str = "") -> str:
    return f"phase p of {of} on {on} with quick {{\n  {more}\n  loss = {loss}\n}}\n"


HARD = "cross_entropy(small.logits, labels)"
FAMILY = "student line[i in 0..5] = digits_net(width = 2) { seed = fold(seed, i) }\n"

MISTAKES = [
    ("recipe r { epochs: 240 }", "KD0101", "A `:` has no meaning in a plan.", "Write `epochs = 240`."),
    (
        START + "phase p of small on digits with quick { loss mean(x, y) }",
        "KD0102",
        "The setting `loss` needs `=` before its value.",
        "",
    ),
    (
        "recipe r { optimizer = sgd(lr = 0.1), epochs = 1 }",
        "KD0103",
        "Settings are not separated by commas.",
        "Delete `,`.",
    ),
    (
        START + "recipe r {\n  epochs = 1\n\n" + ALONE,
        "KD0104",
        "`{` on line 4 is still open where `phase` begins on line 7.",
        "",
    ),
    (
        START + phase("0.5 kl(small.logits, small.logits)"),
        "KD0105",
        "Two values stand side by side at `kl`; an operator is missing.",
        "",
    ),
    ("use 'common.kd'", "KD0107", "Strings are written in double quotes.", '"common.kd"'),
    ("param w = .5", "KD0108", "The number `.5` needs digits on both sides of its dot.", "0.5"),
    ("student on = digits_net()", "KD0109", "`on` is a preposition and cannot be a name.", ""),
    (
        START + FAMILY + "measure m of line[0:5] on digits.test { top1 }",
        "KD0110",
        "Ranges are written `a..b`, both ends included.",
        "0..5",
    ),
    (
        START + phase("(epoch > 1 and epoch < 3) * mean(small.logits)"),
        "KD0111",
        "`and` is not a word of the language.",
        "*",
    ),
    ("pahse x of s on d with r { loss = 1 }", "KD0201", "There is no kind `pahse`.", "Did you mean `phase`?"),
    (
        START + phase(HARD, more="update = small"),
        "KD0202",
        "`phase` has no setting `update`.",
        "Name what the phase trains after `of`.",
    ),
    (
        START + phase(f"w * {HARD}", more="w = 3"),
        "KD0203",
        "`phase` has no setting `w`; the names of settings are fixed.",
        "Write `def w = 3` to name a value.",
    ),
    (
        START + BIG + "measure m of big small on digits.test { top1 }",
        "KD0204",
        "There is no kind `small`; a comma may be missing before it.",
        "commas",
    ),
    (START + phase("mean(smal.logits)"), "KD0205", "The name `smal` is not defined here.", "`small` (student, line 3)"),
    ("param sum = 3", "KD0206", "`sum` is built in and cannot be declared.", "Rename the param."),
    (
        START + "student small = mlp(inputs = 64)",
        "KD0207",
        "`small` is declared twice; the first is in plan.kd line 3.",
        "as t",
    ),
    (
        START + phase("kl(small.logits, previous.logits)"),
        "KD0208",
        "`previous` exists only inside `generation`.",
        "version",
    ),
    (
        START + ALONE + "measure m of small on digits.test { top1 }",
        "KD0301",
        "`small` has no trained weights as declared.",
        "`small@alone` and `small@init`",
    ),
    (
        START + BIG + "measure m of big@trian on digits.test { top1 }",
        "KD0302",
        "No phase `trian` trains `big`.",
        "`train`",
    ),
    (
        START + OTHER + "phase x of small on digits with quick { loss = kl(small.logits, other@y.logits) }\n"
        "phase y of other on digits with quick { loss = kl(other.logits, small@x.logits) }",
        "KD0303",
        "Phases x → y → x wait for each other.",
        "Read an earlier version, such as `small@init`.",
    ),
    (
        START + ALONE + ALONE.replace("alone", "again") + phase(HARD, of="small@alone.fc, small@again.layer2"),
        "KD0304",
        "`small@alone.fc` and `small@again.layer2` are two versions of `small`: one phase cannot train both.",
        "`merge(",
    ),
    (
        START
        + "student peer = digits_net(width = 2)\n"
        + phase(f"{HARD} + cross_entropy(peer.logits, labels)", of="small, peer"),
        "KD0305",
        "`small` and `peer` start from equal weights and stay equal in every step.",
        "seed = fold(seed, 1)",
    ),
    (
        "student n[i in 0..2] = digits_net()",
        "KD0306",
        "All members of `n` are the same network; nothing in it reads `i`.",
        "seed = fold(seed, i)",
    ),
    (START + FAMILY + phase("mean(small.logits)", of="line"), "KD0401", "`line` is a family over `i`.", "`line[*]`"),
    (
        START + FAMILY + phase("mean(line[7].logits)", of="line[7]"),
        "KD0402",
        "`7` is not a member of `line`; the members are `0`, `1`, `2`, `3`, `4` and `5`.",
        "",
    ),
    (
        START + "def weight = [1, 5]\n" + phase(f"weight * {HARD}"),
        "KD0403",
        "The list `[1, 5]` stands where one value is expected.",
        "Declare `param x in [1, 5]`",
    ),
    (
        "param weight in [1, 5]\nparam seed in [0, 1]\n" + START + phase(f"weight * {HARD}") + "export tiny = small@p",
        "KD0404",
        "`export tiny` means 4 networks.",
        "`small@p[weight = 1, seed = 0]`",
    ),
    (
        START + BIG + phase("mse(small.layer1, big.layer5)"),
        "KD0501",
        "`big@train` has no tap `layer5`.",
        "Choose from `avgpool`, `fc`, `flatten`, `layer1`, `layer2`, `stem`",
    ),
    (
        START + BIG + phase("mse(small.layer1, big.layer1)", of="upto(small.layer1)"),
        "KD0502",
        "`small.layer1` is 4×4×4 and `big.layer1` is 8×4×4: they differ in channels.",
        "`fit(small.layer1, like = big.layer1)`",
    ),
    (
        START.replace("width = 2", "width = 2, classes = 100") + ALONE,
        "KD0503",
        "Logits over 100 classes (`small.logits`) meet labels over 10 classes of digits (`labels`).",
        "`classes`",
    ),
    (START + phase("small.logits * 2"), "KD0504", "`small.logits * 2` has shape [B, 10], not a scalar.", "`mean(…)`"),
    (
        START + BIG + phase("kd(small.logits, softmax(big.logits), temperature = 2)"),
        "KD0505",
        "`kd` with a temperature expects logits, and `softmax(big.logits)` gives probabilities.",
        "Remove `softmax`.",
    ),
    (
        START + BIG + phase("mse(fit(small.layer2, like = big.layer2), big.layer2)"),
        "KD0601",
        "The parameters of `fc` of `small` are trained in `p` but get no gradient.",
        "`of upto(small.layer2)`",
    ),
    (
        START + BIG + phase(f"{HARD} + cross_entropy(big.logits, labels)"),
        "KD0602",
        "`cross_entropy(big.logits, labels)` depends on no trained parameter: it is constant.",
        "Add the network to `of`",
    ),
    (
        START
        + "data lab = digits { seed = 1 }\n"
        + phase("cross_entropy(small(lab.inputs).logits, labels)", on="lab, digits"),
        "KD0701",
        "`labels` is ambiguous: this phase reads `lab` and `digits`.",
        "`lab.labels`",
    ),
    (START + phase(HARD, on="digits.unlabelled"), "KD0702", "`digits.unlabelled` has no labels.", "on digits"),
    (
        START + BIG + "measure m of big on digits { top1 }",
        "KD0703",
        "A measure needs a split, and `digits` names none.",
        "`digits.test`",
    ),
    (
        START
        + OTHER
        + "student third = digits_net(width = 5)\nphase p of small, other, third on digits with quick, quick {"
        " loss = mean(small.logits) }",
        "KD0801",
        "`with` gives 2 recipes for 3 networks.",
        "Give one recipe for all networks, or one for each.",
    ),
]


@pytest.mark.parametrize(("plan", "code", "message", "help"), MISTAKES, ids=[m[1] for m in MISTAKES])
def test_the_usual_mistakes(plan: str, code: str, message: str, help: str) -> None:
    messages = check_text(plan)
    assert [(d.code, d.message) for d in messages] == [(code, message)]
    assert help in (messages[0].help or "")

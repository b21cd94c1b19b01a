"""Amalgamation trained for real on digits: without labels, resumed, exported without its maps, measured by part."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from kdplan.cli import main
from kdplan.compile import Compiled, compile_source
from kdplan.diagnostics.span import Source
from kdplan.ir.expr import Version
from kdplan.runtime.export import load
from kdplan.runtime.networks import materialise
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources

START = """
data digits = digits { limit = 512 }
recipe quick { optimizer = adam(lr = 0.01)  epochs = 2  batch = 64 }
verticals half of digits = random(parts = 2, seed = 0)
teacher t[v in half] = digits_net(width = 4, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
student both = digits_net(width = 6, classes = digits.classes)
"""
KA = "amalgamate ka of both from t[*] on digits with quick\n"
OVERLAP = START.replace("half of digits = random(parts = 2, seed = 0)",
                        "half of digits { disjoint = false  left = [3, 0, 1, 2, 4, 5]  right = 4..9 }")  # fmt: skip
JOINT = Version("ka.layerwise", "ka@joint")


def run(text: str, folder: Path, *more: str, store: str = "store") -> None:
    (folder / "plan.kd").write_text(text)
    assert main(["run", str(folder / "plan.kd"), "--store", str(folder / store), *more]) == 0


def sources(text: str, folder: Path, store: str = "store") -> tuple[Compiled, Sources]:
    compiled = compile_source(Source("plan.kd", text), folder)
    return compiled, Sources(compiled.plan, Store(folder / store), compiled.keys)


def student(text: str, folder: Path, store: str = "store") -> dict[str, torch.Tensor]:
    return materialise(sources(text, folder, store)[1], JOINT).state_dict()


OWN = """
import numpy as np
from sklearn.datasets import load_digits

def digits(labels="right"):
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 1, 8, 8)[:300] * 15).astype(np.uint8)
    y = {"right": y[:300], "wrong": (y[:300] * 7 + 3) % 10, "none": None}[labels]
    return {"train": (x, y), "classes": [str(i) for i in range(10)]}
"""


def test_labels_are_never_read(tmp_path: Path) -> None:
    """Images without labels, and with wrong ones, give the same student bit for bit."""
    (tmp_path / "own.py").write_text(OWN)
    text = START.replace("= digits { limit = 512 }", f'= source("{tmp_path}/own.py:digits")')
    text = f'use "{tmp_path}/own.py" as my\n{text}'
    states = []
    for labels in ("right", "wrong", "none"):
        more = f'data bare = source("{tmp_path}/own.py:digits", labels = "{labels}")\n'
        plan = text + more + KA.replace("on digits", "on bare")
        run(plan, tmp_path)
        states.append(student(plan, tmp_path))
    assert all(torch.equal(states[0][n], other[n]) for other in states[1:] for n in states[0])


def test_phase_by_phase_is_the_same_as_at_once(tmp_path: Path) -> None:
    run(START + KA, tmp_path)
    for part in ("ka@code_stem_conv", "ka@layer1_0_conv", "ka@scores"):
        run(START + KA, tmp_path, "--until", part, store="parts")
    run(START + KA, tmp_path, store="parts")
    once, parts = (student(START + KA, tmp_path, store) for store in ("store", "parts"))
    assert all(torch.equal(once[n], parts[n]) for n in once)


def test_each_phase_trains_its_own_layer_alone(tmp_path: Path) -> None:
    run(START + KA, tmp_path)
    _, src = sources(START + KA, tmp_path)
    start = materialise(src, Version("ka.fitted")).state_dict()
    trained = {}
    for word in ("stem_conv", "layer1_0_conv", "layer2_0_conv", "scores"):
        state = materialise(src, Version("ka.fitted", f"ka@{word}")).state_dict()
        trained[word] = {n for n in state if not torch.equal(state[n], start[n]) and "bn" not in n}
    assert trained["stem_conv"] == {"stem.conv.layer.weight"}
    assert trained["layer1_0_conv"] == {"stem.conv.map.weight", "layer1.0.conv.layer.weight"}
    assert trained["scores"] == {"layer2.0.conv.map.weight", "fc.weight", "fc.bias"}
    together = materialise(src, Version("ka.layerwise")).state_dict()
    alone = materialise(src, Version("ka.fitted", "ka@layer1_0_conv")).state_dict()
    assert all(torch.equal(together[n], alone[n]) for n in (*trained["layer1_0_conv"], "stem.bn.running_mean"))


def test_an_export_has_the_plain_architecture(tmp_path: Path) -> None:
    text = START + KA + "export whole = both@ka\n"
    run(text, tmp_path)
    arguments = ["--store", str(tmp_path / "store"), "-o", str(tmp_path / "out")]
    assert main(["export", str(tmp_path / "plan.kd"), "whole", *arguments]) == 0
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["architecture"] == {"factory": "digits_net", "arguments": {"width": 6, "classes": 10}}
    assert about["classes"] == [str(i) for i in range(10)]
    _, src = sources(text, tmp_path)
    net, x = materialise(src, JOINT), torch.randn(5, 1, 8, 8)
    assert torch.allclose(load(tmp_path / "out")(x), net(x), atol=1e-4)
    assert not torch.equal(net.stem.conv.map.weight, torch.eye(6)[:, :, None, None])  # type: ignore[union-attr]
    assert about["parameters"] < sum(p.numel() for p in net.parameters())


def test_what_is_not_linear_is_kept(tmp_path: Path) -> None:
    text = (
        START + KA.replace("with quick", "with quick { layers = [stem, layer1[0].conv] }") + "export whole = both@ka\n"
    )
    run(text, tmp_path)
    arguments = ["--store", str(tmp_path / "store"), "-o", str(tmp_path / "out")]
    assert main(["export", str(tmp_path / "plan.kd"), "whole", *arguments]) == 0
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["architecture"]["arguments"]["behind"] == ["stem"]
    net, x = materialise(sources(text, tmp_path)[1], JOINT), torch.randn(5, 1, 8, 8)
    assert torch.allclose(load(tmp_path / "out")(x), net(x), atol=1e-4)


def test_entries_of_a_class_are_one_score_in_the_end(tmp_path: Path) -> None:
    text = OVERLAP + KA + "export whole = both@ka\n"
    text += (
        "ensemble voters of t[*] { join = concat }\nmeasure m of voters, both@ka on digits.test { top1, parameters }\n"
    )
    run(text, tmp_path)
    _, src = sources(text, tmp_path)
    net, x = materialise(src, JOINT), torch.randn(5, 1, 8, 8)
    seen: list[torch.Tensor] = []
    handle = net.fc.layer.register_forward_hook(lambda m, i, o: seen.append(o))  # type: ignore[union-attr, operator]
    out = net(x)
    handle.remove()
    of = [3, 0, 1, 2, 4, 5, 4, 5, 6, 7, 8, 9]
    for k in range(10):
        assert torch.equal(out[:, k], torch.stack([seen[0][:, i] for i, c in enumerate(of) if c == k]).amax(dim=0))
    voters = materialise(src, Version("voters"))
    left, right = (materialise(src, Version(f"t[v={v}]", f"t[v={v}]@train"))(x) for v in ("left", "right"))
    scores = voters(x)
    assert torch.equal(scores[:, 3], left[:, 0]) and torch.equal(scores[:, 9], right[:, 5])
    assert torch.equal(scores[:, 4], torch.maximum(left[:, 4], right[:, 0]))


def test_scores_are_learnt_in_the_students_order(tmp_path: Path) -> None:
    """The student's columns are digits in order, its teachers' are not: a network that gives just the teachers' scores,
    put in order, has no loss."""
    text = START.replace("random(parts = 2, seed = 0)", "{ a = [7, 1, 3, 5, 9]  b = [8, 0, 2, 4, 6] }").replace(
        "= {", "{"
    )
    text += "phase p of both on digits.unlabelled with quick {\n"
    text += "  loss = squared_l2(both.logits, concat(x.logits for x in t[*]))\n}\n"
    run(text + KA, tmp_path)
    from kdplan.graph.assemble import join
    from kdplan.runtime.networks import modules_of

    compiled, src = sources(text + KA, tmp_path)
    phase = compiled.plan.phases["p"]
    networks = modules_of(src, phase)
    graph = join(compiled.plan, phase, networks).graph_module
    images = torch.rand(16, 1, 8, 8)
    a, b = (materialise(src, Version(f"t[v={v}]", f"t[v={v}]@train"))(images) for v in "ab")
    own = networks.trainable[0](images)
    wanted = torch.empty(16, 10)
    wanted[:, [7, 1, 3, 5, 9]], wanted[:, [8, 0, 2, 4, 6]] = a, b
    networks.trainable[0].eval()
    own = networks.trainable[0](images)
    loss = ((own - wanted) ** 2).sum(dim=1).mean()
    assert torch.allclose(graph(inputs_0=images)["loss"], loss, rtol=1e-4)

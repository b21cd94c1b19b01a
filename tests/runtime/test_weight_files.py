"""Networks that start from weights files as people have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kdplan.compile import Compiled, compile_source, inspect
from kdplan.diagnostics.report import Diagnostic, PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir.expr import Version
from kdplan.nn.models import create, initialise
from kdplan.runtime.networks import materialise
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources

State = dict[str, Tensor]
PLAN = """
data digits = digits
recipe quick {{ optimizer = sgd(lr = 0.1)  steps = 2 }}
teacher big = {model} {{ {settings} }}
student small = digits_net(width = 2)
phase kd of small on digits with quick {{ loss = kl(small.logits, big.logits) }}
measure table of big, small@kd on digits.test {{ top1 }}
export out = big
"""


def weights(classes: int = 10, seed: int = 5) -> State:
    return dict(initialise(lambda: create("digits_net", width=4, classes=classes), seed).state_dict())


def compiled(folder: Path, settings: str, model: str = "digits_net(width = 4)") -> Compiled:
    plan = compile_source(Source("plan.kd", PLAN.format(model=model, settings=settings)), folder)
    inspect(plan)
    return plan


def start(folder: Path, plan: Compiled) -> State:
    return dict(materialise(Sources(plan.plan, Store(folder / "store"), plan.keys), Version("big")).state_dict())


def problem(folder: Path, settings: str, model: str = "digits_net(width = 4)") -> Diagnostic:
    with pytest.raises(PlanError) as raised:
        compiled(folder, settings, model)
    [diagnostic] = raised.value.diagnostics
    return diagnostic


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


def prefixed(prefix: str) -> State:
    return {prefix + n: t for n, t in weights().items()}


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (weights(), "all tensors"),
        (prefixed("module."), "prefix `module.` removed"),
        (prefixed("model."), "prefix `model.` removed"),
        (prefixed("_orig_mod."), "prefix `_orig_mod.` removed"),
        (prefixed("module._orig_mod."), "prefix `module.` removed, prefix `_orig_mod.` removed"),
        ({"epoch": 3, "state_dict": prefixed("module.")}, "the tensors are in its entry `state_dict`, prefix"),
        ({"model": weights(), "optimizer": {"lr": 0.1}}, "the tensors are in its entry `model`"),
        (
            {"pytorch-lightning_version": "2.0", "state_dict": prefixed("net.")},
            "it is a checkpoint of Lightning, the tensors are in its entry `state_dict`, prefix `net.` removed",
        ),
    ],
)
def test_files_as_training_scripts_write_them(tmp_path: Path, content: object, notes: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    plan = compiled(tmp_path, 'weights = "w.pth"')
    assert same(start(tmp_path, plan), weights())
    assert plan.files[0].startswith(f"big from w.pth: {notes}")


def test_every_tensor_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = {n: t for n, t in weights(classes=5).items() if not n.startswith("stem.")}
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "w.pth")
    message = problem(tmp_path, 'weights = "w.pth"')
    assert message.code == "KD0830" and message.span is not None and message.span.text == '"w.pth"'
    missing = sorted(n for n in weights() if n.startswith("stem.") and "num_batches" not in n)
    listed = " ".join([message.message, *(note.text for note in message.notes)])
    assert missing and all(name in listed for name in [*missing, "extra.weight", "fc.weight", "fc.bias"])


def test_a_head_of_another_size_must_be_excepted(tmp_path: Path) -> None:
    torch.save(weights(classes=5), tmp_path / "w.pth")
    message = problem(tmp_path, 'weights = "w.pth"')
    assert "`fc.weight` is [5, 16], where [10, 16] is expected" in message.message
    assert message.help is not None and "`except = [fc]`" in message.help
    loaded = start(tmp_path, compiled(tmp_path, 'seed = 3  weights = "w.pth"  except = [fc]'))
    fresh = weights(seed=3)
    assert same(loaded, {n: fresh[n] if n.startswith("fc.") else t for n, t in weights(classes=5).items()})


def test_a_part_is_loaded_and_the_rest_is_drawn_from_the_seed(tmp_path: Path) -> None:
    torch.save({**weights(), "criterion.scale": torch.zeros(1)}, tmp_path / "w.pth")
    loaded = start(tmp_path, compiled(tmp_path, 'seed = 3  weights = "w.pth"  only = [stem, layer1]'))
    file, fresh = weights(), weights(seed=3)
    assert same(loaded, {n: (file if n.startswith(("stem.", "layer1.")) else fresh)[n] for n in file})
    assert not torch.equal(file["fc.weight"], fresh["fc.weight"])


def test_names_are_renamed_as_the_help_says(tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed("module.backbone.")}, tmp_path / "w.pth")
    message = problem(tmp_path, 'weights = "w.pth"')
    assert message.help == 'Write `rename = [["backbone.", ""]]`.'
    assert same(start(tmp_path, compiled(tmp_path, 'weights = "w.pth"  rename = [["backbone.", ""]]')), weights())
    torch.save({n.removeprefix("layer"): t for n, t in weights().items()}, tmp_path / "w.pth")
    renames = 'rename = [["1.", "layer1."], ["2.", "layer2."]]'
    assert same(start(tmp_path, compiled(tmp_path, f'weights = "w.pth"  {renames}')), weights())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("except = [fcc]", "`except` names `fcc`, which neither the network nor the file has"),
        ("only = [layer7]", "`only` names `layer7`"),
        ('rename = [["bakcbone.", ""]]', "no tensor's name begins with `bakcbone.`"),
        ('rename = [["layer1.", "layer2."]]', "`rename` gives several tensors the name `layer2."),
    ],
)
def test_settings_that_name_nothing(tmp_path: Path, settings: str, says: str) -> None:
    torch.save(weights(), tmp_path / "w.pth")
    assert says in problem(tmp_path, f'weights = "w.pth"  {settings}').message


def test_half_precision_and_missing_counters(tmp_path: Path) -> None:
    half = {n: t.half() for n, t in weights().items() if "num_batches_tracked" not in n}
    torch.save(half, tmp_path / "w.pt")
    plan = compiled(tmp_path, 'weights = "w.pt"')
    assert plan.files == ["big from w.pt: float16 converted to float32"]
    loaded = start(tmp_path, plan)
    assert all(torch.equal(loaded[n], t.float()) for n, t in half.items())
    assert loaded.keys() == weights().keys() and loaded["fc.weight"].dtype == torch.float32


def test_integers_are_no_weights(tmp_path: Path) -> None:
    torch.save({**weights(), "fc.weight": torch.zeros(10, 16, dtype=torch.int8)}, tmp_path / "w.pth")
    assert "`fc.weight` is int8" in problem(tmp_path, 'weights = "w.pth"').message


class Config:
    """Something that only unpickling can read."""


def unsafe(path: Path) -> None:
    torch.save({"state_dict": weights(), "config": Config()}, path)


def whole_network(path: Path) -> None:
    torch.save(create("digits_net", width=4), path)


def truncated(path: Path) -> None:
    torch.save(weights(), path)
    path.write_bytes(path.read_bytes()[:-200])


def truncated_safetensors(path: Path) -> None:
    save_file(weights(), path)
    path.write_bytes(path.read_bytes()[:-200])


def old_and_truncated(path: Path) -> None:
    torch.save(weights(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-200])


def empty(path: Path) -> None:
    path.touch()


def prose(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def numbers(path: Path) -> None:
    torch.save({"epoch": 3, "accuracy": 0.9}, path)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (unsafe, "which only unpickling can read"),
        (whole_network, "which only unpickling can read"),
        (truncated, "it is damaged or incomplete"),
        (truncated_safetensors, "neither a safetensors file nor one of torch.save"),
        (old_and_truncated, "it is damaged or incomplete"),
        (empty, "the file is empty"),
        (prose, "neither a safetensors file nor one of torch.save"),
        (numbers, "it holds entries that are no tensors: `epoch` and `accuracy`"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, write: Callable[[Path], None], says: str) -> None:
    write(tmp_path / "w.pth")
    message = problem(tmp_path, 'weights = "w.pth"')
    assert message.code == "KD0835" and says in message.message
    assert message.span is not None and message.span.text == '"w.pth"'
    assert ("unpickling" in says) == (message.help is not None and "state_dict()" in message.help)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"state_dict": weights(), "more": Attack()}, tmp_path / "w.pth")
    assert problem(tmp_path, 'weights = "w.pth"').code == "KD0835"
    assert not (tmp_path / "ran").exists()


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "w.bin")
    assert same(start(tmp_path, compiled(tmp_path, 'weights = "w.bin"')), weights())


def test_a_network_whose_own_names_begin_so_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.model = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        return self.model(x.flatten(1))\n"
        "def net():\n    return Net()\n"
    )
    state = {"model.weight": torch.ones(10, 64), "model.bias": torch.zeros(10)}
    torch.save({f"module.{n}": t for n, t in state.items()}, tmp_path / "w.pth")
    text = 'use "net.py" as my\n' + PLAN.format(model="my.net()", settings='weights = "w.pth"')
    plan = compile_source(Source("plan.kd", text), tmp_path)
    inspect(plan)
    assert same(start(tmp_path, plan), state)


# ---- the architectures' own `weights`


@pytest.mark.parametrize(
    ("library", "name", "argument"),
    [("torchvision", "resnet18", "weights"), ("timm", "resnet10t", "weights"), ("timm", "resnet10t", "checkpoint")],
)
def test_libraries_refuse_a_head_of_another_size(tmp_path: Path, library: str, name: str, argument: str) -> None:
    net = initialise(lambda: create(library, name=name, classes=5), 1)
    torch.save({"model": dict(net.state_dict())}, tmp_path / "w.pth")
    model = f'{library}("{name}", classes = 10, channels = 1, {argument} = "w.pth")'
    message = problem(tmp_path, "", model)
    assert message.code == "KD0830" and "`fc.weight` is [5, 512], where [10, 512] is expected" in message.message
    assert message.span is not None and message.span.text == '"w.pth"'
    loaded = start(tmp_path, compiled(tmp_path, "except = [fc]", model))
    assert torch.equal(loaded["layer4.0.conv1.weight"], net.get_parameter("layer4.0.conv1.weight"))
    assert loaded["fc.weight"].shape == (10, 512)


def test_named_weights_refuse_a_head_of_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights  # type: ignore[import-untyped]

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = initialise(lambda: create("torchvision", name="resnet18"), 3)
    file = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    torch.save(source.state_dict(), file)
    model = 'torchvision("resnet18", classes = 10, channels = 1, weights = "IMAGENET1K_V1")'
    message = problem(tmp_path, "", model)
    assert message.code == "KD0830" and "`fc.weight` is [1000, 512]" in message.message
    loaded = start(tmp_path, compiled(tmp_path, "except = [fc]", model))
    assert torch.equal(loaded["layer1.0.conv1.weight"], source.get_parameter("layer1.0.conv1.weight"))
    assert loaded["fc.weight"].shape == (10, 512)
    file.write_bytes(b"no tensors at all")
    assert problem(tmp_path, "except = [fc]", model).code == "KD0835"


def test_alexnet_reads_the_names_of_torchvision(tmp_path: Path) -> None:
    with torch.device("meta"):
        net = create("torchvision", name="alexnet", classes=10)
    torch.save({n: torch.full(t.shape, 0.5) for n, t in net.state_dict().items()}, tmp_path / "w.pth")
    plan = compile_source(Source("plan.kd", 'teacher big = alexnet(weights = "w.pth")'), tmp_path)
    inspect(plan)
    assert all(t.eq(0.5).all() for t in start(tmp_path, plan).values())


def test_a_network_that_is_only_measured_is_checked(tmp_path: Path) -> None:
    torch.save(weights(classes=5), tmp_path / "w.pth")
    text = """
    data digits = digits
    teacher big = digits_net(width = 4) { weights = "w.pth" }
    measure table of big on digits.test { top1 }
    """
    with pytest.raises(PlanError) as raised:
        inspect(compile_source(Source("plan.kd", text), tmp_path))
    assert [d.code for d in raised.value.diagnostics] == ["KD0830"]

"""Checkpoints with several tables, tied tensors, old names, averaged and quantized weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save as as_bytes
from safetensors.torch import save_file, save_model
from torch import nn

from kdplan.compile import compile_source, inspect
from kdplan.diagnostics.report import Diagnostic, PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir.expr import Version
from kdplan.ir.user_code import module_of_file
from kdplan.runtime.networks import materialise
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.runtime.test_weight_files import State, compiled, prefixed, problem, same, start, weights

NETS = """
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 64, bias=False)
        self.outer = nn.Linear(64, 64, bias=False)
        self.outer.weight = self.inner.weight
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.outer(self.inner(x.flatten(1))))

class Renamed(Tied):
    # its files had another name for `fc`

    def _load_from_state_dict(self, state_dict, prefix, *more):
        for name in ("weight", "bias"):
            if f"{prefix}classifier.{name}" in state_dict:
                state_dict[f"{prefix}fc.{name}"] = state_dict.pop(f"{prefix}classifier.{name}")
        super()._load_from_state_dict(state_dict, prefix, *more)

class Loading(Tied):
    # the same in `load_state_dict`, with its own parameters

    def load_state_dict(self, state, strict=True):
        return super().load_state_dict({n.replace("classifier", "fc"): t for n, t in state.items()}, strict)

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = weight_norm(nn.Linear(64, 10))

    def forward(self, x):
        return self.fc(x.flatten(1))
"""
PLAN = """
use "nets.py" as my
data digits = digits
recipe quick {{ optimizer = sgd(lr = 0.1)  steps = 2 }}
student net = my.{name}() {{ {settings} }}
phase p of net on digits with quick {{ loss = cross_entropy(net.logits, labels) }}
"""


def own(folder: Path, name: str, settings: str) -> tuple[State, list[str]]:
    """The weights with which a network of `nets.py` starts, and what was recognised in its file."""
    (folder / "nets.py").write_text(NETS)
    plan = compile_source(Source("plan.kd", PLAN.format(name=name, settings=settings)), folder)
    inspect(plan)
    net = materialise(Sources(plan.plan, Store(folder / "store"), plan.keys), Version("net"))
    return dict(net.state_dict()), plan.files


def made(folder: Path, name: str) -> nn.Module:
    (folder / "nets.py").write_text(NETS)
    torch.manual_seed(1)
    net: nn.Module = getattr(module_of_file(folder / "nets.py"), name)()
    return net


def refused(folder: Path, name: str, settings: str) -> Diagnostic:
    with pytest.raises(PlanError) as raised:
        own(folder, name, settings)
    (found,) = raised.value.diagnostics
    return found


# ---- several tables


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        ({"model": weights(seed=1), "model_ema": weights()}, "model_ema"),
        ({"state_dict": weights(seed=1), "state_dict_ema": prefixed("module.")}, "state_dict_ema"),
        ({"student": weights(seed=1), "teacher": weights()}, "teacher"),
        ({"epoch": 3, "models": {"student": weights(), "teacher": weights(seed=1)}}, "models.student"),
        ({"ema": {"decay": 0.9, "state_dict": weights()}, "model": weights(seed=1)}, "ema"),
        ({"net.ema": weights(), "net": weights(seed=1)}, "net.ema"),
    ],
)  # fmt: skip
def test_entry_chooses_a_table(content: object, entry: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    plan = compiled(tmp_path, f'weights = "w.pth"  entry = "{entry}"')
    assert same(start(tmp_path, plan), weights())
    assert f"the tensors are in its entry `{entry}`" in plan.files[0]


def test_other_tables_are_named(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}
    torch.save({"model": weights(), "model_ema": weights(seed=1), "optimizer": optimizer}, tmp_path / "w.pth")
    plan = compiled(tmp_path, 'weights = "w.pth"')
    assert "in its entry `model`, `entry` chooses another of its tables: `model_ema`" in plan.files[0]


def test_a_file_of_several_tables_without_a_choice(tmp_path: Path) -> None:
    torch.save({"student": weights(), "teacher": weights(seed=1)}, tmp_path / "w.pth")
    found = problem(tmp_path, 'weights = "w.pth"')
    assert found.code == "KD0835"
    assert found.help == 'Choose its table of tensors: `entry = "student"` or `entry = "teacher"`.'


@pytest.mark.parametrize(
    ("entry", "help"),
    [("modle_ema", 'Did you mean `entry = "model_ema"`?'), ("x", 'Choose one of its tables: `entry = "model"` or')],
)
def test_an_entry_that_is_not_there(entry: str, help: str, tmp_path: Path) -> None:
    torch.save({"model": weights(), "model_ema": weights(seed=1)}, tmp_path / "w.pth")
    found = problem(tmp_path, f'weights = "w.pth"  entry = "{entry}"')
    assert found.code == "KD0835" and f"it has no entry `{entry}`" in found.message
    assert found.help is not None and found.help.startswith(help)


def test_a_safetensors_file_has_no_entries(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "w.safetensors")
    assert problem(tmp_path, 'weights = "w.safetensors"  entry = "ema"').help == "Delete `entry`."


def test_entry_without_a_file(tmp_path: Path) -> None:
    assert problem(tmp_path, 'entry = "ema"').code == "KD0834"


def test_the_entry_is_part_of_the_key(tmp_path: Path) -> None:
    torch.save({"model": weights(), "model_ema": weights(seed=1)}, tmp_path / "w.pth")
    plans = [compiled(tmp_path, f'weights = "w.pth"  {more}') for more in ("", 'entry = "model_ema"')]
    assert plans[0].keys != plans[1].keys


@pytest.mark.parametrize("start_of_header", [0x80, 0x4B50])
def test_a_safetensors_header_of_any_length(start_of_header: int, tmp_path: Path) -> None:
    """The first bytes are the header's length, which may look like those of a pickle or of an archive."""
    content = as_bytes(weights())
    length = int.from_bytes(content[:8], "little")
    wanted = next(
        n for n in range(length, 1 << 20) if n & (0xFF if start_of_header < 256 else 0xFFFF) == start_of_header
    )
    header = content[8 : 8 + length].ljust(wanted)
    (tmp_path / "w.safetensors").write_bytes(wanted.to_bytes(8, "little") + header + content[8 + length :])
    assert same(start(tmp_path, compiled(tmp_path, 'weights = "w.safetensors"')), weights())


def test_a_checkpoint_that_holds_itself(tmp_path: Path) -> None:
    held: dict[str, object] = {"ema": weights()}
    held["model"] = held
    torch.save(held, tmp_path / "w.pth")
    assert problem(tmp_path, 'weights = "w.pth"').code == "KD0835"
    assert same(start(tmp_path, compiled(tmp_path, 'weights = "w.pth"  entry = "ema"')), weights())


def test_keys_with_dots(tmp_path: Path) -> None:
    torch.save({"a": {"b.c": weights()}, "a.b": {"d": 1}}, tmp_path / "w.pth")
    assert same(start(tmp_path, compiled(tmp_path, 'weights = "w.pth"  entry = "a.b.c"')), weights())
    torch.save({"ema": {"model": weights(seed=1), "other": weights()}}, tmp_path / "w.pth")
    plan = compiled(tmp_path, 'weights = "w.pth"  entry = "ema"')
    assert "`entry` chooses another of its tables: `ema.other`" in plan.files[0]
    assert same(start(tmp_path, compiled(tmp_path, 'weights = "w.pth"  entry = "ema.other"')), weights())


@pytest.mark.parametrize("name", ["x" * 300 + ".pth", "circle.pth"])
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    (tmp_path / "circle.pth").symlink_to(tmp_path / "circle.pth")
    assert problem(tmp_path, f'weights = "{name}"').code == "KD0211"


def test_nothing_loaded(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "w.pth")
    found = problem(tmp_path, 'weights = "w.pth"  only = [fc]  except = [fc]')
    assert found.code == "KD0830" and "no tensor of the file is loaded" in found.message


# ---- names


def test_tied_tensors_of_which_the_file_has_one(tmp_path: Path) -> None:
    net = made(tmp_path, "Tied")
    save_model(net, str(tmp_path / "w.safetensors"))
    assert same(own(tmp_path, "Tied", 'weights = "w.safetensors"')[0], dict(net.state_dict()))
    state = dict(net.state_dict())
    del state["inner.weight"]
    torch.save(state, tmp_path / "w.pth")
    assert same(own(tmp_path, "Tied", 'weights = "w.pth"')[0], dict(net.state_dict()))
    del state["outer.weight"]
    torch.save(state, tmp_path / "w.pth")
    found = refused(tmp_path, "Tied", 'weights = "w.pth"')
    assert found.code == "KD0830" and "lacks `inner.weight` and `outer.weight`" in found.message


@pytest.mark.parametrize("name", ["Renamed", "Loading"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_that_the_network_translates_itself(name: str, prefix: str, tmp_path: Path) -> None:
    net = made(tmp_path, name)
    old = {prefix + n.replace("fc.", "classifier."): t for n, t in net.state_dict().items()}
    torch.save(old, tmp_path / "w.pth")
    loaded, lines = own(tmp_path, name, 'weights = "w.pth"')
    assert same(loaded, dict(net.state_dict()))
    assert "names translated by the network's own hooks" in lines[0]
    del old[f"{prefix}classifier.bias"]
    torch.save({**old, f"{prefix}extra": torch.ones(1)}, tmp_path / "w.pth")
    found = refused(tmp_path, name, 'weights = "w.pth"')
    assert found.code == "KD0830" and "`fc.bias`" in found.message and "extra`" in found.message
    torch.save({**old, f"{prefix}classifier.bias": torch.ones(3)}, tmp_path / "w.pth")
    assert refused(tmp_path, name, 'weights = "w.pth"').code == "KD0830"


def test_old_names_of_weight_norm(tmp_path: Path) -> None:
    net = made(tmp_path, "Normed")
    state = dict(net.state_dict())
    old = {"fc.bias": state["fc.bias"]}
    old |= {f"fc.weight_{n}": state[f"fc.parametrizations.weight.original{i}"] for i, n in enumerate("gv")}
    torch.save(old, tmp_path / "w.pth")
    assert same(own(tmp_path, "Normed", 'weights = "w.pth"')[0], state)


def test_averaged_models(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(made(tmp_path, "Tied"))
    torch.save(averaged.state_dict(), tmp_path / "w.pth")
    assert same(own(tmp_path, "Tied", 'weights = "w.pth"')[0], dict(averaged.module.state_dict()))


# ---- numbers


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.quantize_per_tensor(torch.zeros(10, 64), 0.1, 0, torch.qint8), "`fc.weight` is quantized"),
        (torch.zeros(10, 64).to_sparse(), "`fc.weight` is sparse"),
        (torch.zeros(10, 64, device="meta"), "`fc.weight` is on the meta device, without numbers"),
    ],
)
def test_tensors_that_are_no_weights(value: torch.Tensor, says: str, tmp_path: Path) -> None:
    torch.save({**made(tmp_path, "Tied").state_dict(), "fc.weight": value}, tmp_path / "w.pth")
    found = refused(tmp_path, "Tied", 'weights = "w.pth"')
    assert found.code == "KD0835" and says in found.message and found.help is not None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.zeros(10, 64, dtype=torch.int32), "`fc.weight` is int32, where floating-point numbers are expected"),
        (torch.zeros(10, 64, dtype=torch.complex64), "`fc.weight` is complex64, where floating-point numbers are"),
    ],
)
def test_other_kinds_of_numbers(value: torch.Tensor, says: str, tmp_path: Path) -> None:
    torch.save({**made(tmp_path, "Tied").state_dict(), "fc.weight": value}, tmp_path / "w.pth")
    assert says in refused(tmp_path, "Tied", 'weights = "w.pth"').message


def test_eight_bits(tmp_path: Path) -> None:
    state = dict(made(tmp_path, "Tied").state_dict())
    torch.save({n: t.to(torch.float8_e4m3fn) for n, t in state.items()}, tmp_path / "w.pth")
    loaded, lines = own(tmp_path, "Tied", 'weights = "w.pth"')
    assert "float8_e4m3fn converted to float32" in lines[0]
    assert torch.allclose(loaded["fc.weight"], state["fc.weight"], rtol=0.1, atol=0.01)


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    state = dict(made(tmp_path, "Tied").state_dict())
    state["fc.bias"] = torch.full((10,), torch.nan)
    torch.save(state, tmp_path / "w.pth")
    assert "not all numbers in `fc.bias` are finite" in own(tmp_path, "Tied", 'weights = "w.pth"')[1][0]

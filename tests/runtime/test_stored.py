"""Values of frozen networks that are computed once: the same training, shared, resumed, repaired."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdplan.cli import main
from kdplan.cli.inputs import compile_file, open_store
from kdplan.cli.parser import parser
from kdplan.diagnostics.report import PlanError
from kdplan.runtime import frozen_values as stored
from kdplan.runtime.interrupt import Interrupt
from kdplan.runtime.store.atomic import digest_file

HEAD = """
data digits = digits { limit = 300 }
recipe first { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 1  batch = 64 }
recipe kept = first { epochs = 3  frozen = stored }
recipe chosen = first { epochs = 3  frozen = auto }
recipe alive = first { epochs = 3 }
student small = digits_net(width = 2)
teacher big = digits_net(width = 4) { phase train on digits with first { loss = cross_entropy(self.logits, labels) } }
"""
KD = "loss = kd(small.logits, big.logits, temperature = 4) + mse(fit(small.layer2, like = big.layer2), big.layer2)"


def planned(file: Path):
    given = parser().parse_args(["plan", str(file), "--store", str(file.parent / "store")])
    return compile_file(given, open_store(given))


def run(folder: Path, text: str) -> dict[str, dict[str, torch.Tensor]]:
    """Run a plan; phase -> weights of its student."""
    file = folder / "a.kd"
    file.write_text(HEAD + text, encoding="utf-8")
    assert main(["run", str(file), "--store", str(folder / "store"), "--device", "cpu"]) == 0
    keys = planned(file).keys
    return {n: load_file(folder / "store/phases" / k.key / "weights-0-last.safetensors") for n, k in keys.items()}


def folders(folder: Path) -> list[Path]:
    return sorted((folder / "store/values").iterdir())


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(t.double(), two[n].double(), rtol=1e-3, atol=1e-4) for n, t in one.items())


def test_training_is_the_same_and_values_are_shared(tmp_path: Path) -> None:
    weights = run(tmp_path, f"""
        phase live of small on digits with alive {{ {KD} }}
        phase kept of small on digits with kept {{ {KD} }}
        phase other of small on digits with kept {{ loss = mse(small.logits, big.logits) }}
        """)  # fmt: skip
    assert close(weights["live"], weights["kept"])
    assert len(folders(tmp_path)) == 2  # layer2 and logits; `other` reads the same logits
    values = [load_file(f / "shard-0/values.safetensors")["value"] for f in folders(tmp_path)]
    assert sorted(v.shape for v in values) == [(300, 10), (300, 16, 2, 2)]


def test_equal_values_of_one_phase_are_made_once(tmp_path: Path) -> None:
    twins = "network one = digits_net(width = 4) { seed = 1 }\nnetwork two = digits_net(width = 4) { seed = 1 }\n"
    loss = "loss = mse(small.logits, one@init.logits) + kl(small.logits, two@init.logits)"
    weights = run(tmp_path, f"""{twins}
        phase live of small on digits with alive {{ {loss} }}
        phase kept of small on digits with kept {{ {loss} }}
        """)  # fmt: skip
    assert close(weights["live"], weights["kept"])
    assert len(folders(tmp_path)) == 1


def test_sparse_targets_are_stored_sparse(tmp_path: Path) -> None:
    loss = "loss = cross_entropy(small.logits, top(softmax(big.logits), 3))"
    weights = run(tmp_path, f"""
        phase live of small on digits with alive {{ {loss} }}
        phase kept of small on digits with kept {{ {loss} }}
        """)  # fmt: skip
    assert close(weights["live"], weights["kept"])
    shapes = {tuple(load_file(f / "shard-0/values.safetensors")["value"].shape) for f in folders(tmp_path)}
    assert shapes == {(300, 3)}


def test_a_value_behind_a_stored_one_begins_there(tmp_path: Path) -> None:
    run(tmp_path, """
        phase one of upto(small.layer2) on digits with kept {
          loss = mse(fit(small.layer2, like = big.layer2), big.layer2)
        }
        """)  # fmt: skip
    shard = folders(tmp_path)[0] / "shard-0"
    value = load_file(shard / "values.safetensors")["value"]
    save_file({"value": torch.zeros_like(value)}, shard / "values.safetensors")
    old = shard / "manifest.json"
    text = old.read_text().partition('"sha256": "')
    old.write_text(text[0] + text[1] + digest_file(shard / "values.safetensors") + text[2][64:])
    run(tmp_path, "phase two of small on digits with kept { loss = mse(small.logits, big.logits) }")
    values = [load_file(f / "shard-0/values.safetensors")["value"] for f in folders(tmp_path)]
    logits = next(v for v in values if v.shape == (300, 10))
    assert torch.equal(logits, logits[:1].expand_as(logits))  # of zeros, so all samples are alike


def test_images_that_nothing_reads_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = stored.StoredValues.of

    def spy(self: stored.StoredValues, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(sorted(batch))
        return real(self, batch)

    monkeypatch.setattr(stored.StoredValues, "of", spy)
    run(tmp_path, """
        network head = digits_net(width = 4)
        phase p of head.fc on digits with kept { loss = cross_entropy(head.fc(big.features), labels) }
        """)  # fmt: skip
    assert set(map(tuple, seen)) == {("indices_0", "labels_0")}


def test_storing_goes_on_behind_the_last_whole_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "SHARD", 1)  # a shard a batch
    text = "phase one of small on digits with kept { loss = mse(small.logits, big.logits) }"
    real = stored.Keeper._run
    calls = []

    def stopping(self: stored.Keeper, graph: object, known: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        calls.append(len(known["indices_0"]))
        if len(calls) == 4:  # of the first batch twice: once for the check
            self.interrupt = Interrupt()
            self.interrupt.requested = True
        return real(self, graph, known)

    monkeypatch.setattr(stored.Keeper, "_run", stopping)
    file = tmp_path / "a.kd"
    file.write_text(HEAD + text, encoding="utf-8")
    assert main(["run", str(file), "--store", str(tmp_path / "store"), "--device", "cpu"]) == 75
    assert len(list(folders(tmp_path)[0].glob("shard-*"))) == 3
    last = folders(tmp_path)[0] / "shard-2/values.safetensors"
    last.write_bytes(last.read_bytes()[:-1] + b"?")  # damaged: made again
    calls[:] = [0] * 10
    run(tmp_path, text)
    assert calls[10:] == [64, 32, 64, 44]  # the third batch, its half for the check, and what was left
    value = [load_file(f)["value"] for f in sorted(folders(tmp_path)[0].glob("shard-*/values.safetensors"))]
    assert [len(v) for v in value] == [64, 64, 64, 64, 44]


def test_auto_stores_where_it_is_possible_and_pays(tmp_path: Path) -> None:
    file = tmp_path / "a.kd"
    file.write_text(HEAD + """
        teacher deep = cifar_resnet(depth = 20, channels = 1) {
          phase train on digits with first { loss = cross_entropy(self.logits, labels) }
        }
        data moved = digits { limit = 300  augment = [pad_crop(8, pad = 1)] }
        phase cheap of upto(small.layer1) on digits with chosen {
          loss = mse(fit(small.layer1, like = big.layer1), big.layer1)
        }
        phase dear of small on digits with chosen { loss = mse(small.logits, deep.logits) }
        phase random of small on moved with chosen { loss = mse(small.logits, deep.logits) }
        """)  # fmt: skip
    from kdplan.compile import inspect

    built = planned(file)
    inspect(built)
    costs = {n: p.cost for n, p in built.planned.items()}
    assert [n for n, c in costs.items() if c.stored] == ["dear"]
    assert costs["dear"].stored_bytes == 300 * 10 * 4
    assert costs["dear"].flops_step < costs["random"].flops_step / 10


def test_values_that_depend_on_the_batch_are_refused(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("""
from torch import nn

class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.fc(x.flatten(1))
        return self.fc.weight.sum() * (x - x.mean(0))

def net():
    return Mixed()
""")
    file = tmp_path / "a.kd"
    file.write_text(HEAD + """
        use "my.py" as my
        teacher odd = my.net() { phase train on digits with first { loss = cross_entropy(self.logits, labels) } }
        phase p of small on digits with kept { loss = mse(small.logits, odd.logits) }
        """)  # fmt: skip
    built = planned(file)
    given = ["run", str(file), "--store", str(tmp_path / "store"), "--device", "cpu"]
    assert "p" in built.planned and main(given) == 1
    with pytest.raises(PlanError, match="depends on the other samples of its batch"):
        from kdplan.runtime.execute import run_plan
        from kdplan.runtime.options import RunOptions
        from kdplan.runtime.store import Store

        result = run_plan(built.plan, built.planned, built.keys, Store(tmp_path / "store"), RunOptions(device="cpu"))
        raise result.failed["p"]

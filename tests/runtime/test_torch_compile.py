"""`compile = true`: one size of a batch is compiled, and all others run as they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from kdplan.ir.plan import Recipe
from kdplan.runtime import torch_compile
from kdplan.runtime.interrupt import Interrupted
from kdplan.runtime.loop import Training
from kdplan.runtime.store import Store
from tests.runtime.small import job, network, recipe, same, train
from tests.runtime.test_resume import StopAt


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The sizes of the batches that compiled code saw; a compiler that changes nothing stands in for torch's."""
    seen: list[int] = []

    def stub(module: nn.Module, **settings: Any) -> Callable[..., Any]:
        assert settings == {"dynamic": False}

        def call(**inputs: Tensor) -> Any:
            seen.append(len(inputs["inputs_0"]))
            return module(**inputs)

        return call

    monkeypatch.setattr(torch, "compile", stub)
    monkeypatch.setenv(torch_compile.CACHE, str(tmp_path / "cache"))
    return seen


def settings(**more: Any) -> Recipe:
    return recipe(compile=True, **more)


@pytest.mark.parametrize(
    ("more", "full", "calls"),
    [
        ({"batch": 64}, 64, 4),  # 300 images: 4 of 64, and 44
        ({"batch": 100}, 100, 3),
        ({"batch": 512}, 300, 1),
        ({"batch": 64, "drop_last": True}, 64, 4),
        ({"batch": 32, "accumulate": 4}, 32, 9),  # 128 + 128 + (32 + 12)
        ({"batch": 64, "shards": 3}, 22, 4),  # 22 + 21 + 21, and 15 + 15 + 14
    ],
    ids=str,
)
def test_only_full_batches_are_compiled(
    more: dict[str, Any], full: int, calls: int, sizes: list[int], tmp_path: Path
) -> None:
    one, other = network(), network()
    train(tmp_path / "a", settings(**more), one)
    assert sizes == [full] * calls * 2  # two epochs
    train(tmp_path / "b", recipe(**more), other)
    assert same(one, other)


def test_a_run_that_begins_with_the_short_batch(sizes: list[int], tmp_path: Path) -> None:
    """It does not take that for the full one."""
    interrupt = StopAt(4)
    with Store(tmp_path).begin("k") as work:
        training = Training(job(work, settings(), network(), interrupt=interrupt))
        interrupt.training = training
        with pytest.raises(Interrupted):
            training.run()
    sizes.clear()
    train(tmp_path, settings(), network(1))
    assert sizes == [64] * 4


def test_where_compiled_code_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(torch_compile.CACHE, "mine")
    torch_compile.keep_compiled()
    assert os.environ[torch_compile.CACHE] == "mine"
    monkeypatch.delenv(torch_compile.CACHE)
    torch_compile.keep_compiled()
    assert os.environ[torch_compile.CACHE] == str(tmp_path / "cache" / "compiled")
    monkeypatch.delenv(torch_compile.CACHE)
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDPLAN_CACHE", str(tmp_path / "file"))
    torch_compile.keep_compiled()
    assert torch_compile.CACHE not in os.environ


def test_the_key_has_what_is_compiled() -> None:
    plan = """
    data digits = digits {{ limit = 60 }}
    student small = digits_net(width = 2)
    recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1 {} }}
    phase alone of small on digits with quick {{ loss = cross_entropy(small.logits, labels) }}
    """
    parts = [
        {c.path: c.value for c in compile_source(Source("a.kd", plan.format(s)), Path(".")).keys["alone"].components}
        for s in ("", "compile = false", "compile = true")
    ]
    assert parts[0] == parts[1] and parts[2] == parts[0] | {"recipe/0/compile": "True 2"}

"""A second device on a machine that has none: torch's `meta`, from which no number can be read.

Whatever would wait for a GPU raises here, or is noted: reading a number, a mask that chooses as many rows as it likes,
a copy from the CPU's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdplan.compile import compile_source
from kdplan.data.loader import Loader
from kdplan.diagnostics.span import Source
from kdplan.runtime import loop
from kdplan.runtime.loop import Job, Training
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import PhaseRun, make_job
from kdplan.runtime.store import Store
from kdplan.runtime.store.work import Work
from kdplan.runtime.streams import Streams
from kdplan.runtime.versions import Sources
from kdplan.runtime.views import opened

META = torch.device("meta")


@dataclass
class Noted:
    """What happened on the way to the device and back."""

    waits: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    """Copies from the CPU that it does not wait for."""


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, Tensor)]


class _Dispatched(TorchDispatchMode):
    def __init__(self, noted: Noted) -> None:
        super().__init__()
        self.noted = noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given, name = _tensors((args, kwargs)), str(func)
        there = [t.device.type == "meta" for t in given]
        if "_local_scalar_dense" in name or "nonzero" in name or "aten.equal" in name:
            if any(there):
                self.noted.waits.append(name)
        elif name.startswith("aten._to_copy") and any(there) != (torch.device(kwargs.get("device") or "meta") == META):
            if kwargs.get("device") is not None:
                to_device = not any(there)
                quiet = to_device and kwargs.get("non_blocking", False)
                (self.noted.copies if quiet else self.noted.waits).append(name)
        elif any(there) and not all(there):
            mixed = [t for t in given if t.device.type == "cpu"]
            if name.startswith("aten.copy_"):
                quiet = given[0].device == META and (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
                (self.noted.copies if quiet else self.noted.waits).append(name)
            elif any(t.dim() for t in mixed):  # a scalar goes along as a number
                self.noted.waits.append(f"{name} of two devices")
        elif name.startswith("aten.index.Tensor") and any(t.dtype == torch.bool for t in given[1:]):
            self.noted.waits.append(f"{name} with a mask")
        return func(*args, **kwargs)


class _Called(TorchFunctionMode):
    def __init__(self, noted: Noted) -> None:
        super().__init__()
        self.noted = noted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None:
            source = args[0] if args else None
            on_cpu = not isinstance(source, Tensor) or source.device.type == "cpu"
            if torch.device(kwargs["device"]) == META and on_cpu:
                self.noted.waits.append(f"{func.__name__} of numbers")
        return func(*args, **kwargs)


@contextmanager
def noting() -> Iterator[Noted]:
    """Within it, what waits for the second device is noted."""
    noted = Noted()
    with _Dispatched(noted), _Called(noted):
        yield noted


HEAD = """
data digits = digits {{ limit = 300 {data} }}
recipe quick {{ optimizer = {optimizer}  epochs = 2  batch = 64  {recipe} }}
teacher big = digits_net(width = 4)
student small = digits_net(width = 2)
"""


def plan_text(phase: str, optimizer: str = "sgd(lr = 0.1, momentum = 0.9)", recipe: str = "", data: str = "") -> str:
    return HEAD.format(optimizer=optimizer, recipe=recipe, data=data) + phase


def job_of(text: str, work: Work, store: Store, device: str = "cpu", folder: Path = Path()) -> Job:
    """The last phase of a plan, on a device; `folder` is the plan's and has its data."""
    compiled = compile_source(Source("plan.kd", text), folder, folder)
    assert compiled.plan is not None, compiled
    phase = list(compiled.plan.phases.values())[-1]
    sources = Sources(compiled.plan, store, compiled.keys)
    run = PhaseRun(sources, RunOptions(device=device, data_root=folder))
    return make_job(run, phase, compiled.keys[phase.name].key, work, torch.device(device))


def there(job: Job, text: str) -> Job:
    """The same job on the second device."""
    plan = compile_source(Source("plan.kd", text), Path(".")).plan
    assert plan is not None
    phase = list(plan.phases.values())[-1]
    recipe = phase.recipes[0]
    sets = [opened(plan, view, None, META) for view in phase.streams]
    job.streams = Streams(
        [Loader(d, recipe.batch_of(n) * recipe.accumulate, phase.seed, train=True, drop_last=recipe.drop_last, stream=n)
         for n, d in enumerate(sets)]
    )  # fmt: skip
    job.device = META
    if job.stored is not None:
        job.stored.device = META
    return job


@contextmanager
def training_there(text: str, folder: Path, monkeypatch: Any) -> Iterator[Training]:
    """The last phase of a plan, ready on the second device; its start may read numbers, and does not here."""
    monkeypatch.setattr(loop, "are_finite", lambda tensor: torch.tensor(True))
    store = Store(folder)
    with store.begin("k") as work:
        job = there(job_of(text, work, store), text)
        job.progress_seconds = job.checkpoint_seconds = 1e9  # nothing is reported or saved meanwhile
        torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects, as on a GPU
        try:
            training = Training(job)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        training.first = None  # the first batch of a run is compared with the networks themselves
        yield training

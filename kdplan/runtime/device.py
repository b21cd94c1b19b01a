"""The device of a run, determinism, threads, and a record of the environment."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

import torch

from kdplan.diagnostics.report import error
from kdplan.ir.dag import Cost
from kdplan.ir.plan import Plain
from kdplan.runtime.options import processes


def choose_device(name: str = "auto") -> torch.device:
    """The device with this name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    `auto` is the first GPU, or the CPU where there is none. Of several processes on a machine each has the next GPU.

    Raises
    ------
    PlanError
        KD0810 if the device is not there, KD0811 if there is no such kind of device.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    own = int(os.environ.get("LOCAL_RANK", 0)) % max(1, torch.cuda.device_count()) if processes() > 1 else 0
    if name == "auto":
        return torch.device("cuda", own) if cuda else torch.device("mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise error("KD0811", None, name=name) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise error("KD0811", None, name=name)
    count = torch.cuda.device_count() if cuda else 0
    there = {"cpu": True, "mps": mps, "cuda": (device.index or 0) < count}[device.type]
    if not there:
        available = [f"cuda:{i}" for i in range(count)] + ["mps"] * mps + ["cpu"]
        raise error("KD0810", None, name=name, found=", ".join(available))
    if device.type != "cuda":
        return device
    return torch.device("cuda", own if device.index is None else device.index)


def set_determinism(deterministic: bool) -> None:
    """Makes GPU arithmetic repeat exactly where `deterministic`; CPU arithmetic does so anyway.

    Float32 is float32: by itself torch lets convolutions on a GPU round their inputs to TF32.
    """
    if deterministic:
        # cuBLAS reads it when it creates its first handle, so it must be set before any work on the GPU.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # to say it imports torch's compiler
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = False


FLOPS_PER_THREAD = 3e8
"""Forward operations of a batch that are worth another thread: below, waking it takes longer than its work."""
MOST_THREADS = 4
"""More only where a recipe asks for them."""


def threads_worth(flops: int) -> int:
    """The threads that steps with so many forward operations are worth.

    >>> threads_worth(1000), threads_worth(10**12)
    (1, 4)
    """
    return max(1, min(MOST_THREADS, round(flops / FLOPS_PER_THREAD)))


def threads_predicted(cost: Cost | None) -> int:
    """The threads of a phase by its predicted cost, of which a forward pass is about a third; 1 where none is known."""
    return threads_worth(cost.flops_step // 3) if cost is not None else 1


@contextmanager
def threads_for(flops: int, chosen: int | None = None, exact: bool = True) -> Iterator[None]:
    """Runs its body on `chosen` threads, or on as many as its steps are worth.

    The number follows from the plan alone, not from the machine or its load: sums are rounded by it. Unless `exact`,
    for work that a GPU does, there may be fewer.

    Raises
    ------
    PlanError
        KD0933 where settings of OpenMP allow fewer threads: the same key would get other bits.

    >>> with threads_for(1000):
    ...     torch.get_num_threads()
    1
    >>> with threads_for(10**12):
    ...     torch.get_num_threads()
    4
    """
    before = torch.get_num_threads()
    wanted = chosen or threads_worth(flops)
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    allowed = min(wanted, int(limit)) if limit.isdigit() else wanted  # more would wait for ever
    if exact and allowed < wanted:
        raise error("KD0933", None, threads=wanted, name="OMP_THREAD_LIMIT", value=limit)
    if exact and wanted > 1 and os.environ.get("OMP_DYNAMIC", "").strip().lower() == "true":
        raise error("KD0933", None, threads=wanted, name="OMP_DYNAMIC", value=os.environ["OMP_DYNAMIC"])
    torch.set_num_threads(allowed)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rounding(device: torch.device, sums: str) -> dict[str, str]:
    """What the last bits of a step depend on besides the plan, such as how processes sum: a checkpoint has it.

    >>> sorted(rounding(torch.device("cpu"), "in a fixed order"))
    ['device', 'sums', 'system', 'torch']
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "torch": str(torch.__version__),
        "system": f"{platform.system()} {platform.machine()}",
        "device": name,
        "sums": sums,
    }


def other_rounding(now: Mapping[str, str], before: Mapping[str, str]) -> str:
    """How `rounding` differs from what a checkpoint has; "" where it does not.

    >>> other_rounding({"device": "cpu"}, {"device": "H200"})
    'device H200 then and cpu now'
    """
    return " and ".join(f"{n} {before[n]} then and {v} now" for n, v in now.items() if before.get(n, v) != v)


def environment(device: torch.device, deterministic: bool) -> dict[str, Plain]:
    """Facts that a result may depend on besides the plan: versions, device, threads."""
    facts: dict[str, Plain] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "threads": torch.get_num_threads(),
        "deterministic": deterministic or device.type == "cpu",
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts

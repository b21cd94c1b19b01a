"""Several shards of a batch go forward side by side in one process: from one batch norm to the next, in turns.

Each shard runs as a greenlet, so the code that runs is the same as for a single shard: graphs, users' networks that are
called whole, the plain form of a phase. At a batch norm in training mode it waits until all shards are there.

A shard sees the modules as if it were alone. Its parameters are other leaves of autograd on the same memory, so that
its gradients are its own; buffers, hooks and Python containers are copies. Generators of random numbers and what
`no_grad` and `autocast` set are put back whenever its turn comes.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kdplan.graph.uncompiled import uncompiled
from kdplan.nn.whose import is_user_code
from kdplan.runtime.sync_norm import Call

T = TypeVar("T")

_DIRECT = {"batch_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "miopen_batch_norm"}
"""Functions of torch below `torch.nn.functional.batch_norm`."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""How the names of attributes with a module's hooks begin."""


class Replica:
    """The modules of a phase as one shard sees them.

    Parameters
    ----------
    modules : sequence of Module
        Each once.
    swapped : mapping
        Identity of a tensor -> what the shard has in its stead.

    Examples
    --------
    >>> net = nn.BatchNorm1d(2)
    >>> replica = Replica([net], {id(net.running_mean): torch.ones(2)})
    >>> with replica:
    ...     net.running_mean += 1
    ...     print(net.running_mean)
    tensor([2., 2.])
    >>> net.running_mean
    tensor([0., 0.])
    """

    def __init__(self, modules: Sequence[nn.Module], swapped: Mapping[int, Tensor]) -> None:
        self.modules = modules
        self._mine = [_attributes(module, swapped) for module in modules]
        self._others: list[dict[str, Any]] = []
        self.surroundings: _Surroundings | None = None
        """Those of the shard when its last turn ended; None before its first."""

    def __enter__(self) -> None:
        self._others, self._mine = self._exchanged(self._mine), []

    def __exit__(self, *_: object) -> None:
        self._mine, self._others = self._exchanged(self._others), []

    def _exchanged(self, attributes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        before = [module.__dict__ for module in self.modules]
        for module, own in zip(self.modules, attributes, strict=True):
            object.__setattr__(module, "__dict__", own)
        return before


def _attributes(module: nn.Module, swapped: Mapping[int, Tensor]) -> dict[str, Any]:
    """A module's `__dict__` for one shard."""
    own = dict(module.__dict__)
    users = is_user_code(type(module))
    for name, value in own.items():
        if name in ("_parameters", "_buffers"):
            own[name] = {n: swapped.get(id(t), t) for n, t in value.items()}
        elif name.startswith(_HOOKS) or (users and name != "_modules"):
            own[name] = _copied(value, swapped)
    return own


def _copied(value: Any, swapped: Mapping[int, Tensor]) -> Any:
    """A value in whose containers a shard may write."""
    kind = type(value)
    if kind in (list, tuple, deque):
        items = (_copied(v, swapped) for v in value)
        return deque(items, value.maxlen) if kind is deque else kind(items)
    if kind in (dict, OrderedDict):
        return kind((k, _copied(v, swapped)) for k, v in value.items())
    if kind is set:
        return set(value)
    return swapped.get(id(value), value)


class _Surroundings:
    """What a shard finds around it, as it is now: the mode of autograd, autocast, and generators of random numbers."""

    def __init__(self, device: torch.device, draws: bool) -> None:
        self.kinds = {"cpu", device.type}
        self.gradients = torch.is_grad_enabled()
        self.casts = {k: (torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in self.kinds}
        self.cuda = torch.cuda.get_rng_state(device) if draws and device.type == "cuda" else None
        self.device = device
        self.draws = (torch.default_generator.get_state(), random.getstate(), np.random.get_state()) if draws else None

    def restore(self, draws: bool = True) -> None:
        """Put it back, with the generators or without."""
        torch.set_grad_enabled(self.gradients)
        for kind, (enabled, dtype) in self.casts.items():
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        if draws and self.draws is not None:
            torch.default_generator.set_state(self.draws[0])
            random.setstate(self.draws[1])
            np.random.set_state(self.draws[2])
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)


class LockStep(TorchFunctionMode):
    """Runs shards side by side; inside of `with`, batch norm in training mode is that of all of them.

    Parameters
    ----------
    replicas : list of Replica
        One for each shard.
    device : torch.device
    norm : callable
        Batch norm over the calls of all shards.
    name_of : callable
        The name of the module that makes a call.
    refuse : callable
        Raises for a batch norm that cannot be computed so: its name and the reason.
    part : callable
        Raises for batch norms that not all shards come to, by the names at which each waits; "" for its end.
    """

    def __init__(
        self,
        replicas: list[Replica],
        device: torch.device,
        norm: Callable[[Sequence[Call]], list[Tensor]],
        name_of: Callable[[Call], str],
        refuse: Callable[[str, str], NoReturn],
        part: Callable[[list[str]], NoReturn],
    ) -> None:
        super().__init__()
        self.replicas, self.device, self.norm = replicas, device, norm
        self.name_of, self.refuse, self.part = name_of, refuse, part
        self._hub = getcurrent()
        self._shards: list[greenlet] = []

    def run(self, work: Callable[[int], T]) -> list[T]:
        """What `work` gives for the number of each shard."""
        self._hub = getcurrent()
        self._shards = [greenlet(partial(work, number)) for number in range(len(self.replicas))]
        given: Iterable[tuple[Any, ...]] = [()] * len(self.replicas)
        with self, uncompiled():
            try:
                while True:
                    arrived = [self._turn(n, s.switch, *g) for (n, s), g in zip(self._numbered(), given, strict=True)]
                    if all(shard.dead for shard in self._shards):
                        return arrived
                    names = ["" if s.dead else a.name for s, a in zip(self._shards, arrived, strict=True)]
                    if len(set(names)) > 1:
                        self.part(names)
                    given = [(output,) for output in self.norm(arrived)]
            finally:
                for number, shard in self._numbered():
                    if shard:  # it waits: end it
                        self._turn(number, shard.throw)
                self._shards = []

    def _numbered(self) -> Iterator[tuple[int, greenlet]]:
        return enumerate(self._shards)

    def _turn(self, number: int, go: Callable[..., Any], *given: Any) -> Any:
        with self.inside(number):
            return go(*given)

    @contextmanager
    def inside(self, number: int) -> Iterator[None]:
        """Inside, all is as one shard sees it."""
        replica, draws = self.replicas[number], len(self.replicas) > 1
        before = _Surroundings(self.device, draws=False)
        if replica.surroundings is not None:
            replica.surroundings.restore()
        try:
            with replica:
                yield
        finally:
            replica.surroundings = _Surroundings(self.device, draws)
            before.restore()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            call = Call(*args, **kwargs)
            if call.training:
                return self._wait(call)
        elif getattr(func, "__name__", "") in _DIRECT and any(v is True for v in (*args, *kwargs.values())):
            self.refuse("", f"it is called as `torch.{func.__name__}`, which is below `torch.nn.functional`")
        return func(*args, **kwargs)

    def _wait(self, call: Call) -> Tensor:
        """What batch norm over all shards gives for this one, once the others are there as well."""
        call.name = self.name_of(call)
        if getcurrent() not in self._shards:
            self.refuse(call.name, "it runs again in backward")
        if torch.is_inference_mode_enabled():
            self.refuse(call.name, "it runs inside of `torch.inference_mode`")
        hooked = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        if hooked or not torch._C._is_fwd_grad_enabled():  # which `torch.autograd.Function` turns off
            self.refuse(call.name, "it runs inside of a checkpoint or of another function of autograd")
        with self:  # this handler runs without the mode, and the others need it
            output: Tensor = self._hub.switch(call)
        return output

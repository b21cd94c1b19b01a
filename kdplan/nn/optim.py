"""Optimizers by name, and averages of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdplan.ir.implementation import load, row
from kdplan.ir.optimizers import OPTIMIZERS
from kdplan.nn.extra_state import is_extra


def build_optimizer(
    name: str,
    settings: Mapping[str, Any],
    parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
    **implementation: bool | None,
) -> Optimizer:
    """An optimizer of torch by its lower-case name.

    Parameters
    ----------
    name : str
        As in `kdplan.ir.optimizers.OPTIMIZERS`.
    settings : mapping
        `lr`, `momentum` and so on, as in the table.
    parameters
        What torch's optimizers take: parameters, (name, parameter) pairs, or groups with settings of their own.
    **implementation
        `foreach`, `fused`, `capturable`: how it computes, not what.

    Returns
    -------
    Optimizer
        Each group also holds its `initial_lr`, which `set_lr_factor` multiplies.

    Raises
    ------
    ValueError
        If there is no such optimizer or setting, or it refuses a value.

    Examples
    --------
    >>> build_optimizer("sgd", {"lr": 0.1, "momentum": 0.9}, nn.Linear(2, 2).parameters()).param_groups[0]["momentum"]
    0.9
    """
    spec = row(OPTIMIZERS, "optimizer", name, settings)
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    own = [dict(p) if isinstance(p, dict) else p for p in parameters]  # torch writes into the groups that it is given
    try:
        optimizer: Optimizer = load(spec.implementation)(own, **plain, **implementation)
    except (ValueError, TypeError) as e:
        raise ValueError(f"`{name}` refuses these settings: {e}") from e
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def state_of(name: str, settings: Mapping[str, Any], parameter: Tensor) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter after a step, as tensors that may be without memory.

    Examples
    --------
    >>> state = state_of("adam", {"lr": 0.1}, torch.empty(5, 3, device="meta"))
    >>> {key: list(t.shape) for key, t in state.items()}
    {'step': [], 'exp_avg': [5, 3], 'exp_avg_sq': [5, 3]}
    >>> state_of("sgd", {"lr": 0.1}, torch.empty(5, 3))
    {}
    """
    # some ask for values, which only a real parameter has, and some for sparse gradients
    for device, sparse in (("meta", False), ("cpu", False), ("cpu", True)):
        p = nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype, device=device))
        p.grad = torch.zeros_like(p).to_sparse() if sparse else torch.zeros_like(p)
        try:
            optimizer = build_optimizer(name, settings, [p])
            optimizer.step()
        except ValueError:
            break  # it refuses such a parameter
        except RuntimeError:
            continue
        return {key: value for key, value in optimizer.state[p].items() if isinstance(value, Tensor)}
    return {}


def set_lr_factor(optimizer: Optimizer, factor: float) -> None:
    """Sets each group's rate to `factor` times what it was built with.

    Examples
    --------
    >>> o = build_optimizer("sgd", {"lr": 0.5}, nn.Linear(2, 2).parameters())
    >>> set_lr_factor(o, 0.5)
    >>> o.param_groups[0]["lr"]
    0.25
    """
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class WeightAverage:
    """An exponential moving average of weights, ``a = d a + (1 - d) w`` after every step.

    Floating-point buffers (running statistics) are averaged like weights; others (counters) are copied.

    Parameters
    ----------
    source : nn.Module, or mapping of str to Tensor
        What is averaged. The average starts as a copy.
    decay : float
        d, from 0 to 1.
    warmup : bool
        Use ``min(d, (1 + n) / (10 + n))`` at update n (from 0), so that the start is soon forgotten.

    Examples
    --------
    >>> w = {"w": torch.zeros(1)}
    >>> average = WeightAverage(w, decay=0.5, warmup=False)
    >>> _ = w["w"].fill_(4.0)
    >>> average.update()
    >>> average.state_dict()["w"]
    tensor([2.])
    """

    def __init__(self, source: nn.Module | Mapping[str, Tensor], decay: float, warmup: bool = True) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"the decay of a weight average is from 0 to 1, not {decay}")
        self.source, self.decay, self.warmup = source, decay, warmup
        self.updates = 0
        self._average = {k: v.detach().clone() for k, v in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        # Looked up each time: moving a module to a device replaces its buffers.
        if isinstance(self.source, nn.Module):
            return self.source.state_dict(keep_vars=True)
        return dict(self.source)

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the source's present values."""
        n = self.updates
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        live = self._live()
        average = self._average.items()
        floats = [k for k, v in average if (v.is_floating_point() or v.is_complex()) and not is_extra(k)]
        for kind in dict.fromkeys(
            type(self._average[k]) for k in floats
        ):  # parts of parameters are not mixed with others
            some = [k for k in floats if type(self._average[k]) is kind]
            torch._foreach_lerp_([self._average[k] for k in some], [live[k].detach() for k in some], 1 - decay)
        for key in self._average.keys() - {*floats}:
            self._set(key, live[key])
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The average by name, not copied; to resume, `updates` is needed too."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Goes on from `state_dict` and `updates`."""
        assert state.keys() == self._average.keys(), state.keys() ^ self._average.keys()
        for key, value in state.items():
            self._set(key, value)
        self.updates = updates

    def _set(self, key: str, value: Tensor) -> None:
        if value.shape == self._average[key].shape:
            self._average[key].copy_(value)
        else:  # extra state may grow
            self._average[key] = value.detach().to(self._average[key], copy=True)

    @torch.no_grad()
    def copy_to(self, target: Mapping[str, Tensor]) -> None:
        """Writes the average into tensors of the same names."""
        for key, value in self._average.items():
            target[key].copy_(value)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it, the source holds the average; afterwards its own values again, to the bit."""
        own = {k: v.detach().clone() for k, v in self._live().items()}
        self.copy_to(self._live())
        try:
            yield
        finally:
            with torch.no_grad():
                for key, value in self._live().items():
                    value.copy_(own[key])

"""The optimizers and schedules of a phase, with state that is named by parameter and holds no pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kdplan.graph.disk import recipe_of
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.plan import Plain, Recipe
from kdplan.nn.fused import HOW, fastest, prepare, rates_on_device, skips_whole_steps
from kdplan.nn.optim import build_optimizer, set_lr_factor
from kdplan.nn.schedules import Schedule, build_schedule


class Optimisers:
    """One optimizer and one schedule for each recipe.

    Parameters
    ----------
    phase_graph : PhaseGraph
        Its trainable parameters. Adapters belong to the first recipe.
    recipes : list of Recipe
        One for all trainees, or one each.
    per_epoch : int
        Steps in an epoch.
    total : int or None
        Steps in all; None where a plateau decides.
    options : mapping, optional
        How the optimizers compute, where that is not the fastest way for a device.
    graphs : bool
        Whether steps are to be recorded in a graph: learning rates are then tensors.
    """

    def __init__(
        self,
        phase_graph: PhaseGraph,
        recipes: Sequence[Recipe],
        per_epoch: int,
        total: int | None,
        options: Mapping[str, bool] | None = None,
        graphs: bool = False,
    ) -> None:
        self.named = phase_graph.named_trainable()
        self.clip = recipes[0].clip
        self.per_epoch = per_epoch
        self.optimizers: list[torch.optim.Optimizer] = []
        self.schedules: list[Schedule] = []
        epochs = total / per_epoch if total else math.inf
        for number, recipe in enumerate(recipes):
            mine = [p for name, p in self.named.items() if len(recipes) == 1 or recipe_of(name) == number]
            how = fastest(recipe.optimizer.name, mine, graphs) if options is None else dict(options)
            optimizer = build_optimizer(recipe.optimizer.name, recipe.optimizer.arguments, mine, **how)
            if graphs:
                rates_on_device(optimizer)
            else:
                skips_whole_steps(optimizer)
            lr = float(optimizer.param_groups[0]["initial_lr"])
            item = recipe.schedule
            self.optimizers.append(optimizer)
            self.schedules.append(build_schedule(item.name, item.arguments, total=epochs, lr=lr, warmup=recipe.warmup))

    @property
    def ended(self) -> bool:
        """Whether every schedule has ended the phase."""
        return all(s.finished for s in self.schedules)

    def start_step(self, step: int) -> None:
        """Sets the rates of step `step` and forgets the last gradients."""
        self.set_rates(step)
        self.forget_gradients()

    def set_rates(self, step: int) -> None:
        """Sets the rates of step `step`."""
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            set_lr_factor(optimizer, schedule.lr_factor(step / self.per_epoch))

    def forget_gradients(self) -> None:
        """Forgets the last gradients, and their memory."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def finish_step(self, scaler: torch.amp.GradScaler) -> None:
        """Clips the gradients of all trainable parameters by their common norm, and updates the parameters."""
        if self.clip is not None:
            for optimizer in self.optimizers:
                scaler.unscale_(optimizer)
            clip_by_norm(list(self.named.values()), self.clip)
        for optimizer in self.optimizers:
            prepare(optimizer)
            scaler.step(optimizer)
        scaler.update()

    def end_epoch(self, loss: float) -> None:
        """Reports the mean loss of an epoch to the schedules."""
        for schedule in self.schedules:
            schedule.epoch_end(loss)

    def rates(self) -> float | list[float]:
        """The learning rate of the last step, or one a recipe."""
        rates = [float(o.param_groups[0]["lr"]) for o in self.optimizers]
        return rates[0] if len(rates) == 1 else rates

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, Plain]]]:
        """Tensors and plain values for a checkpoint."""
        names = {id(p): name for name, p in self.named.items()}
        tensors: dict[str, Tensor] = {}
        plain = []
        for number, (optimizer, schedule) in enumerate(zip(self.optimizers, self.schedules, strict=True)):
            named, rest = named_state(optimizer, names)
            tensors.update({f"{number}/{name}": t for name, t in named.items()})
            plain.append({"optimizer": rest, "schedule": schedule.state_dict()})
        return tensors, plain

    def load_state(self, tensors: Mapping[str, Tensor], plain: Sequence[dict[str, Plain]]) -> None:
        """The inverse of `state`."""
        for number, (optimizer, schedule) in enumerate(zip(self.optimizers, self.schedules, strict=True)):
            head = f"{number}/"
            mine = {name.removeprefix(head): t for name, t in tensors.items() if name.startswith(head)}
            load_named_state(optimizer, self.named, mine, plain[number]["optimizer"])
            schedule.load_state_dict(plain[number]["schedule"])


def clip_by_norm(parameters: Sequence[nn.Parameter], clip: float) -> None:
    """Scales gradients down where their common norm is above `clip`; of some a process may have a part only."""
    if not any(hasattr(p.grad, "to_local") for p in parameters):
        nn.utils.clip_grad_norm_(parameters, clip)
        return
    from torch.distributed.tensor import DTensor

    parts = [p for p in parameters if isinstance(p.grad, DTensor)]
    others = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    norm = nn.utils.get_total_norm([p.grad for p in parts if p.grad is not None])
    squares = norm.full_tensor().square() if isinstance(norm, DTensor) else norm.square()
    squares = squares + sum(g.square() for g in others)
    scale = (clip / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([*(p.grad.to_local() for p in parts if isinstance(p.grad, DTensor)), *others], scale)


def named_state(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> tuple[dict[str, Tensor], dict[str, Plain]]:
    """An optimizer's state as tensors by `parameter/key`, and as plain values.

    Parameters
    ----------
    optimizer
        Any of `torch.optim`.
    names
        `id(parameter)` -> name.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Plain] = {}
    for parameter, entry in optimizer.state.items():
        name = names[id(parameter)]
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
            else:
                plain[f"{name}/{key}"] = value
    groups = [
        {k: float(v) if isinstance(v, Tensor) else v for k, v in group.items() if k != "params" and k not in HOW}
        | {"params": [names[id(p)] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return tensors, {"entries": plain, "groups": groups}


def load_named_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Plain],
) -> None:
    """The inverse of `named_state`; parameters are matched by name, in any order.

    Tensors of a parameter's shape take over its layout in memory, so that a step computes as it did before.
    """
    for group, saved in zip(optimizer.param_groups, plain["groups"], strict=True):
        assert {id(parameters[n]) for n in saved["params"]} == {id(p) for p in group["params"]}
        for key, value in saved.items():
            if isinstance(group.get(key), Tensor):
                group[key].fill_(value)  # a graph reads this very tensor
            elif key != "params" and key not in HOW:
                # JSON has lists only: `betas` become a tuple again
                group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
    optimizer.state.clear()
    for path, tensor in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        if key == "step":  # lives on the CPU, and for fused and capturable steps beside the parameter
            there = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
            optimizer.state[parameter][key] = tensor.to(parameter.device if there else "cpu", copy=True)
        elif tensor.shape == parameter.shape:
            like = torch.empty_like(parameter, dtype=tensor.dtype, memory_format=torch.preserve_format)
            optimizer.state[parameter][key] = like.detach().copy_(tensor)
        else:
            optimizer.state[parameter][key] = tensor.to(parameter.device)
    for path, value in plain["entries"].items():
        name, key = path.rsplit("/", 1)
        optimizer.state[parameters[name]][key] = value

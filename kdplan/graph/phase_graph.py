"""A phase as the training loop sees it: two graphs, the modules that they call, and what is trained.

`assemble` makes it from a plan; `kdplan.runtime.loop` runs it. The two agree on the names of the graphs' placeholders:

- `inputs_0`, `labels_0`, `indices_0`: the fields of stream 0, and so on for each stream; of `targets` its parts
  `boxes_0`, `classes_0`, `crowd_0`, `sizes_0`;
- `epoch`, `step`, `progress`: scalars of dtype float32 without dimensions;
- whatever else the trainable graph asks for comes from the frozen graph, which returns a dict by placeholder name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.graph.plain_form import PlainForm
from kdplan.graph.state import bind_buffer
from kdplan.ir.expr import STEP_COUNTERS, STREAM_FIELDS, Version
from kdplan.nn.extra_state import extra_of, set_extra
from kdplan.nn.whose import is_user_code


@dataclass(frozen=True)
class StoredValue:
    """One value that crosses from the frozen graph: ``[N, *shape]`` for the N samples of a stream."""

    name: str
    stream: int
    rows: int
    """N, to within rounding of class subsets."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    network: str = ""
    """The network that it comes from, by its name in the phase; "" for none."""
    path: str = ""
    """The part of that network; "" for its output."""

    @property
    def label(self) -> str:
        """What it is, for readers.

        >>> StoredValue("big_train_fc", 0, 300, (10,), torch.float32, "big@train", "fc").label
        'fc of big@train'
        """
        return " of ".join(word for word in (self.path, self.network) if word) or self.name

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample's value."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all samples' values."""
        return self.rows * self.row_bytes


TARGET_FIELDS = ("boxes", "classes", "crowd", "sizes")
"""The parts of `targets`, each a placeholder of its own."""


def input_names(streams: int) -> set[str]:
    """The names that placeholders of a phase with so many streams may have.

    >>> sorted(input_names(1) - set(STEP_COUNTERS))[:3]
    ['boxes_0', 'classes_0', 'crowd_0']
    """
    fields = (*(f for f in STREAM_FIELDS if f != "targets"), *TARGET_FIELDS)
    return {*STEP_COUNTERS, *(f"{field}_{i}" for field in fields for i in range(streams))}


@dataclass
class Networks:
    """The real modules that a phase is built from."""

    trainable: list[nn.Module]
    """One for each of the phase's trainees; the same object twice where two of them train parts of one version."""
    frozen: dict[str, nn.Module] = field(default_factory=dict)
    """`str(version)` -> module, for every version that the loss reads."""
    whole: dict[str, str] = field(default_factory=dict)
    """Slots and versions, as strings, whose modules are called whole, with the reason: how their graphs differ."""

    def of(self, version: Version) -> nn.Module:
        """The module of a version that the loss reads."""
        return self.frozen[str(version)]


@dataclass
class EmaCopy:
    """A network that is a moving average of one that the phase trains: after each step f = decay f + (1 - decay) n."""

    name: str
    module: nn.Module
    source: nn.Module
    decay: float


EXTRA = "extra"
"""Before names of extra state, with the slot and the path of the module."""
UNTRAINED = "untrained"
"""Before names of parameters that a trained network has, and the phase does not train."""


@dataclass
class PhaseGraph:
    """A phase as graphs.

    Attributes
    ----------
    trainable_graph : Module
        Called with tensors by placeholder name; returns a dict with `loss` (a scalar) and the logged terms.
    frozen : Module or None
        Called under `no_grad` on the batch; returns the tensors that cross into `trainable_graph`, by placeholder name.
    root : Module
        Owns every module of both graphs, adapters included: what is moved to a device.
    networks : list of Module
        One for each of the phase's trainees; may be one object twice.
    trainable : list of dict
        For each trainee its trained parameters, by their names within the network.
    adapters : dict
        Parameters of adapters, which exist in this phase only; they go with the first optimizer.
    modes : callable
        Puts every module into the mode that the phase wants: trained parts train, all else as the plan says.
    stored : list of StoredValue
        What `frozen` returns, where the phase reads it from the store instead of running `frozen`; else [].
    terms : list of str
        The logged terms that are summands of the loss, for messages about a loss that is not finite.
    flops : int
        Floating-point operations of a batch forward; 0 where they were not counted.
    plain : PlainForm or None
        The users' networks as they are, in place of their graphs; None where no such network stands here as a graph.
    labels : dict
        Slots and versions, as in `Networks.whole`, by the name of the network in `root`.
    """

    trainable_graph: nn.Module
    root: nn.Module
    networks: list[nn.Module]
    trainable: list[dict[str, nn.Parameter]]
    frozen: nn.Module | None = None
    adapters: dict[str, nn.Parameter] = field(default_factory=dict)
    ema_copies: list[EmaCopy] = field(default_factory=list)
    modes: Callable[[], None] | None = None
    trainable_inputs: list[str] = field(default_factory=list)
    frozen_inputs: list[str] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)
    stored: list[StoredValue] = field(default_factory=list)
    flops: int = 0
    plain: PlainForm | None = None
    labels: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trainable_inputs = self.trainable_inputs or placeholders(self.trainable_graph)
        self.frozen_inputs = self.frozen_inputs or placeholders(self.frozen)

    def set_modes(self) -> None:
        """Set the modules' training modes, at the start and after every validation."""
        if self.modes is not None:
            self.modes()
            return
        self.root.eval()
        trainable = {id(p) for group in self.trainable for p in group.values()} | {
            id(p) for p in self.adapters.values()
        }
        for module in [self.root, *self.networks]:
            _train_where_all_are_trainable(module, trainable)

    def named_trainable(self) -> dict[str, nn.Parameter]:
        """Every trained parameter, by a name that is unique in the phase: `0/layer1.weight`, `splice/a.weight`.

        Checkpoints have these names, and so the old words `splice` and, in `state`, `follower`.
        """
        named = {f"{slot}/{name}": p for slot, group in enumerate(self.trainable) for name, p in group.items()}
        named |= {f"splice/{name}": p for name, p in self.adapters.items()}
        seen: set[int] = set()
        return {name: p for name, p in named.items() if not (id(p) in seen or seen.add(id(p)))}  # type: ignore[func-returns-value]

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes: trained parameters, EMA copies, all buffers; no tensor is copied.

        A trained network of a user's may write into its other parameters too.
        """
        tensors: dict[str, Tensor] = dict(self.named_trainable())
        seen = {id(t) for t in tensors.values()}
        for ema_copy in self.ema_copies:
            for name, p in ema_copy.module.named_parameters():
                if id(p) not in seen:
                    tensors[f"follower/{ema_copy.name}/{name}"] = p
        for slot, network in enumerate(self.networks):
            if is_user_code(network):
                others = {f"{UNTRAINED}/{slot}/{n}": p for n, p in network.named_parameters() if id(p) not in seen}
                tensors.update(others)
        tensors.update({f"buffer/{name}": b for name, b in self.root.named_buffers()})
        for slot, network in enumerate(self.networks):  # a graph may own its modules elsewhere than below `root`
            owned = {id(b) for n, b in tensors.items() if n.startswith("buffer/")}
            tensors.update({f"buffer/{slot}/{n}": b for n, b in network.named_buffers() if id(b) not in owned})
            tensors.update({f"{EXTRA}/{slot}/{n}": t for n, t in extra_of(network).items()})
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Copies `tensors` (from `state`) into the tensors of the phase; the layout in memory and the device stay.

        A buffer that came to be in training, or got another shape or type, is registered as it was.
        """
        own = self.state()
        for slot, network in enumerate(self.networks):
            start = f"{EXTRA}/{slot}/"
            set_extra(network, {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)})
        tensors, own = ({n: t for n, t in held.items() if not n.startswith(f"{EXTRA}/")} for held in (tensors, own))
        for name, tensor in own.items():
            if tensors.get(name) is tensor:
                continue
            if name in tensors and (tensors[name].shape, tensors[name].dtype) == (tensor.shape, tensor.dtype):
                tensor.data.copy_(tensors[name])
            elif name.startswith("buffer/"):
                self._bind(name, tensors.get(name))
            elif name in tensors or not name.startswith(f"{UNTRAINED}/"):  # which checkpoints had not at first
                raise RuntimeError(f"the checkpoint has no tensor {list(tensor.shape)} for {name}")
        for name in tensors.keys() - own.keys():
            self._bind(name, tensors[name])

    def _bind(self, name: str, value: Tensor | None) -> None:
        """Bind a buffer, by its name in `state`."""
        if value is not None and (near := next(iter(self.networks[0].parameters()), None)) is not None:
            value = value.to(near.device)
        path = name.removeprefix("buffer/")
        slot, _, inner = path.rpartition("/")
        bind_buffer(self.networks[int(slot)] if slot else self.root, inner, value)


def _train_where_all_are_trainable(module: nn.Module, trainable: set[int]) -> None:
    """Train mode for the largest modules below `module` whose parameters are all trainable."""
    own = [id(p) for p in module.parameters()]
    if own and trainable.issuperset(own):
        module.train()
    elif own:
        for child in module.children():
            _train_where_all_are_trainable(child, trainable)


def placeholders(module: nn.Module | None) -> list[str]:
    """The names of a graph's inputs, in order; [] for None."""
    graph: Any = getattr(module, "graph", None)
    return [str(node.target) for node in graph.nodes if node.op == "placeholder"] if graph is not None else []

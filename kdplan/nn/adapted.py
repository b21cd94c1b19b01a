"""A network with linear maps behind some of its layers, and their weights multiplied into the layers again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.ir.adapted import LAYER, MAP
from kdplan.nn.models import create


class Behind(nn.Module):
    """A layer and what stands behind it; ``[B, ...] -> [B, ...]``, what the map makes of what the layer gives."""

    def __init__(self, layer: nn.Module, map: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.map = map

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The map of the layer's output; takes what the layer takes."""
        adapted: Tensor = self.map(self.layer(*args, **kwargs))
        return adapted


class Entries(nn.Module):
    """Several scores of one class as one, their largest; ``[B, entries] -> [B, classes]``.

    Parameters
    ----------
    of
        For each entry the class that it is of: whole numbers from 0, none left out.

    Examples
    --------
    >>> Entries([0, 1, 1])(torch.tensor([[3.0, 1.0, 2.0]]))
    tensor([[3., 2.]])
    """

    def __init__(self, of: Sequence[int]) -> None:
        super().__init__()
        groups = [[i for i, c in enumerate(of) if c == k] for k in range(max(of) + 1)]
        if not all(groups):
            raise ValueError("a class has no entry")
        most = max(map(len, groups))
        self.groups = [g + g[:1] * (most - len(g)) for g in groups]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, entries] -> [B, classes]``, each class's largest score."""
        at = torch.tensor(self.groups, device=x.device)
        scores: Tensor = x[:, at].amax(dim=2)
        return scores


def adapted(
    base: Sequence[Any], behind: Sequence[str], shape: Sequence[int], entries: Sequence[Any] | None = None
) -> nn.Module:
    """A new network, from the name and settings of the plain one's factory, with a map behind each layer in `behind`.

    A map mixes a layer's channels, linearly and without bias, alike at every position: a 1 x 1 convolution, or a linear
    layer for vectors. It begins as the identity. In the network's names `conv1.layer` is what `conv1` is in the plain
    one, and `conv1.map` the map behind it.

    Parameters
    ----------
    base
        The plain network's factory and settings.
    behind
        Paths of layers.
    shape
        Of one sample, to find out how many channels a layer gives.
    entries
        The path of the layer that gives the scores, and for each of its outputs the class that it is of: the network
        gives each class's largest one.

    Raises
    ------
    ValueError
        If there is no such layer, or it gives neither maps [B, C, H, W] nor vectors [B, C].

    Examples
    --------
    >>> net = adapted(["digits_net", {"width": 2}], ["stem.conv"], [1, 8, 8])
    >>> [n for n in net.state_dict() if n.startswith("stem.conv")]
    ['stem.conv.layer.weight', 'stem.conv.map.weight']
    >>> torch.equal(net.stem.conv.map.weight.squeeze(), torch.eye(2))
    True
    """
    net = create(base[0], **base[1])
    shapes = _shapes(net, behind, shape)
    for path in behind:
        _put(net, path, _map(path, shapes[path]))
    if entries is not None:
        _put(net, entries[0], Entries(entries[1]))
    return net


def _map(path: str, given: tuple[int, ...]) -> nn.Module:
    if len(given) not in (2, 4):
        dims = "×".join(map(str, given[1:]))
        raise ValueError(f"`{path}` gives {dims} of a sample; a map of channels takes maps and vectors")
    channels = given[1]
    if len(given) == 4:
        identity: nn.Module = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(identity.get_parameter("weight"))
    else:
        identity = nn.Linear(channels, channels, bias=False)
        nn.init.eye_(identity.get_parameter("weight"))
    return identity


def _put(net: nn.Module, path: str, behind: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, Behind(_layer(net, path), behind))


def _layer(net: nn.Module, path: str) -> nn.Module:
    try:
        return net.get_submodule(path)
    except AttributeError:
        known = ", ".join(f"`{n}`" for n, m in net.named_modules() if n and not [*m.children()])
        raise ValueError(f"it has no layer `{path}`; it has {known}") from None


def _shapes(net: nn.Module, paths: Sequence[str], shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """What layers give for two samples. Most layers say it; the network runs, without memory, only for others."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        layer = _layer(net, path)
        if isinstance(layer, nn.Conv2d):
            shapes[path] = (2, layer.out_channels, 1, 1)
        elif isinstance(layer, nn.Linear):
            shapes[path] = (2, layer.out_features)
    rest = [p for p in paths if p not in shapes]
    if rest:
        copy = deepcopy(net).to("meta").eval()

        def keep(path: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                shapes[path] = tuple(output.shape) if isinstance(output, Tensor) else ()

            return hook

        for path in rest:
            copy.get_submodule(path).register_forward_hook(keep(path))
        with torch.no_grad():
            copy(torch.zeros(2, *shape, device="meta"))
        if missing := [p for p in rest if p not in shapes]:
            raise ValueError(f"`{missing[0]}` does not run")
    return shapes


# ---- weights


def adapted_state(state: Mapping[str, Tensor], behind: Sequence[str]) -> dict[str, Tensor]:
    """The plain network's weights by the names that they have with something behind its layers.

    >>> adapted_state({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, ["a"])
    {'a.layer.weight': tensor([1.]), 'b.weight': tensor([1.])}
    """
    weights = {}
    for name, tensor in state.items():
        path = next((p for p in behind if name.startswith(f"{p}.")), None)
        weights[f"{path}.{LAYER}{name.removeprefix(path)}" if path else name] = tensor
    return weights


def foldable(net: nn.Module, path: str) -> bool:
    """Whether the map behind a layer can be multiplied into it: both are linear, and nothing is between them."""
    layer = net.get_submodule(f"{path}.{LAYER}")
    plain = type(layer) in (nn.Conv2d, nn.Linear)
    return plain and not (isinstance(layer, nn.Conv2d) and layer.groups > 1)


def folded(net: nn.Module, behind: Sequence[str]) -> tuple[nn.Module, list[str]]:
    """The same function without the maps that can be multiplied into their layers, in float64; and where others are.

    The product of both linear maps is one such map: ``W'[p] = sum_o M[p, o] W[o]``, and so for the bias.

    Examples
    --------
    >>> net = adapted(["digits_net", {"width": 2}], ["stem.conv"], [1, 8, 8]).eval()
    >>> _ = nn.init.normal_(net.stem.conv.map.weight)
    >>> plain, left = folded(net, ["stem.conv"])
    >>> x = torch.randn(3, 1, 8, 8)
    >>> left, [n for n in plain.state_dict() if n.startswith("stem.conv")], torch.allclose(plain(x), net(x), atol=1e-5)
    ([], ['stem.conv.weight'], True)
    """
    plain = deepcopy(net)
    left = []
    for path in behind:
        if not foldable(plain, path):
            left.append(path)
            continue
        layer, map = plain.get_submodule(f"{path}.{LAYER}"), plain.get_submodule(f"{path}.{MAP}")
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        with torch.no_grad():
            mixing = map.get_parameter("weight").double().flatten(1)
            layer.weight.copy_(torch.tensordot(mixing, layer.weight.double(), dims=1))
            if layer.bias is not None:
                layer.bias.copy_(mixing @ layer.bias.double())
        parent, _, name = path.rpartition(".")
        setattr(plain.get_submodule(parent), name, layer)
    return plain, left

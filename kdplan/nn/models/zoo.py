"""Networks of torchvision and timm, with the head and the input channels that a plan asks for.

Nothing is downloaded: weights come from files that are already there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdplan.diagnostics.report import listing, nearest
from kdplan.ir.origins import Part
from kdplan.nn.pretrained import OWN_SCALE, is_file
from kdplan.nn.weight_files import WeightsFile, read_weights
from kdplan.nn.weight_fit import fitted_to

Weights = str | Mapping[str, Any]
"""A name that torchvision knows, or a path; or that as `from` with the settings `entry`, `rename`, `only`, `except`."""


def torchvision(
    name: str, classes: int | None = None, weights: Weights | None = None, channels: int = 3, **settings: Any
) -> nn.Module:
    """A network of torchvision by its name there; shapes as documented there.

    Parameters
    ----------
    name : str
        Any of `torchvision.models.list_models()`.
    classes : int, optional
        Outputs. Left out: as the named weights, or torchvision's own.
    weights : str or mapping, optional
        A name that torchvision knows (`IMAGENET1K_V1`, `DEFAULT`), whose file must lie in torch.hub's folder, or the
        path of a file (.safetensors, .pth, .pt). A mapping has it as `from`, with the settings that
        a plan has: a head of another size must be excepted. Left out: fresh.
    channels : int
        Of the images. With fewer than three, pretrained first filters are summed over the missing ones.
    **settings
        Passed on, e.g. `dropout = 0.2`.

    Raises
    ------
    ValueError
        If a name is unknown, or the weights cannot be read or do not fit the network.
    FileNotFoundError
        If the weights' file is not there; the message says where it was looked for.

    Examples
    --------
    >>> net = torchvision("resnet18", classes=10, channels=1)
    >>> net.conv1.in_channels, net.fc.out_features
    (1, 10)
    """
    import torchvision.models as models

    _refuse(settings, "torchvision", "weights_backbone")
    known = models.list_models()
    if name not in known:
        near = nearest(name, known)
        raise ValueError(f"torchvision has no network `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    state = None
    if weights is not None:
        state, own_classes = read_named(name, weights)
        if classes is None:
            classes = own_classes
        if name in OWN_SCALE:
            settings.setdefault("transform_input", channels == 3)
    if name in OWN_SCALE:
        settings.setdefault("init_weights", state is None)
    if classes is not None:
        settings["num_classes"] = classes
    if "weights_backbone" in models.get_model_builder(name).__annotations__:
        settings.setdefault("weights_backbone", None)  # torchvision's default downloads
    try:
        net: nn.Module = models.get_model(name, weights=None, **settings)
    except TypeError as e:
        raise ValueError(f"torchvision's `{name}` refuses these settings: {e}") from e
    if channels != 3:
        replace_input(net, channels)
    if weights is not None and state is not None:
        load_fitted(net, state, weights, channels)
    return net


def timm(
    name: str,
    classes: int | None = None,
    weights: Weights | None = None,
    checkpoint: str | None = None,
    channels: int = 3,
    **settings: Any,
) -> nn.Module:
    """A network of timm by its name there; shapes as documented there.

    Parameters
    ----------
    name : str
        Any of `timm.list_models()`.
    classes : int, optional
        Outputs; left out: timm's own number.
    weights : str or mapping, optional
        Path of a file with weights (.safetensors, .pth, .pt); a mapping as of `torchvision`.
    checkpoint : str, optional
        Another word for `weights`.
    channels : int
        Of the images.
    **settings
        Passed on to `timm.create_model`, e.g. `drop_path_rate = 0.1`.

    Raises
    ------
    ValueError
        If the name is unknown, or the weights cannot be read or do not fit the network.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> timm("resnet10t", classes=10, channels=1).fc.out_features
    10
    """
    import timm as library

    _refuse(settings, "timm", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    known = library.list_models()
    if name.split(".")[0] not in known:
        near = nearest(name, known)
        raise ValueError(f"timm has no network `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    if classes is not None:
        settings["num_classes"] = classes
    try:
        net: nn.Module = library.create_model(name, pretrained=False, in_chans=channels, **settings)
    except TypeError as e:
        raise ValueError(f"timm's `{name}` refuses these settings: {e}") from e
    weights = checkpoint if weights is None else weights
    if weights is not None:
        load_fitted(net, read_weights(_existing(_source(weights))), weights, channels)
    return net


def _refuse(settings: Mapping[str, object], library: str, *names: str) -> None:
    """Refuse settings by which a library loads weights itself: it would download or unpickle them."""
    for name in names:
        if settings.get(name):
            raise ValueError(
                f'{library} would load files itself by `{name}`; write `weights = "…"`, the path of a file'
            )


def _source(weights: Weights) -> str:
    return weights if isinstance(weights, str) else str(weights["from"])


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no file with weights at {file.absolute()}")
    return file


def read_named(name: str, weights: Weights) -> tuple[WeightsFile, int | None]:
    """The tensors of weights that torchvision knows for its network `name`, or of a file, and their number of classes.

    The number is None where it is not known.

    Raises
    ------
    FileNotFoundError
        If they are not on this machine.
    ValueError
        If there are no such weights, or the file cannot be read.
    """
    import torchvision.models as models

    source = _source(weights)
    entry = "" if isinstance(weights, str) else str(weights.get("entry", ""))
    if is_file("torchvision", source):
        return read_weights(_existing(source), entry), None
    known = models.get_model_weights(name)
    if source not in known.__members__:
        raise ValueError(f"torchvision has no weights `{source}` for `{name}`: it has {listing(known.__members__)}")
    known_weights = known[source]
    file = Path(torch.hub.get_dir()) / "checkpoints" / known_weights.url.rsplit("/", 1)[-1]
    if not file.is_file():
        raise FileNotFoundError(
            f"the weights `{source}` of `{name}` are not on this machine: looked for {file}. "
            f"Put the file of {known_weights.url} there, or give a path"
        )
    categories = known_weights.meta.get("categories")
    return read_weights(file, entry), len(categories) if categories else None


def replace_input(net: nn.Module, channels: int) -> None:
    """Puts a fresh first convolution with `channels` input channels in place of the one with three.

    Raises
    ------
    ValueError
        If no convolution of the network reads three channels.
    """
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            fresh = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                stride=module.stride,  # type: ignore[arg-type]
                padding=module.padding,  # type: ignore[arg-type]
                dilation=module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None,
                padding_mode=module.padding_mode,
            )
            nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
            if fresh.bias is not None:
                nn.init.zeros_(fresh.bias)
            parent, _, child = path.rpartition(".")
            setattr(net.get_submodule(parent), child, fresh)
            return
    raise ValueError(f"this network has no convolution of three channels to replace by one of {channels}")


def load_fitted(
    net: nn.Module, file: WeightsFile, weights: Weights, channels: int = 3, renames: Sequence[Sequence[str]] = ()
) -> None:
    """Loads a file's tensors, all of which must fit; what `weights` excepts stays as it is.

    Parameters
    ----------
    net : nn.Module
    file : WeightsFile
    weights : str or mapping
        What the network's factory was given.
    channels : int
        Of the network's images; filters on three channels are fitted to other numbers.
    renames : sequence of pairs
        How names begin in the file and in the network, before those of `weights`.

    Raises
    ------
    MisfitError
        With every tensor that is missing, left over, or of another shape.
    """
    given = {} if isinstance(weights, str) else weights
    rename = [[*pair] for pair in (*renames, *given.get("rename", []))]
    part = Part(rename, given.get("only", []), given.get("except", []))
    tensors = fitted_to(net, file, part, channels=channels != 3).tensors
    if not any(p.is_meta for p in net.parameters()):  # else shapes are all that is wanted
        net.load_state_dict(tensors, strict=False)

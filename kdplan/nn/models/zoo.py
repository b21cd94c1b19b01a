"""Networks of torchvision and timm, with the head and the input channels that a plan asks for.

Nothing is downloaded: weights come from files that are already there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import listing, nearest

_TRAINED_WITH_OWN_SCALE = ("googlenet", "inception_v3")
"""torchvision's weights of these expect images that the network itself rescales."""


def torchvision(
    name: str, classes: int | None = None, weights: str | None = None, channels: int = 3, **settings: Any
) -> nn.Module:
    """A network of torchvision by its name there; shapes as documented there.

    Parameters
    ----------
    name : str
        Any of `torchvision.models.list_models()`.
    classes : int, optional
        Outputs; the head is new where the weights have another number. Left out: as the weights, or torchvision's own.
    weights : str, optional
        A name that torchvision knows (`IMAGENET1K_V1`, `DEFAULT`), whose file must lie in torch.hub's folder, or the
        path of a file (.safetensors, .pth, .pt). Left out: fresh.
    channels : int
        Of the images. With fewer than three, pretrained first filters are summed over the missing ones.
    **settings
        Passed on, e.g. `dropout = 0.2`.

    Raises
    ------
    ValueError
        If a name is unknown, or the weights do not fit the network.
    FileNotFoundError
        If the weights' file is not there; the message says where it was looked for.

    Examples
    --------
    >>> net = torchvision("resnet18", classes=10, channels=1)
    >>> net.conv1.in_channels, net.fc.out_features
    (1, 10)
    """
    import torchvision.models as models

    known = models.list_models()
    if name not in known:
        near = nearest(name, known)
        raise ValueError(f"torchvision has no network `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    state = None
    if weights is not None:
        file, own_classes = _torchvision_weights(name, weights)
        state = read_weights(file)
        if classes is None:
            classes = own_classes
        if name in _TRAINED_WITH_OWN_SCALE:
            settings.setdefault("transform_input", channels == 3)
    if name in _TRAINED_WITH_OWN_SCALE:
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
    if state is not None:
        load_adapted(net, state, f"weights `{weights}`")
    return net


def timm(
    name: str, classes: int | None = None, checkpoint: str | None = None, channels: int = 3, **settings: Any
) -> nn.Module:
    """A network of timm by its name there; shapes as documented there.

    Parameters
    ----------
    name : str
        Any of `timm.list_models()`.
    classes : int, optional
        Outputs; left out: timm's own number.
    checkpoint : str, optional
        Path of a file with weights (.safetensors, .pth, .pt); the head is new where it has another number of classes.
    channels : int
        Of the images.
    **settings
        Passed on to `timm.create_model`, e.g. `drop_path_rate = 0.1`.

    Raises
    ------
    ValueError
        If the name is unknown, or the weights do not fit the network.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> timm("resnet10t", classes=10, channels=1).fc.out_features
    10
    """
    import timm as library

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
    if checkpoint is not None:
        load_adapted(net, read_weights(_existing(checkpoint)), f"checkpoint `{checkpoint}`")
    return net


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no file with weights at {file.absolute()}")
    return file


def _torchvision_weights(name: str, weights: str) -> tuple[Path, int | None]:
    """The file of the named weights, and the number of classes that they were trained on, where it is known."""
    import torchvision.models as models

    if "/" in weights or weights.endswith((".safetensors", ".pth", ".pt")):
        return _existing(weights), None
    known = models.get_model_weights(name)
    if weights not in known.__members__:
        raise ValueError(f"torchvision has no weights `{weights}` for `{name}`: it has {listing(known.__members__)}")
    entry = known[weights]
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    if not file.is_file():
        raise FileNotFoundError(
            f"the weights `{weights}` of `{name}` are not on this machine: looked for {file}. "
            f"Put the file of {entry.url} there, or give a path"
        )
    categories = entry.meta.get("categories")
    return file, len(categories) if categories else None


def backbone_weights(name: str, weights: str) -> dict[str, Tensor]:
    """The tensors of weights that torchvision knows for its network `name`, or of a file.

    Raises
    ------
    FileNotFoundError
        If they are not on this machine.
    ValueError
        If there are no such weights, or the file cannot be read.
    """
    return read_weights(_torchvision_weights(name, weights)[0])


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name; only tensors are read, no code is run.

    Raises
    ------
    ValueError
        If the file cannot be read, or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:
        raise ValueError(f"{file} holds no readable weights: {e}") from e
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{file} holds no table of tensors")
    return dict(state)


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


def load_adapted(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Loads weights; a head with another number of classes stays fresh, a first layer is fitted to its channels.

    Parameters
    ----------
    net : nn.Module
    state : mapping of str to Tensor
    what : str
        How messages call the weights.

    Raises
    ------
    ValueError
        If anything else does not fit; the message names the first tensors that do not.
    """
    own = net.state_dict()
    wrong = [f"no `{k}` in the weights" for k in own if k not in state]
    wrong += [f"no `{k}` in the network" for k in state if k not in own]
    fitting = {}
    heads = {k.rpartition(".")[0] for k, m in _linear_parameters(net)}
    for key, value in state.items():
        if key not in own or value.shape == own[key].shape:
            fitting[key] = value
        elif _is_first_filter(value, own[key]):
            fitting[key] = _fit_channels(value, own[key].shape[1])
        elif key.rpartition(".")[0] not in heads or value.shape[1:] != own[key].shape[1:]:
            wrong.append(f"`{key}` is {list(value.shape)}, the network has {list(own[key].shape)}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"the {what} are not of this network: {'; '.join(wrong[:3])}{more}")
    net.load_state_dict(fitting, strict=False)


def _linear_parameters(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Parameters of the layers that may be a head: linear ones, and 1 x 1 convolutions; name and layer."""
    layers: list[tuple[str, nn.Module]] = []
    for path, module in net.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            layers += [(f"{path}.{name}", module) for name, _ in module.named_parameters(recurse=False)]
    return layers


def _is_first_filter(value: Tensor, own: Tensor) -> bool:
    """Whether these are filters on three colours ``[out, 3, h, w]``, and the network's differ in that only."""
    return value.dim() == own.dim() == 4 and value.shape[1] == 3 and value[:, 0].shape == own[:, 0].shape


def _fit_channels(filters: Tensor, channels: int) -> Tensor:
    """First-layer filters for another number of channels, of the same total response.

    ``[out, c, h, w] -> [out, channels, h, w]``: a grey image then gives what it gave as three equal channels.
    """
    return filters.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels

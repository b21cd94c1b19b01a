"""Extra state of modules (`get_extra_state`) as tensors, so that versions and checkpoints have it like weights.

PyTorch puts what `get_extra_state` returns into a `state_dict` as it is: a dictionary, a number. Files of tensors hold
only tensors, so such values are encoded as bytes, and decoded before `set_extra_state` gets them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

NAME = "_extra_state"
"""What PyTorch calls an entry with extra state, behind the module's path."""
_START = b"kdplan extra state\n"
_BLOCK = 1024
"""Encoded values are padded to multiples of so many bytes: a counter that grows keeps its size."""


def is_extra(name: str) -> bool:
    """Whether a name in a `state_dict` is one of extra state.

    >>> is_extra("body._extra_state"), is_extra("body.weight")
    (True, False)
    """
    return name.rpartition(".")[2] == NAME


def path_of(name: str) -> str:
    """The path of the module whose extra state has such a name.

    >>> path_of("body._extra_state"), path_of("_extra_state")
    ('body', '')
    """
    return name.rpartition(".")[0]


def encoded(value: object) -> Tensor:
    """A value as bytes, uint8 [n]; tensors stay.

    Raises
    ------
    ValueError
        If it holds other things than tensors, numbers, strings and collections of these.

    Examples
    --------
    >>> decoded(encoded({"steps": 3, "scales": [1.0, None]}))
    {'steps': 3, 'scales': [1.0, None]}
    """
    if isinstance(value, Tensor):
        return value
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except (pickle.PickleError, TypeError, AttributeError) as problem:
        raise ValueError(
            "`get_extra_state` gives more than tensors, numbers, strings and collections of these"
        ) from problem
    content = _START + len(buffer.getvalue()).to_bytes(8, "big") + buffer.getvalue()
    return torch.frombuffer(bytearray(content.ljust(-(-len(content) // _BLOCK) * _BLOCK, b"\0")), dtype=torch.uint8)


def decoded(value: Any) -> Any:
    """The inverse of `encoded`."""
    if not isinstance(value, Tensor) or value.dtype is not torch.uint8 or value.dim() != 1 or value.is_meta:
        return value
    content = value.cpu().numpy().tobytes()
    if not content.startswith(_START):
        return value
    start = len(_START) + 8
    length = int.from_bytes(content[len(_START) : start], "big")
    return torch.load(io.BytesIO(content[start : start + length]), weights_only=True)


def has_extra(module: nn.Module) -> bool:
    """Whether a module has extra state."""
    return type(module).get_extra_state is not nn.Module.get_extra_state


def extra_of(net: nn.Module) -> dict[str, Tensor]:
    """The extra state of a network's modules by their paths, encoded."""
    return {path: encoded(m.get_extra_state()) for path, m in net.named_modules() if has_extra(m)}


def set_extra(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of `extra_of`."""
    for path, value in state.items():
        net.get_submodule(path).set_extra_state(decoded(value))


def carry(net: nn.Module) -> None:
    """From now on, `state_dict` and `load_state_dict` of a network have extra state as tensors.

    Examples
    --------
    >>> class Counting(nn.Module):
    ...     steps = 0
    ...     def get_extra_state(self): return {"steps": self.steps}
    ...     def set_extra_state(self, state): self.steps = state["steps"]
    >>> one, other = Counting(), Counting()
    >>> carry(one), carry(other)
    (None, None)
    >>> one.steps = 7
    >>> _ = other.load_state_dict(one.state_dict())
    >>> other.steps
    7
    """
    for module in net.modules():
        if has_extra(module):
            module.register_state_dict_post_hook(_encode)  # type: ignore[no-untyped-call]
            module.register_load_state_dict_pre_hook(_decode)  # type: ignore[no-untyped-call]


def _encode(_: nn.Module, state: dict[str, Any], prefix: str, __: object) -> None:
    if f"{prefix}{NAME}" in state:
        state[f"{prefix}{NAME}"] = encoded(state[f"{prefix}{NAME}"])


def _decode(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
    if f"{prefix}{NAME}" in state:
        state[f"{prefix}{NAME}"] = decoded(state[f"{prefix}{NAME}"])

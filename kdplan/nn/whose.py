"""Whose code a function or a module is: torch's, ours, a library's of networks, or a user's."""

from __future__ import annotations

from torch import nn

from kdplan.syntax.imports import NETWORK_LIBRARIES

_KNOWN = ("torch", "_operator", "builtins", "math", "kdplan")


def is_user_code(code: object) -> bool:
    """Whether a function, a module or one of its sub-modules is neither torch's nor ours, and so may do anything.

    >>> import random
    >>> is_user_code(nn.Sequential(nn.Linear(2, 2))), is_user_code(random.choice)
    (False, True)
    """
    if isinstance(code, nn.Module):
        return any(type(m).__module__.partition(".")[0] not in _KNOWN for m in code.modules())
    return (getattr(code, "__module__", None) or "torch").partition(".")[0] not in _KNOWN


def is_users(module: nn.Module) -> bool:
    """Whether a module has a part that is not torch's, ours, torchvision's or timm's.

    >>> is_users(nn.Sequential(nn.Linear(2, 2)))
    False
    """
    return any(is_users_own(type(m)) for m in module.modules())


def is_users_own(code: object) -> bool:
    """Whether a function or a class is the user's, and not one of a library of networks.

    >>> import random, torch
    >>> is_users_own(torch.relu), is_users_own(random.choice)
    (False, True)
    """
    return is_user_code(code) and str(getattr(code, "__module__", "")).partition(".")[0] not in NETWORK_LIBRARIES


def may_write(module: nn.Module) -> bool:
    """Whether a module may write into its inputs: its code is a user's, or a part of it works in place.

    >>> may_write(nn.ReLU(inplace=True)), may_write(nn.Linear(2, 2))
    (True, False)
    """
    return is_users(module) or any(vars(m).get("inplace") for m in module.modules())

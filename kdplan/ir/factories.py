"""What kind of object may be called as a factory of networks or data sets, or as a loss: looked at before the call.

A name in a plan or a description leads to an object of a module. Of what a module holds, only its own functions and
classes, and networks of libraries, may be called: not what it has imported from Python, such as `os.system`.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any, Literal

from kdplan.ir.trust import OWN, is_pythons, top_of

What = Literal["network", "data set", "loss"]

_HOMES: dict[What, tuple[str, ...]] = {
    "network": ("torch.nn", "torchvision.models", "timm.models", "kdplan.nn"),
    "data set": (),
    "loss": ("torch.nn", "torch.functional", "torch.special", "torch.linalg", "torch.fft", "torch.func", "torch._C",
             "torch._ops", "torch._VF", "torch._jit_internal", "torchvision.ops", "kdplan.nn"),
}  # fmt: skip
"""Modules of libraries that come with kdplan whose functions are factories, or losses."""
_FIXED = (None, bool, int, float, complex, str, bytes, "None", "bool", "int", "float", "complex", "str", "bytes")
"""Return types of functions that return no network and no data set."""


class NoFactory(ValueError):
    """An object is no factory of what is wanted; `why` is a clause without a full stop."""

    def __init__(self, name: str, what: What, why: str) -> None:
        a = "no loss" if what == "loss" else f"no factory of a {what}"
        super().__init__(f"`{name}` is {a}: {why}")
        self.why = why


def check_factory(value: object, name: str, what: What, package: str = "") -> None:
    """Look at an object before it is called.

    Parameters
    ----------
    value
        The object.
    name
        How messages call it.
    what
        What a call of it has to give.
    package
        The installed package that was asked for it; "" for a file of the user's.

    Raises
    ------
    NoFactory

    Examples
    --------
    >>> import os, subprocess
    >>> check_factory(os.system, "my.system", "network")
    Traceback (most recent call last):
    kdplan.ir.factories.NoFactory: `my.system` is no factory of a network: it is part of Python (`posix`)
    >>> check_factory(subprocess.Popen, "my.Popen", "data set")
    Traceback (most recent call last):
    kdplan.ir.factories.NoFactory: `my.Popen` is no factory of a data set: it is part of Python (`subprocess`)
    """
    if why := _why_not(value, what, package):
        raise NoFactory(name, what, why)


def _why_not(value: object, what: What, package: str) -> str:
    value = _bare(value)
    if _is_network(value, what):
        return ""
    home = _home(value)
    if is_pythons(home):
        return f"it is part of Python (`{home}`)"
    if isinstance(value, type) and what == "network" and _made_by_type(value):
        return "it is a class that is no `torch.nn.Module`"
    if top_of(home) in OWN and not _gives(home, value, what):
        return f"it is part of `{home}`"
    if package and top_of(home) not in (package, *OWN):
        return f"it is part of `{top_of(home)}`, and not of `{package}`"
    returns = getattr(value, "__annotations__", {}).get("return", "")
    if isinstance(value, types.FunctionType) and what != "loss" and returns in _FIXED:
        return f"it returns {returns.__name__ if isinstance(returns, type) else returns}"
    return ""


def _gives(home: str, value: object, what: What) -> bool:
    """Whether a library's function in module `home` is a factory, or a loss: no function that loads or builds anything.

    Compiled operations of torch say no more than that they are torch's.
    """
    if what == "network" and "._" in home:
        return False
    compiled = what == "loss" and home == "torch" and not isinstance(value, types.FunctionType)
    return compiled or any(home == h or home.startswith(f"{h}.") for h in _HOMES[what])


def _bare(value: Any) -> Any:
    """What a partial function or a method calls in the end."""
    for _ in range(100):
        if isinstance(value, functools.partial):
            value = value.func
        elif isinstance(value, types.MethodType):
            value = value.__func__
        else:
            break
    return value


def _home(value: object) -> str:
    """The module that an object is defined in; of an instance, that of its class."""
    module = getattr(value, "__module__", None)
    if not isinstance(module, str):
        module = type(getattr(value, "__self__", None) or value).__module__
    return module or "builtins"


def _is_network(value: object, what: What) -> bool:
    """Whether a network comes of it that computes and does nothing else: a module's class, or as a loss a module."""
    torch = sys.modules.get("torch")  # not imported for this: without it no class is one of its modules
    if torch is None:
        return False
    if what == "loss":
        return isinstance(value, torch.nn.Module)
    return what == "network" and isinstance(value, type) and issubclass(value, torch.nn.Module)


def _made_by_type(value: type) -> bool:
    """Whether calling a class gives an instance of it, and no other object."""
    own_new = any("__new__" in vars(c) for c in value.__mro__[:-1])
    return not own_new and type(value).__call__ is type.__call__

"""Networks: built by name, with weights that depend on nothing but the architecture and a seed."""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kdplan.diagnostics.boundary import ForeignError, is_foreign
from kdplan.diagnostics.report import listing, nearest
from kdplan.ir.adapted import HELD
from kdplan.ir.factories import check_factory
from kdplan.ir.heads import HEADED
from kdplan.ir.implementation import load
from kdplan.ir.origins import ENSEMBLE
from kdplan.ir.trust import check_trusted, top_of
from kdplan.ir.user_code import check_allowed, module_of_file
from kdplan.nn import extra_state
from kdplan.nn.catalog import MODELS

_OWN = frozenset({ENSEMBLE, HEADED, *HELD})
"""Factories of kdplan that no plan names: of networks made of networks."""


class FactoryError(ValueError, ForeignError):
    """Code of the user, or of a library, cannot make a network; its cause is the code's own exception."""


def create(factory: str, /, **args: Any) -> nn.Module:
    """Builds a network.

    Parameters
    ----------
    factory : str
        A name in `kdplan.nn.catalog.MODELS`, or `package.module:function`, or `path/to/file.py:function`, which returns
        an `nn.Module`.
    **args
        The factory's settings.

    Returns
    -------
    nn.Module
        In training mode, on the CPU, initialised from torch's global generator (see `initialise`).

    Raises
    ------
    ValueError
        If there is no such factory, it has no such setting, or it refuses the values.
    FileNotFoundError
        If weights or a file of code are not there.

    Examples
    --------
    >>> create("digits_net", width=8).fc
    Linear(in_features=32, out_features=10, bias=True)
    >>> create("digits_net", widht=8)
    Traceback (most recent call last):
    ValueError: `digits_net` has no setting `widht`; did you mean `width`?
    """
    build = find(factory)
    _check_arguments(factory, build, args)
    try:
        net = build(**args)
    except BaseException as e:  # a user's factory, or a library's with these settings, may raise anything
        own = isinstance(e, ValueError | FileNotFoundError) and ":" not in factory
        if own or not is_foreign(e):
            raise  # our own factories' messages stand alone
        raise FactoryError(f"`{factory}` failed with these settings: {type(e).__name__}: {e}") from e
    if not isinstance(net, nn.Module):
        raise ValueError(f"`{factory}` returned a {type(net).__name__}, not a torch module")
    _check_traceable(net)
    extra_state.carry(net)
    return net


def _check_traceable(net: nn.Module) -> None:
    """Refuse modules without weights or without Python code."""
    for path, module in net.named_modules():
        name = f"its part `{path}`" if path else "it"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{name} is a TorchScript module, which cannot be traced; return the module itself")
        if any(is_lazy(t) for t in (*module._parameters.values(), *module._buffers.values())):
            kind = type(module).__name__
            raise ValueError(f"{name} is {kind}, without a size before its first batch; write the layer with its size")


def find(factory: str) -> Callable[..., Any]:
    """The function that `factory` names; see `create`.

    Raises
    ------
    ValueError, FileNotFoundError
    """
    if ":" not in factory:
        if factory not in MODELS:
            near = nearest(factory, MODELS)
            hint = f"did you mean `{near}`?" if near else f"there are {listing(MODELS)}, and `module:function`"
            raise ValueError(f"there is no network `{factory}`; {hint}")
        return load(MODELS[factory].implementation)
    if factory in _OWN:
        return load(factory)
    where, _, name = factory.rpartition(":")
    module = _module_of_file(Path(where).expanduser()) if where.endswith(".py") else _module(factory)
    value = getattr(module, name, None)
    if not callable(value):
        near = nearest(name, dir(module))
        raise ValueError(f"{where} has no function `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    check_factory(value, f"{Path(where).name}:{name}", "network", "" if where.endswith(".py") else top_of(where))
    built: Callable[..., Any] = value
    return built


def _module(factory: str) -> ModuleType:
    """The module of `package.module:function`."""
    name = factory.rpartition(":")[0]
    check_allowed(name)
    check_trusted(factory)
    try:
        return importlib.import_module(name)
    except BaseException as e:  # a user's module may raise anything while it loads
        if not is_foreign(e):
            raise
        raise FactoryError(f"module `{name}` cannot be imported: {type(e).__name__}: {e}") from e


def _module_of_file(path: Path) -> ModuleType:
    try:
        return module_of_file(path)
    except BaseException as e:  # a user's file may raise anything while it loads
        if (isinstance(e, FileNotFoundError) and not path.is_file()) or not is_foreign(e):
            raise
        raise FactoryError(f"{path} cannot be loaded: {type(e).__name__}: {e}") from e


def _check_arguments(factory: str, build: Callable[..., object], args: Mapping[str, object]) -> None:
    try:
        parameters = inspect.signature(build).parameters
    except ValueError:  # built-in callables may have no signature; the call itself then fails
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in args:
        if name not in parameters:
            near = nearest(name, parameters)
            hint = f"did you mean `{near}`?" if near else f"it has {listing(parameters)}"
            raise ValueError(f"`{factory}` has no setting `{name}`; {hint}")
    missing = [
        n for n, p in parameters.items() if p.default is p.empty and n not in args and p.kind is not p.VAR_POSITIONAL
    ]
    if missing:
        raise ValueError(f"`{factory}` needs {listing(missing)}")


def initialise(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Builds a network from `seed` alone, on the CPU, and leaves all global generators as they were.

    Parameters
    ----------
    build : callable
        Makes the network; called once.
    seed : int

    Returns
    -------
    nn.Module
        The same weights for the same architecture and seed, whatever was drawn before.

    Examples
    --------
    >>> a, b = (initialise(lambda: create("mlp", inputs=4), 7) for _ in range(2))
    >>> torch.equal(a.fc.weight, b.fc.weight)
    True
    """
    python, legacy = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # default_generator alone: torch.manual_seed would also seed the accelerators, which are not forked here.
            torch.default_generator.manual_seed(seed)
            return build()
    finally:
        random.setstate(python)
        np.random.set_state(legacy)

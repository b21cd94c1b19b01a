"""The functions that an expression's calls and operators stand for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

from kdplan.diagnostics.boundary import boundary
from kdplan.diagnostics.report import error, suggestion
from kdplan.diagnostics.span import Span
from kdplan.ir.factories import NoFactory, check_factory
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.implementation import load
from kdplan.ir.trust import check_trusted, top_of
from kdplan.ir.user_code import check_allowed, module_of_file
from kdplan.nn import sparse
from kdplan.nn.functions import FUNCTIONS as CODE


def built_in(name: str) -> Callable[..., Any]:
    """The code of a built-in function of signals: where its row says, else under its name in `kdplan.nn.functions`.

    >>> built_in("kd").__module__, built_in("mix").__module__
    ('kdplan.nn.losses', 'kdplan.nn.functions')
    """
    implementation = FUNCTIONS[name].implementation
    return load(implementation) if implementation else CODE[name]


def user(path: str, name: str, span: Span | None) -> Callable[..., Any]:
    """A function of a user's Python file, or of an installed package.

    Raises
    ------
    PlanError
        KD0512 if the file raises when it is read, KD0513 if it has no such function, KD1003 for a package that the
        user does not trust, KD1005 for what is no loss.
    """
    check_allowed(path)
    is_file = path.endswith(".py")
    if not is_file:
        check_trusted(f"{path}:{name}", span)
    with boundary("KD0512", span, file=path):
        module = module_of_file(Path(path)) if is_file else importlib.import_module(path)
    function = getattr(module, name, None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__ and callable(v)]
        raise error("KD0513", span, file=path, name=name, help=suggestion(name, own))
    try:
        check_factory(function, f"{Path(path).name}:{name}", "loss", "" if is_file else top_of(path))
    except NoFactory as problem:
        raise error("KD1005", span, name=name, what="loss", why=problem.why) from None
    return function if hasattr(function, "__name__") else _named(function, name, module.__name__)


@lru_cache(maxsize=256)
def _named(function: Callable[..., Any], name: str, module: str) -> Callable[..., Any]:
    """An object that can be called, as a function with a name: a partial function, a module, an instance."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__module__ = module
    return call


def sparse_form(name: str) -> Callable[..., Any]:
    """The code of a built-in function for sparse signals: scores [B, K] with their classes [B, K].

    >>> sparse_form("cross_entropy").__module__
    'kdplan.nn.sparse'
    """
    form: Callable[..., Any] = getattr(sparse, name)
    return form

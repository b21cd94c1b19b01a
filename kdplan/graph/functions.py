"""The functions that an expression's calls and operators stand for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

from kdplan.diagnostics.boundary import boundary
from kdplan.diagnostics.report import counted, error, listing, suggestion
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
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


def check_call(code: Callable[..., Any], name: str, e: ir.Call) -> None:
    """Whether a function of the user takes the arguments of a call, by its signature.

    Raises
    ------
    PlanError
        KD0230, KD0236 or KD0237.
    """
    try:
        signature = inspect.signature(code)
    except (TypeError, ValueError):
        return  # compiled code may have none
    kinds = [p.kind for p in signature.parameters.values()]
    by_name = [n for n, p in signature.parameters.items() if p.kind in _NAMED]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for n, value in e.keywords.items():
            if n not in by_name:
                raise error("KD0230", value.span or e.span, function=f"`{name}`", name=n, help=suggestion(n, by_name))
    in_order = [k for k in kinds if k in _IN_ORDER]
    if inspect.Parameter.VAR_POSITIONAL not in kinds and len(e.args) > len(in_order):
        help = f"Use only {listing(by_name)}." if by_name else None
        number = counted(len(in_order), "argument")
        raise error("KD0236", e.args[len(in_order)].span or e.span, function=name, count=number, help=help)
    for i, (n, p) in enumerate(signature.parameters.items()):
        given = n in e.keywords or (p.kind in _IN_ORDER and i < len(e.args))
        if not given and p.default is p.empty and p.kind in (*_NAMED, *_IN_ORDER):
            raise error("KD0237", e.span, function=name, name=n, help=f"Give it by its name: `{n} = …`.")


_IN_ORDER = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


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

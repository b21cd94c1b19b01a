"""Whose code may run: files that a plan names, known libraries, and packages that the user trusts.

A plan names a package in a string, such as `source("mylab:make")`. That alone runs none of its code: the user confirms
it, with `--trust` or in the environment variable `KDPLAN_TRUST`, and no plan can.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import metadata

from kdplan.diagnostics.report import PlanError, error
from kdplan.diagnostics.span import Span

SETTING = "KDPLAN_TRUST"
"""The environment variable with packages that the user trusts in every plan."""
GROUP = "kdplan.factories"
"""Entry points of this group are factories of networks, data sets and losses that need no trust."""
KNOWN = ("torch", "torchvision", "timm")
"""Libraries whose networks any plan may name."""
OWN = frozenset({"kdplan", "lark", "networkx", "numpy", "PIL", "pydantic", "safetensors", "sklearn", *KNOWN})
"""Packages of every installation, which hold more than factories: nobody can trust all of their functions."""
_TRUSTED: ContextVar[frozenset[str]] = ContextVar("_TRUSTED", default=frozenset())


@contextmanager
def trusting(packages: Iterable[str]) -> Iterator[None]:
    """Inside, code of these packages may run too.

    Raises
    ------
    PlanError
        KD1004 for what can be no such package.

    Examples
    --------
    >>> with trusting(["mylab"]):
    ...     is_trusted("mylab.vision"), is_trusted("otherlab")
    (True, False)
    >>> with trusting(["os"]):  # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
    kdplan.diagnostics.report.PlanError: KD1004: `os` cannot be trusted: it is part of Python. ...
    """
    token = _TRUSTED.set(_TRUSTED.get() | _checked(packages))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def _checked(packages: Iterable[str]) -> frozenset[str]:
    names = frozenset(packages)
    for name in sorted(names):
        if why := unfit(name):
            raise error("KD1004", None, name=name, why=why)
    return names


def of_user() -> frozenset[str]:
    """The packages in `KDPLAN_TRUST`, separated by spaces or commas.

    Raises
    ------
    PlanError
        KD1004, as `trusting`.
    """
    return _checked(re.split(r"[\s,]+", os.environ.get(SETTING, "").strip(", \t\n")) if os.environ.get(SETTING) else [])


def unfit(package: str) -> str:
    """Why a name can be that of no package to trust; "" where it can.

    >>> unfit("mylab"), unfit("subprocess"), unfit("torch"), unfit("my-lab")
    ('', 'it is part of Python', 'it holds more than factories', 'it is no name of a package')
    """
    if not package.isidentifier():
        return "it is no name of a package"
    if is_pythons(package):
        return "it is part of Python"
    return "it holds more than factories" if package in OWN else ""


def is_pythons(module: str) -> bool:
    """Whether a module belongs to Python itself.

    >>> is_pythons("os.path"), is_pythons("posix"), is_pythons("mylab")
    (True, True, False)
    """
    top = top_of(module)
    return top in sys.stdlib_module_names or top in sys.builtin_module_names


def top_of(module: str) -> str:
    """The package that a module is in.

    >>> top_of("mylab.vision.nets")
    'mylab'
    """
    return module.partition(".")[0]


def is_trusted(module: str) -> bool:
    """Whether the user trusts the package that a module is in."""
    top = top_of(module)
    return not unfit(top) and top in _TRUSTED.get() | of_user()


def may_run(factory: str) -> bool:
    """Whether `module:function` may be imported: of a known library, trusted, or registered by its package."""
    module, _, _ = factory.rpartition(":")
    return top_of(module) in KNOWN or is_trusted(module) or factory in registered(top_of(module))


@cache
def registered(package: str) -> frozenset[str]:
    """The factories that an installed package registers as entry points, each `module:function` of its own."""
    points = metadata.entry_points(group=GROUP)
    values = {point.value.split("[")[0].replace(" ", "") for point in points}
    return frozenset(v for v in values if top_of(v.partition(":")[0]) == package and not unfit(package))


def check_trusted(factory: str, span: Span | None = None) -> None:
    """Call this before a package is imported.

    Raises
    ------
    PlanError
        KD1003 where the user does not trust the package of `module:function`, KD1004 where nobody can.
    """
    package = top_of(factory.rpartition(":")[0])
    if may_run(factory):
        return
    if why := unfit(package):
        raise PlanError(error("KD1004", span, name=package, why=why).diagnostics)
    raise error("KD1003", span, package=package)

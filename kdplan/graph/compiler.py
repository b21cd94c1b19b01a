"""`torch._dynamo`, imported only where something is compiled.

Fake tensors and optimizers import it, which takes a second or two, to say that it must not compile them. As long as it
does not compile anything, they need not say so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"


class Later(ModuleType):
    """Stands for the compiler until something of it is used but its settings and its way to say "not this function".

    Then the compiler itself is imported, and what was said to this module is forgotten, to be said again.
    """

    def __init__(self) -> None:
        super().__init__(NAME)
        self._plain: list[Callable[..., Any]] = []
        spec = find_spec("torch")
        assert spec is not None and spec.submodule_search_locations is not None
        self.__path__ = [f"{folder}/_dynamo" for folder in spec.submodule_search_locations]

    def settle(self) -> None:
        """Import the settings alone, which fake tensors read; every other module below this one is the compiler's."""
        self.config = import_module(f"{NAME}.config")
        del self.__path__

    def disable(self, fn: Any = None, recursive: bool = True, **more: Any) -> Any:
        """The function itself: nothing is compiled."""
        if not callable(fn) or more != {"wrapping": False}:
            return self._real().disable(fn, recursive, **more)
        self._plain.append(fn)
        return fn

    def graph_break(self, msg: str = "") -> None:
        """Nothing: no graph is built."""

    def forget(self) -> None:
        """Remove this module, and what functions of torch have kept of it."""
        for fn in self._plain:
            for name in [name for name, value in vars(fn).items() if value is fn]:
                delattr(fn, name)
        self._plain.clear()
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
            del torch._dynamo

    def _real(self) -> ModuleType:
        self.forget()
        return import_module(NAME)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` asks every module for its file
            raise AttributeError(name)
        return getattr(self._real(), name)


def imported() -> ModuleType | None:
    """The compiler, if it is imported.

    >>> imported() is sys.modules.get("torch._dynamo") or isinstance(sys.modules["torch._dynamo"], Later)
    True
    """
    module = sys.modules.get(NAME)
    return None if isinstance(module, Later) else module


@contextmanager
def compiler_later() -> Iterator[None]:
    """Inside, torch's compiler is imported where it is used, and not before.

    >>> with compiler_later():
    ...     optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    """
    if NAME in sys.modules:
        yield
        return
    later = Later()
    sys.modules[NAME] = torch._dynamo = later
    try:
        later.settle()
        yield
    finally:
        later.forget()

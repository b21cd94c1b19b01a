"""A plan that is about to run: what it reads stays in the store until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Protocol, TypeVar

from kdplan.ir.dag import PhaseKey, Planned
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.options import RunOptions
from kdplan.runtime.space import Patience
from kdplan.runtime.store import Store


class Compiled(Protocol):
    """What is asked of a compiled plan."""

    keys: dict[str, PhaseKey]
    planned: dict[str, Planned]


C = TypeVar("C", bound=Compiled)


@contextmanager
def reading(compile: Callable[[], C], store: Store, options: RunOptions, events: Events | None = None) -> Iterator[C]:
    """The compiled plan; inside, nobody removes what it reads, and the store remembers that it does.

    A plan that needs no training is given also where the store cannot be written, and so is any plan with `keep_going`.

    Raises
    ------
    PlanError
        As `compile`, and as `Store.reading`.
    """
    compiled = compile()
    keys = {name: key.key for name, key in compiled.keys.items()}
    optional = options.keep_going or not to_train(compiled.planned)
    registered = partial(store.reading, keys, options.plan_file, options.settings, optional)
    with ExitStack() as stack:
        patience = Patience(options.wait_for_space, events or NoEvents())
        patience.write(lambda: stack.enter_context(registered()))
        # It may have been removed between planning and registering.
        if any(step.action == "cached" and not store.has(step.key) for step in compiled.planned.values()):
            compiled = compile()
        yield compiled


def to_train(planned: Mapping[str, Planned]) -> list[str]:
    """The phases that a run will train, each of several equal ones once."""
    return [n for n, p in planned.items() if p.action not in ("cached", "blocked") and p.same_as is None]

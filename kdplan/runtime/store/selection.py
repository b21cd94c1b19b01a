"""What a user's words mean in a store: a plan that was run, a phase, or a key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kdplan.diagnostics.report import error, suggestion
from kdplan.passes.schedule import called
from kdplan.runtime.store.inventory import KINDS, Entry, entry, listed, name_of
from kdplan.runtime.store.remembered import Remembered
from kdplan.runtime.store.store import Store

KEY = re.compile(r"[0-9a-f]{6,}")
"""The first digits of a key."""


@dataclass
class Selection:
    """Phases and plans of a store.

    Attributes
    ----------
    keys : set of str
        Of phases and of frozen values.
    plans : list of str
        Plan files that were named as a whole.
    """

    keys: set[str] = field(default_factory=set)
    plans: list[str] = field(default_factory=list)

    def entries(self, store: Store) -> list[Entry]:
        """What there is of these keys, largest first."""
        some = [entry(store, kind, key) for kind in KINDS for key in listed(store, kind) if key in self.keys]
        return sorted(some, key=lambda e: (-e.bytes, e.kind, e.key))


class Words:
    """The names in a store, to look up what a user's words mean."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.plans = [remembered for _, remembered in store.plans.all() if remembered is not None]

    @cached_property
    def keys(self) -> set[str]:
        """All keys of phases and values that are there."""
        return {key for kind in KINDS for key in listed(self.store, kind)}

    @cached_property
    def phases(self) -> dict[str, set[str]]:
        """All that means a phase -> keys, also of artifacts that no plan reads any more."""
        names = {key: name for plan in self.plans for key, name in plan.names.items()}
        for kind in ("phases", "work"):
            for key in listed(self.store, kind):
                names[key] = names.get(key) or name_of(self.store, kind, key)
        forms: dict[str, set[str]] = {}
        for key, name in names.items():
            for form in called([name]) if name and key in self.keys else ():
                forms.setdefault(form, set()).add(key)
        return forms

    def select(self, words: Iterable[str]) -> Selection:
        """What the words mean together.

        Raises
        ------
        PlanError
            KD0919 for a word that means nothing in this store.
        """
        chosen = Selection()
        for word in words:
            plan = self._plan(word)
            keys = {key for key in self.keys if key.startswith(word)} if KEY.fullmatch(word) else set()
            keys = keys or (set() if plan else self.phases.get(word, set()))
            if plan is not None:
                chosen.plans.append(plan.plan)
                keys = plan.reads | set(plan.phases.values())
            elif not keys:
                known = [*self.phases, *(p.plan for p in self.plans)]
                raise error("KD0919", None, word=word, root=self.store.root, help=suggestion(word, known))
            chosen.keys |= keys
        return chosen

    def _plan(self, word: str) -> Remembered | None:
        """The plan with this path, or the only one whose path ends so."""
        exact = next((p for p in self.plans if p.plan == str(Path(word).resolve())), None)
        ending = [p for p in self.plans if p.plan.endswith(f"/{word}")]
        return exact or (ending[0] if len(ending) == 1 else None)

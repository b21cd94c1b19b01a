"""Declarations as keywords: what may stand in each kind is read from the language's table, and stands nowhere here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdplan.api.terms import Term, Value, choice, to_node, word
from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import nearest
from kdplan.ir.spec import Kind
from kdplan.passes.spell import NOWHERE
from kdplan.syntax import ast

LITERAL = {"string", "pairs"}
"""Types of settings whose strings are strings; those of all others are names: `schedule="cosine"`."""

Part = ast.Declaration
"""A declaration that stands in the body of another."""

PARTS = {inner: KINDS[inner] for kind in KINDS.values() for inner in kind.inner if inner not in ("def", "measure")}
"""Kinds that stand in the bodies of others, besides those that have keywords of their own."""


def declaration(
    kind: str,
    name: str | None,
    given: Mapping[str, Any],
    parts: Sequence[Part] = (),
    text: str | None = None,
) -> ast.Declaration:
    """Return a declaration of any kind.

    Parameters
    ----------
    kind, name : str
    given : mapping
        Clauses and settings by their names (``with_`` and ``from_`` for Python's own words, ``value`` for what stands
        after ``=``), and where the kind has these: ``each`` (indices), ``logged`` (terms by name), ``validate`` (data
        and metrics), ``metrics``, ``pairs`` (pairs of taps).
    parts : sequence
        Declarations of its body.
    text : str, optional
        The file of a ``use``.

    Examples
    --------
    >>> from kdplan.syntax.write import write
    >>> print(write(declaration("ensemble", "pair", {"of": [word("a"), word("b")], "mean": "logits"})))
    ensemble pair of a, b { mean = logits }
    """
    if name is not None:
        word(name)  # refuses what is no name
    row = KINDS[kind]
    rest = dict(given)
    slots = [ast.Slot(NOWHERE, n, NOWHERE, to_node(v)) for n, v in (rest.pop("each", None) or {}).items()]
    metrics = rest.pop("metrics", None) if row.listing else None
    items = _body(row, rest, parts)
    clauses = [_clause(w, rest[w]) for w in row.clauses if w in rest]
    listing = [choice(m) for m in metrics] if metrics is not None else None
    return ast.Declaration(
        NOWHERE, kind, NOWHERE, name, NOWHERE, text, None, slots, clauses, items or None, listing, NOWHERE
    )


def _body(row: Kind, rest: dict[str, Any], parts: Sequence[Part]) -> list[ast.Item]:
    """The body; `rest` keeps the clauses, by the words of the language."""
    defs = (rest.pop("logged", None) or {}) if "def" in row.inner else {}
    validate = rest.pop("validate", None) if "measure" in row.inner else None
    pairs = (rest.pop("pairs", None) or ()) if row.pairs else ()
    for key in list(rest):
        clause = "=" if key == "value" else key.removesuffix("_")
        if clause in row.clauses and clause != key:
            rest[clause] = rest.pop(key)
    settings = [k for k in rest if k not in row.clauses]
    last = [k for k in settings if k == "loss"]  # reads what stands before it
    items: list[ast.Item] = [_setting(row, k, rest[k]) for k in settings if k not in last]
    items += [ast.Pair(NOWHERE, to_node(a), to_node(b)) for a, b in pairs]
    items += [declaration("def", term, {"value": value}) for term, value in defs.items()]
    if validate is not None:
        items.append(declaration("measure", None, {"on": validate[0], "metrics": list(validate[1])}))
    return [*items, *parts, *(_setting(row, k, rest[k]) for k in last)]


def _clause(name: str, value: Any) -> ast.Clause:
    several = list(value) if isinstance(value, list | tuple) and name not in ("=", "in") else [value]
    return ast.Clause(NOWHERE, name, NOWHERE, [to_node(v) for v in several])


def _setting(row: Kind, key: str, value: Any) -> ast.Setting:
    name = key if row.setting(key) is not None else key.removesuffix("_")
    spec = row.setting(name)
    literal = spec is None or spec.type in LITERAL
    return ast.Setting(NOWHERE, name, NOWHERE, to_node(value) if literal else choice(value))


def is_setting(kind: str, key: str) -> bool:
    """Whether a keyword names a setting of a kind.

    >>> is_setting("student", "except_"), is_setting("student", "width")
    (True, False)
    """
    return any(KINDS[kind].setting(k) is not None for k in (key, key.removesuffix("_")))


class _Parts:
    """Declarations for the bodies of others: ``part.head(loss=…)``, ``part.stage("early", pairs=[(a, b)])``."""

    def __getattr__(self, kind: str) -> Callable[..., Part]:
        if kind not in PARTS:
            near = nearest(kind, PARTS)
            raise AttributeError(f"no declaration has a `{kind}`" + (f"; did you mean `{near}`?" if near else ""))

        def declared(name: str | None = None, /, *parts: Part, **given: Any) -> Part:
            return declaration(kind, name, given, parts)

        return declared

    def __dir__(self) -> list[str]:
        return sorted(PARTS)


part = _Parts()


def several(make: Callable[[Term], Value], values: Value, name: str = "x") -> Term:
    """Return one item for each of some values: ``fn.sum(several(lambda b: fn.mean(b.fc), branch))``.

    `name` is what the text of the plan calls an item.

    >>> print(several(lambda n: n.logits, word("t")[:], "n"))
    [n.logits for n in t[*]]
    """
    loops = [ast.For(NOWHERE, name, NOWHERE, to_node(values))]
    return Term(ast.List(NOWHERE, [ast.Comprehension(NOWHERE, to_node(make(word(name))), loops)]))

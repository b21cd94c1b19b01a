"""The tables of the language reference, made from the specs that the compiler itself reads.

`python -m kdplan.view.reference grammar/README.md` writes them anew, between their markers; with `--check` it changes
nothing, and exits with 1 if it would.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kdplan.constructs.table import KINDS
from kdplan.data.catalog import SOURCES
from kdplan.data.transforms import TRANSFORMS
from kdplan.diagnostics.report import table as error_table
from kdplan.ir.functions import GRADIENT, LOSSES, MATH, PLAN_FUNCTIONS, SHAPING, SIGNALS
from kdplan.ir.kinds import NETWORKS
from kdplan.ir.optimizers import OPTIMIZERS, SCHEDULES
from kdplan.ir.spec import Kind, Param, SettingSpec, Spec
from kdplan.nn.catalog import METRICS, MODELS
from kdplan.resolve.choices import choices
from kdplan.view.examples import FRAME, SIGNAL_EXAMPLES, call, own_settings

TYPES = {
    "number": ("a number", "0.5"),
    "integer": ("a whole number", "10"),
    "integers": ("a list of whole numbers", "[5, 10]"),
    "boolean": ("`true` or `false`", "true"),
    "string": ("a string in double quotes", '"a.safetensors"'),
    "choice": ("one of the words that are named", "bf16"),
    "signal": ("an expression of signals", "cross_entropy(small.logits, labels)"),
    "optimizer": ("a row of the table of optimizers", "sgd(lr = 0.1)"),
    "schedule": ("a row of the table of schedules", "cosine()"),
    "transforms": ("a list of transforms", "[flip()]"),
    "normalize": ("two lists of numbers, one number a channel", "[[0.5], [0.25]]"),
    "split": ("a row of the table of splits", "per_class(train = 60)"),
    "protocol": ("a row of the table of splits", "templates(size = 3)"),
    "gate": ("a row of the table of gates, or a module of a Python file", "gate()"),
    "head": ("layers, with arrows between them", "fc(64) -> fc(32)"),
    "logit_scale": ("none, or a row of the table of splits", "self_paced(by = V)"),
}
"""Type of a setting -> what it means, an example."""

HUNDREDS = {
    "KD00": "the command line",
    "KD01": "form",
    "KD02": "names, settings, values",
    "KD03": "versions and order",
    "KD04": "axes and families",
    "KD05": "taps and shapes",
    "KD06": "what moves",
    "KD07": "data and streams",
    "KD08": "recipes and running",
    "KD09": "the store and pictures",
}


def literal(value: Any) -> str:
    """A value as a plan would say it.

    >>> literal((0.9, 0.999)), literal(True), literal(None)
    ('[0.9, 0.999]', 'true', 'none')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(literal(v) for v in value) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(rows(["a", "b"], [["1", "x | y"]]))
    | a | b |
    | --- | --- |
    | 1 | x \\| y |
    """
    lines = [list(head), ["---"] * len(head), *(list(r) for r in body)]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


# ---- kinds


def kinds() -> str:
    """Every kind with what may stand in it."""
    return "\n\n".join(_kind(k) for k in KINDS.values())


def _kind(kind: Kind) -> str:
    parts = [f"#### `{kind.name}`", kind.doc, f"```\n{kind.form}\n```", f"For example `{kind.example}`"]
    if kind.clauses:
        said = [f"`{c}`" + (" (needed)" if c in kind.required else "") for c in kind.clauses]
        parts.append(f"Clauses: {', '.join(said)}." + (" May be a family." if kind.slots else ""))
    if kind.inner:
        parts.append(f"In its body: {', '.join(code(i) for i in kind.inner)}.")
    own = own_settings(kind)
    if kind.name in NETWORKS - {"teacher"}:
        parts.append("Settings: those of `teacher`.")
    elif own:
        parts.append(rows(["setting", "type", "meaning", "default", "example"], [_setting(s) for s in own]))
    if len(own) < len(kind.settings):
        parts.append("And every setting of `recipe`, which then holds for this phase in place of the recipe's.")
    return "\n\n".join(parts)


def _setting(s: SettingSpec) -> list[str]:
    kind = " or ".join(code(c) for c in s.choices) if s.choices else s.type + _limits(s.low, s.high, s.above)
    return [code(s.name), kind, s.doc, s.default or "none", code(s.example)]


def _limits(low: float | None, high: float | None, above: float | None = None) -> str:
    """A range in words.

    >>> _limits(0, 1), _limits(None, None, 0)
    (', 0 to 1', ', above 0')
    """
    if above is not None:
        return f", above {above:g}" + (f", at most {high:g}" if high is not None else "")
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    return f", at least {low:g}" if low is not None else f", at most {high:g}" if high is not None else ""


def types() -> str:
    return rows(["type", "what it is", "example"], [[n, what, code(e)] for n, (what, e) in TYPES.items()])


# ---- functions


def functions() -> str:
    """Functions of signals, group by group, and functions of plans."""
    groups: list[tuple[str, Iterable[Spec]]] = [
        ("Losses", LOSSES),
        ("Shapes and adapters", SHAPING),
        ("Gradients", GRADIENT),
        ("Arithmetic", MATH),
        ("Of plans, not of signals", PLAN_FUNCTIONS.values()),
    ]
    parts = []
    for title, specs in groups:
        parts.append(f"#### {title}\n\n" + "\n\n".join(_function(s) for s in specs))
    return "\n\n".join(parts)


def _function(spec: Spec) -> str:
    lines = [f"**`{signature(spec)}`** → {spec.result or 'like its arguments'}. {spec.doc}"]
    if spec.formula:
        lines.append(f"  Formula: `{spec.formula}`.")
    told = [f"`{p.name}` {_words(p)}{p.doc}{_limits(p.low, p.high, p.above)}{_most(p)}" for p in spec.params if p.doc]
    if told:
        lines.append(f"  Takes {'; '.join(told)}.")
    if spec.source:
        lines.append(f"  From {spec.source}.")
    lines.append(f"  Example: `{spec.example}`")
    return "- " + "\n".join(lines)


def _most(p: Param) -> str:
    return ", at most the number of classes" if p.at_most_classes else ""


def _words(p: Param) -> str:
    """What may stand there, for a parameter that takes one of a few words."""
    return f"({' or '.join(code(c) for c in p.choices)}) " if p.choices else ""


def signature(spec: Spec) -> str:
    """How a function is called.

    >>> signature(GRADIENT[1])
    'reverse(x, weight = 1)'
    """
    shown = [p.name if p.required else f"{p.name} = {literal(p.default)}" for p in spec.params]
    return f"{spec.name}({', '.join([*shown, *(['…'] if spec.more else [])])})"


def signals() -> str:
    body = [[code(n), doc, code(SIGNAL_EXAMPLES.get(n, ""))] for n, doc in SIGNALS.items()]
    return rows(["signal", "what it is", "example"], body)


# ---- choices


def _of_settings(settings: Iterable[Param]) -> str:
    said = []
    for s in settings:
        default = "" if s.required else f" = {literal(s.default)}"
        said.append(f"`{s.name}{default}`" + (f": {s.doc}" if s.doc else ""))
    return "; ".join(said)


def optimizers() -> str:
    specs = choices()["optimizer"]
    body = [[code(n), _doc(s), _of_settings(s.params), code(call(specs[n]))] for n, s in OPTIMIZERS.items()]
    return rows(["name", "what it is", "settings", "example"], body)


def _doc(s: Spec) -> str:
    module, _, name = s.implementation.partition(":")
    return s.doc if name in s.doc else f"{s.doc} {module}.{name}."


def schedules() -> str:
    specs = choices()["schedule"]
    body = []
    for n, s in SCHEDULES.items():
        body.append([code(n), s.doc, _of_settings(s.params), "yes" if s.reads_length else "no", code(call(specs[n]))])
    return rows(["name", "what it does", "settings", "reads the length", "example"], body)


def models() -> str:
    specs = choices()["model"]
    body = []
    for n, s in MODELS.items():
        more = "; further settings go to the library" if s.more else ""
        body.append([code(n), s.doc, _typed(s.params) + more, code(call(specs[n]))])
    return rows(["name", "what it is", "settings", "example"], body)


def _typed(settings: Iterable[Param]) -> str:
    said = []
    for s in settings:
        default = "" if s.required else f" = {literal(s.default)}"
        said.append(f"`{s.name}{default}` ({_type(s)})" + (f": {s.doc}" if s.doc else ""))
    return "; ".join(said)


def _type(p: Param) -> str:
    return " | ".join(p.choices) if p.choices else p.type


def metrics() -> str:
    specs = choices()["metric"]
    body = []
    for n, m in METRICS.items():
        better = "larger" if m.larger_is_better else "smaller"
        body.append([code(n), m.doc, m.unit, better, _of_settings(m.params), code(call(specs[n]))])
    return rows(["name", "what it is", "unit", "better", "settings", "example"], body)


def sources() -> str:
    specs = choices()["source"]
    body = [[code(n), s.doc, s.layout, _arguments(s.params), code(call(specs[n]))] for n, s in SOURCES.items()]
    return rows(["name", "what it is", "files under the data folder", "arguments", "example"], body)


def transforms() -> str:
    specs = choices()["transform"]
    body = []
    for n, t in TRANSFORMS.items():
        body.append(
            [code(n), t.doc, t.measuring_doc if t.random else "the same", _arguments(t.params), code(call(specs[n]))]
        )
    return rows(["name", "what it does in training", "in measuring", "arguments", "example"], body)


def _arguments(params: Iterable[Any]) -> str:
    said = []
    for p in params:
        default = "" if p.required else f" = {literal(p.default)}"
        limits = _limits(p.low, p.high, getattr(p, "above", None))
        said.append(f"`{p.name}{default}`{limits}: {p.doc.rstrip('.')}".rstrip(": "))
    return "; ".join(said)


def partitions() -> str:
    """Splits of data sets, protocols made from labels, partitions of classes, and what heads are made of."""
    body = []
    for what, table in (("`split`", "split"), ("`protocol`", "protocol"), ("`verticals`", "partition"),
                        ("`head`", "head"), ("`logit_scale`", "logit_scale")):  # fmt: skip
        body += [[code(s.name), what, s.doc, _arguments(s.params), code(call(s))] for s in choices()[table].values()]
    return rows(["name", "where", "what it does", "arguments", "example"], body)


def gates() -> str:
    body = [[code(s.name), s.doc, s.source, code(call(s))] for s in choices()["gate"].values()]
    return rows(["name", "what it is", "from", "example"], body)


def errors() -> str:
    """Codes and titles, a list a hundred."""
    parts = []
    for hundred, what in HUNDREDS.items():
        found = sorted((c, r) for c, r in error_table().items() if c.startswith(hundred))
        said = [f"`{c}` {r['title']}" + (" (warning)" if r.get("severity") == "warning" else "") for c, r in found]
        parts.append(f"- **{hundred}xx, {what}**: {'; '.join(said)}.")
    return "\n".join(parts)


def frame() -> str:
    return "```\n" + "\n".join(FRAME.values()) + "\n```"


SECTIONS: dict[str, Callable[[], str]] = {
    "frame": frame,
    "kinds": kinds,
    "types": types,
    "functions": functions,
    "signals": signals,
    "optimizers": optimizers,
    "schedules": schedules,
    "models": models,
    "metrics": metrics,
    "sources": sources,
    "transforms": transforms,
    "partitions": partitions,
    "gates": gates,
    "errors": errors,
}
"""Name of a marker -> what stands between it and its end."""

_MARKED = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """A document with its tables made anew.

    Raises
    ------
    KeyError
        If a marker names no section.

    Examples
    --------
    >>> fill("<!-- made: signals -->\\nold\\n<!-- end -->").splitlines()[1]
    '| signal | what it is | example |'
    """
    return _MARKED.sub(lambda m: f"{m[1]}{SECTIONS[m[2]]()}\n{m[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes, or with `--check` compares, the documents named."""
    parser = argparse.ArgumentParser(prog="python -m kdplan.view.reference", description="Make the reference's tables.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file would change")
    given = parser.parse_args(arguments)
    stale = 0
    for path in given.files:
        text = path.read_text(encoding="utf-8")
        made = fill(text)
        if made != text:
            stale += 1
            if given.check:
                print(f"{path} is not what the specs give; run `python -m kdplan.view.reference {path}`")
            else:
                path.write_text(made, encoding="utf-8")
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())

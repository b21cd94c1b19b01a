"""The tables of the language reference, generated from the specs that the compiler itself reads.

`python -m kdplan.view.reference grammar/README.md` writes them between their markers. With `--check` it changes
nothing, and exits with 1 if it would.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdplan.constructs.table import KINDS
from kdplan.data.catalog import SOURCES
from kdplan.data.transforms import TRANSFORMS
from kdplan.diagnostics.report import table as error_table
from kdplan.ir.functions import GRADIENT, MATH, PLAN_FUNCTIONS, SHAPING, SIGNALS
from kdplan.ir.kinds import NETWORKS
from kdplan.ir.losses import LOSSES
from kdplan.ir.optimizers import OPTIMIZERS, SCHEDULES
from kdplan.ir.policies import POLICIES
from kdplan.ir.spec import Kind, Param, SettingSpec, Spec
from kdplan.nn.catalog import METRICS, MODELS
from kdplan.resolve.choices import choices
from kdplan.view.examples import FRAME, SIGNAL_EXAMPLES, call, own_settings

TYPES = {
    "number": ("a number", "0.5"),
    "integer": ("an integer", "10"),
    "integers": ("a list of integers", "[5, 10]"),
    "boolean": ("`true` or `false`", "true"),
    "string": ("characters in double quotes", '"a.safetensors"'),
    "pairs": ("a list of pairs of strings", '[["backbone.", ""]]'),
    "choice": ("one of the listed words", "bf16"),
    "signal": ("an expression of signals", "cross_entropy(small.logits, labels)"),
    "optimizer": ("a row of the table of optimizers", "sgd(lr = 0.1)"),
    "schedule": ("a row of the table of schedules", "cosine()"),
    "policy": ("a row of the table of policies", "skip"),
    "transforms": ("a list of transforms", "[flip()]"),
    "normalize": ("means and standard deviations, one number for each channel", "[[0.5], [0.25]]"),
    "split": ("a row of the table of splits", "per_class(train = 60)"),
    "protocol": ("a row of the table of splits", "templates(size = 3)"),
    "gate": ("a row of the table of gates, or a module from a Python file", "gate()"),
    "head": ("layers joined by arrows", "fc(64) -> fc(32)"),
    "logit_scale": ("none, or a row of the table of splits", "self_paced(by = V)"),
}
"""Type of a setting -> what it means, an example."""

_TYPE_NAMES = {"flag": "boolean", "text": "string"}
"""A type's name in the specs -> its name in the reference."""

HUNDREDS = {
    "KD00": "the command line",
    "KD01": "form",
    "KD02": "names, settings, values",
    "KD03": "versions and order",
    "KD04": "axes and families",
    "KD05": "taps and shapes",
    "KD06": "training",
    "KD07": "data and streams",
    "KD08": "recipes and running",
    "KD09": "the store and drawings",
    "KD10": "code that a plan runs",
    "KD11": "limits on evaluation",
}


def literal(value: Any) -> str:
    """A value as a plan writes it.

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
    """A code span; nothing for nothing.

    >>> code("top1"), code("")
    ('`top1`', '')
    """
    return f"`{text}`" if text else ""


# ---- kinds


def kinds() -> str:
    """Every kind with its form, clauses and settings."""
    return "\n\n".join(_kind(k) for k in KINDS.values())


def _kind(kind: Kind) -> str:
    parts = [f"#### `{kind.name}`", kind.doc, f"```\n{kind.form}\n```", f"For example `{kind.example}`"]
    if kind.clauses:
        clauses = [code(c) + (" (needed)" if c in kind.required else "") for c in kind.clauses]
        parts.append(f"Clauses: {', '.join(clauses)}." + (" May be a family." if kind.slots else ""))
    if kind.inner:
        parts.append(f"In its body: {', '.join(code(i) for i in kind.inner)}.")
    own = own_settings(kind)
    shown = [s for s in own if kind.name in ("phase", "teacher") or s != KINDS["phase"].setting("seed")]
    if kind.name in NETWORKS - {"teacher"}:
        parts.append("Settings: those of `teacher`.")
    elif shown:
        parts.append(rows(["setting", "type", "meaning", "default", "example"], [_setting(s) for s in shown]))
    if len(own) < len(kind.settings):
        seed = "" if shown == own else "`seed`, as in `phase`, and "
        parts.append(f"Further settings: {seed}every setting of `recipe`, in place of the recipe's own value.")
    return "\n\n".join(parts)


def _setting(s: SettingSpec) -> list[str]:
    limits = _limits(s.low, s.high, s.above)
    words = [code(c) for c in s.choices]
    if s.type == "integer or choice":
        words.append(f"integer{limits}")
    kind = " or ".join(words) if words else f"{_TYPE_NAMES.get(s.type, s.type)}{limits}"
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
    """The types of settings."""
    return rows(["type", "what it is", "example"], [[n, what, code(e)] for n, (what, e) in TYPES.items()])


# ---- functions


def functions() -> str:
    """A table for each group of functions of signals, and one for functions of plans."""
    groups: list[tuple[str, Iterable[Spec]]] = [
        ("Losses", LOSSES),
        ("Shapes and adapters", SHAPING),
        ("Gradients", GRADIENT),
        ("Arithmetic", MATH),
        ("Of plans, not of signals", PLAN_FUNCTIONS.values()),
    ]
    head = ["function", "result", "meaning", "parameters", "source", "example"]
    return "\n\n".join(f"#### {title}\n\n{rows(head, [_function(s) for s in specs])}" for title, specs in groups)


def _function(spec: Spec) -> list[str]:
    meaning = f"{spec.doc} {code(spec.formula)}".rstrip()
    parameters = "; ".join(_parameter(p) for p in spec.params if p.doc)
    result = spec.result or "like its arguments"
    return [code(signature(spec)), result, meaning, parameters, spec.source, code(spec.example)]


def _parameter(p: Param) -> str:
    """A parameter of a function, with its choices and limits."""
    words = f"({' or '.join(code(c) for c in p.choices)}) " if p.choices else ""
    most = ", at most the number of classes" if p.at_most_classes else ""
    return f"{code(p.name)} {words}{p.doc}{_limits(p.low, p.high, p.above)}{most}"


def signature(spec: Spec) -> str:
    """How a function is called.

    >>> signature(GRADIENT[1])
    'reverse(x, weight = 1)'
    """
    shown = [p.name if p.required else f"{p.name} = {literal(p.default)}" for p in spec.params]
    return f"{spec.name}({', '.join([*shown, *(['…'] if spec.more else [])])})"


def signals() -> str:
    """What a loss can read besides taps."""
    body = [[code(n), doc, code(SIGNAL_EXAMPLES.get(n, ""))] for n, doc in SIGNALS.items()]
    return rows(["signal", "what it is", "example"], body)


# ---- choices


def _of_settings(settings: Iterable[Param], typed: bool = False) -> str:
    texts = []
    for s in settings:
        default = "" if s.required else f" = {literal(s.default)}"
        kind = f" ({' | '.join(s.choices) or _TYPE_NAMES.get(s.type, s.type)})" if typed else ""
        texts.append(f"`{s.name}{default}`{kind}" + (f": {s.doc}" if s.doc else ""))
    return "; ".join(texts)


def optimizers() -> str:
    """Optimizers with the settings that change what they compute."""
    specs = choices()["optimizer"]
    body = [[code(n), _doc(s), _of_settings(s.params), code(call(specs[n]))] for n, s in OPTIMIZERS.items()]
    return rows(["name", "what it is", "settings", "example"], body)


def _doc(s: Spec) -> str:
    module, _, name = s.implementation.partition(":")
    return s.doc if name in s.doc else f"{s.doc} {module}.{name}."


def schedules() -> str:
    """Schedules, and whether they read the phase's length."""
    specs = choices()["schedule"]
    body = []
    for n, s in SCHEDULES.items():
        body.append([code(n), s.doc, _of_settings(s.params), "yes" if s.reads_length else "no", code(call(specs[n]))])
    return rows(["name", "what it does", "settings", "reads the length", "example"], body)


def policies() -> str:
    """What a recipe does about values that are not finite."""
    specs = choices()["policy"]
    body = [[code(n), s.doc, _of_settings(s.params), code(call(specs[n]))] for n, s in POLICIES.items()]
    return rows(["name", "what it does", "settings", "example"], body)


def models() -> str:
    """Architectures, with the types of their settings."""
    specs = choices()["model"]
    body = []
    for n, s in MODELS.items():
        more = "; further settings go to the library" if s.more else ""
        body.append([code(n), s.doc, _of_settings(s.params, typed=True) + more, code(call(specs[n]))])
    return rows(["name", "what it is", "settings", "example"], body)


def metrics() -> str:
    """Metrics with their units."""
    specs = choices()["metric"]
    body = []
    for n, m in METRICS.items():
        better = "larger" if m.larger_is_better else "smaller"
        body.append([code(n), m.doc, m.unit, better, _of_settings(m.params), code(call(specs[n]))])
    return rows(["name", "what it is", "unit", "better", "settings", "example"], body)


def sources() -> str:
    """Sources of data, with the layout of their files."""
    specs = choices()["source"]
    body = [[code(n), s.doc, s.layout, _arguments(s.params), code(call(specs[n]))] for n, s in SOURCES.items()]
    return rows(["name", "what it is", "files under the data folder", "arguments", "example"], body)


def transforms() -> str:
    """Transforms in training and in measuring."""
    specs = choices()["transform"]
    body = []
    for n, t in TRANSFORMS.items():
        body.append(
            [code(n), t.doc, t.measuring_doc if t.random else "the same", _arguments(t.params), code(call(specs[n]))]
        )
    return rows(["name", "what it does in training", "in measuring", "arguments", "example"], body)


def _arguments(params: Iterable[Any]) -> str:
    texts = []
    for p in params:
        default = "" if p.required else f" = {literal(p.default)}"
        limits = _limits(p.low, p.high, getattr(p, "above", None))
        texts.append(f"`{p.name}{default}`{limits}: {p.doc.rstrip('.')}".rstrip(": "))
    return "; ".join(texts)


def partitions() -> str:
    """Splits of data sets, protocols from labels, partitions of classes, layers of heads."""
    body = []
    for what, table in (("`split`", "split"), ("`protocol`", "protocol"), ("`verticals`", "partition"),
                        ("`head`", "head"), ("`logit_scale`", "logit_scale")):  # fmt: skip
        body += [[code(s.name), what, s.doc, _arguments(s.params), code(call(s))] for s in choices()[table].values()]
    return rows(["name", "where", "what it does", "arguments", "example"], body)


def gates() -> str:
    """Gates of branches."""
    body = [[code(s.name), s.doc, s.source, code(call(s))] for s in choices()["gate"].values()]
    return rows(["name", "what it is", "from", "example"], body)


def errors() -> str:
    """A list of codes and titles for each hundred."""
    parts = []
    for hundred, title in HUNDREDS.items():
        entries = sorted((c, r) for c, r in error_table().items() if c.startswith(hundred))
        lines = [f"- {code(c)} {r['title']}{_severity(r)}" for c, r in entries]
        parts.append(f"#### {hundred}xx: {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _severity(row: Mapping[str, Any]) -> str:
    return " (warning)" if row.get("severity") == "warning" else ""


def frame() -> str:
    """The declarations that the examples continue."""
    return "```\n" + "\n".join(FRAME.values()) + "\n```"


SECTIONS: dict[str, Callable[[], str]] = {
    "frame": frame,
    "kinds": kinds,
    "types": types,
    "functions": functions,
    "signals": signals,
    "optimizers": optimizers,
    "schedules": schedules,
    "policies": policies,
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
    """A document with its tables generated from the specs.

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
    """Write, or with `--check` compare, the named documents."""
    parser = argparse.ArgumentParser(
        prog="python -m kdplan.view.reference", description="Generate the reference's tables."
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file would change")
    given = parser.parse_args(arguments)
    stale = 0
    for path in given.files:
        text = path.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            stale += 1
            if given.check:
                print(f"{path} is not what the specs give; run `python -m kdplan.view.reference {path}`")
            else:
                path.write_text(filled, encoding="utf-8")
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())

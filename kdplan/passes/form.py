"""Checks each declaration's form against the table of kinds, before anything is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdplan.constructs.table import KINDS, NAMED_AS_NETWORKS
from kdplan.diagnostics.report import Note, Reporter, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir.functions import RESERVED
from kdplan.ir.spec import Kind
from kdplan.passes.load import Module
from kdplan.syntax import ast
from kdplan.syntax.build import NAMES_FIRST, PACKAGE, SHORT
from kdplan.syntax.walk import walk

SPOILS = frozenset(
    f"KD{n:04}" for n in (102, 127, 201, 204, 216, 217, 218, 220, 221, 222, 223, 229, 258, 851)
)  # fmt: skip
"""Mistakes after which nothing can be made of a declaration."""


NEEDED = {"loss": "KD0223", "optimizer": "KD0851", "epochs": "KD0851", "steps": "KD0851"}
"""Settings whose lack is a mistake, which is not reported where they are misspelt."""


@dataclass
class _Findings(Reporter):
    """The diagnostics of one declaration, and the codes of the checks that failed."""

    codes: set[str] = field(default_factory=set)

    def report(self, code: str, span: Span | None, /, **values: Any) -> None:
        """Add a diagnostic and note its code."""
        self.codes.add(code)
        super().report(code, span, **values)


def check_form(module: Module, reporter: Reporter) -> None:
    """Report unknown kinds, clauses and settings, missing ones, and items in the wrong body.

    Declarations of which nothing can be made are written down in `module.broken`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from kdplan.diagnostics.span import Source
    >>> from kdplan.passes.load import load
    >>> reporter = Reporter()
    >>> check_form(load(Source("a.kd", "pahse x of y on z with r { loss = 1 }"), Path("."), reporter), reporter)
    >>> [(d.code, d.help) for d in reporter.diagnostics]
    [('KD0201', 'Did you mean `phase`?')]
    """
    for one in module.every():
        _file(one, reporter)


def _file(module: Module, reporter: Reporter) -> None:
    torn = _without_braces(module.tree.items)
    for node, findings in _declarations(module.tree.items, None):
        if id(node) in torn:
            findings = _Findings()
            findings.report("KD0127", node.head_span, help=torn[id(node)])
        if findings.codes & SPOILS:
            module.broken.add(id(node))
        if node.kind not in KINDS:
            module.lost.update({node.kind, node.name or node.kind})
        module.blind = module.blind or ("KD0216" in findings.codes and node.kind != "use")
        module.lost.update(d.span.text for d in findings.diagnostics if d.code == "KD0203" and d.span)
        reporter.add(findings.diagnostics)
    for item in module.tree.items:
        if isinstance(item, ast.Declaration) or id(item) in torn:
            continue
        if isinstance(item, ast.Setting) and item.name in KINDS:
            module.blind = True
            reporter.report("KD0216", item.name_span, kind=item.name, form=KINDS[item.name].form)
        elif isinstance(item, ast.Setting):
            module.lost.add(item.name)
            reporter.report("KD0203", item.name_span, name=item.name, kind="a file", value=item.value.span.text)
        else:
            reporter.report("KD0214", item.span, kind="a file", first=item.left.span.text, second=item.right.span.text)


def _without_braces(items: list[ast.Item]) -> dict[int, str | None]:
    """Declarations without a body whose settings follow, on the same line or further to the right, and these.

    Each with what to write, where that is not the help of KD0127.
    """
    torn: dict[int, str | None] = {}
    before: ast.Declaration | None = None
    for item in items:
        if isinstance(item, ast.Declaration):
            kind = KINDS.get(item.kind)
            before = item if kind is not None and (kind.settings or kind.free) else None
        elif before is not None and before.items is None and before.listing is None and _right_of(item, before):
            first = item.name if isinstance(item, ast.Setting) else item.span.text
            inline = f"Write `{{` before `{first}`, and `}}` after the last item."
            torn.setdefault(id(before), inline if item.span.line == before.span.end_position[0] else None)
            torn[id(item)] = None
    return torn


def _right_of(item: ast.Setting | ast.Pair, before: ast.Declaration) -> bool:
    """Whether an item stands behind a declaration, and further to the right than this begins."""
    return item.span.column > before.span.column and item.span.line >= before.span.end_position[0]


def _declarations(items: list[ast.Item], outer: Kind | None) -> list[tuple[ast.Declaration, _Findings]]:
    """The declarations of a file or a body, each with what is said of it.

    Where a preposition is missing or misspelt, what follows looks like a declaration of its own, and what stands before
    it lacks what was torn off: only the first is reported.
    """
    checked: list[tuple[ast.Declaration, _Findings]] = []
    for item in items:
        if not isinstance(item, ast.Declaration):
            continue
        findings = _Findings()
        before = checked[-1] if checked and _torn_off(item, checked[-1][0]) else None
        if before is None:
            _declaration(item, outer, findings)
        else:
            before[1].codes.add("KD0204")
            lacks = [d for d in before[1].diagnostics if d.code in ("KD0221", "KD0223")]
            before[1].diagnostics = [d for d in before[1].diagnostics if d not in lacks]
            if "KD0201" not in before[1].codes:  # else its line has been reported
                _torn(item, before[0], findings)
        checked.append((item, findings))
    return checked


def _torn_off(node: ast.Declaration, before: ast.Declaration) -> bool:
    same_line = node.kind_span.line == before.span.end_position[0]
    return node.kind not in KINDS and same_line and before.items is None and before.listing is None


def _torn(node: ast.Declaration, before: ast.Declaration, reporter: _Findings) -> None:
    kind = KINDS.get(before.kind)
    near = nearest(node.kind, [w for w in kind.clauses if w.isalpha()]) if kind else None
    if near:
        reporter.report("KD0229", node.kind_span, name=node.kind, nearest=near)
    else:
        reporter.report("KD0204", node.kind_span, name=node.kind)


def _declaration(node: ast.Declaration, outer: Kind | None, reporter: _Findings) -> None:
    kind = KINDS.get(node.kind)
    allowed = outer.inner if outer else tuple(k for k, spec in KINDS.items() if not spec.nested)
    if kind is None or node.kind not in allowed:
        if kind is None and node.name is None:
            reporter.report("KD0204", node.kind_span, name=node.kind)
        elif kind is None and outer is not None and outer.name in SHORT:
            second = f"{node.name} = …" if node.clause("=") else node.name
            comma = f"Write `{node.kind}, {second}`: a comma follows a name alone."
            reporter.report("KD0201", node.kind_span, name=node.kind, help=comma)
        elif kind is None:
            reporter.report("KD0201", node.kind_span, name=node.kind, nearest=nearest(node.kind, allowed))
        else:
            homes = [k for k, spec in KINDS.items() if node.kind in spec.inner]
            outer_name = f"`{outer.name}`" if outer else "a file"
            hint = (
                f"Choose from {listing(allowed)}."
                if outer and allowed
                else f"Write it in the body of {listing(homes)}."
            )
            help = None if outer and not allowed else hint
            reporter.report("KD0215", node.kind_span, kind=node.kind, outer=outer_name, help=help)
            if outer is None:  # a part of a construct means nothing by itself
                reporter.codes.add("KD0201")
        return
    if node.text is not None and node.name is not None and (node.kind, node.name) != PACKAGE:
        near = nearest(node.name, [PACKAGE[1]]) if node.kind == PACKAGE[0] else None
        help = f'Write `use {near} "{node.text}"`.' if near else None
        source, start = node.head_span.source, node.head_span.source.text.index('"', node.kind_span.end)
        reporter.report("KD0105", Span(source, start, start + len(node.text) + 2), help=help)
        reporter.codes.add("KD0201")
        return
    _head(node, kind, outer, reporter)
    _local_names(node, outer, reporter)
    if kind.name in NAMED_AS_NETWORKS:
        _unread_slots(node, reporter)
    _body(node, kind, outer, reporter)


def _head(node: ast.Declaration, kind: Kind, outer: Kind | None, reporter: _Findings) -> None:
    if kind.named and node.name is None and not (kind.name == "measure" and outer):
        reporter.report("KD0216", node.kind_span, kind=kind.name, form=kind.form)
    if kind.name == "use" and node.text is None:
        reporter.report("KD0216", node.kind_span, kind=kind.name, form=kind.form)
    if node.slots and not kind.slots:
        reporter.report("KD0217", node.slots[0].name_span, kind=kind.name)
    if node.params is not None and kind.name != "def" and (node.head_span.column == 1 or not _no_equals(node)):
        help = None if kind.name in ("param", "model") else f"Write `{kind.form}`."
        reporter.report("KD0218", node.head_span, kind=kind.name, name=node.name, help=help)
    seen: set[str] = set()
    for clause in node.clauses:
        if clause.word not in kind.clauses and clause.word_span.column == 1:  # `from torch import nn`
            reporter.report("KD0201", clause.word_span, name=clause.word, nearest=nearest(clause.word, KINDS))
        elif clause.word not in kind.clauses or (outer and kind.name == "measure" and clause.word in ("by", "over")):
            help = None
            if "=" in kind.required and kind.name in NAMED_AS_NETWORKS and clause.word in ("from", "of"):
                if node.clause("=") is None:
                    reporter.codes.add("KD0221")
                seen.add("=")
                start = f"{kind.name} {node.name or 'NAME'} = {clause.exprs[0].span.text}"
                help = f"Write `{start}`, which copies both its architecture and its weights."
            reporter.report("KD0219", clause.word_span, kind=kind.name, word=clause.word, form=kind.form, help=help)
        elif clause.word in seen:
            help = "Add the missing value after the first `=`." if clause.word == "=" else None
            reporter.report("KD0220", clause.word_span, word=clause.word, help=help)
        seen.add(clause.word)
    required = set(kind.required)
    if kind.name == "phase" and not outer:
        required.add("of")
    if kind.name == "measure":
        required = {"on"} if outer else {"of", "on"}
    if kind.name == "param":
        required = {"=" if "in" not in seen else "in"}
    for word in sorted(required - seen):
        reporter.report("KD0221", node.head_span, kind=kind.name, name=node.name or "", word=word, form=kind.form)


def _local_names(node: ast.Declaration, outer: Kind | None, reporter: _Findings) -> None:
    """KD0206 for built-ins' names inside a declaration; whole declarations are looked at when files are read."""
    if outer and node.kind == "def" and node.name in RESERVED:
        reporter.report("KD0206", node.name_span or node.span, name=node.name, kind="def")
    for slot in node.slots:
        if slot.name in RESERVED:
            reporter.report("KD0206", slot.name_span, name=slot.name, kind="index")
    for param in node.params or []:
        if param.name in RESERVED:
            reporter.report("KD0206", param.span, name=param.name, kind="parameter")


def _unread_slots(node: ast.Declaration, reporter: _Findings) -> None:
    """KD0306 for a family of networks whose members cannot differ: nothing in it names the slot."""
    names = {n.name for n in walk(node) if isinstance(n, ast.Name)}
    for slot in node.slots:
        if slot.name not in names:
            reporter.report("KD0306", slot.name_span, name=node.name, slot=slot.name)


def _body(node: ast.Declaration, kind: Kind, outer: Kind | None, reporter: _Findings) -> None:
    if node.listing is not None and not kind.listing:
        wrong = next((e for e in node.listing if not isinstance(e, ast.Name)), node.listing[0])
        names = NAMES_FIRST if kind.name in SHORT else None
        span = wrong.span if kind.name in SHORT else node.listing[0].span
        reporter.report("KD0222", span, kind=kind.name, form=kind.form, help=names)
        return
    seen: dict[str, ast.Setting] = {}
    has_one = False
    for item in node.items or []:
        if isinstance(item, ast.Declaration):
            if _no_equals(item):
                reporter.codes.add("KD0102")
            has_one = has_one or (item.kind == "loss" and _no_equals(item))
        elif isinstance(item, ast.Pair) and kind.pairs:
            continue
        elif isinstance(item, ast.Pair):
            has_one = True
            first, second = item.left.span.text, item.right.span.text
            reporter.report("KD0214", item.span, kind=f"`{kind.name}`", first=first, second=second)
        elif kind.listing and (outer is not None or _no_setting(kind, item)):
            reporter.report("KD0258", item.span, kind=kind.name)
        else:
            _setting(item, kind, seen, reporter)
    for inner, findings in _declarations(node.items or [], kind):
        if not _no_equals(inner):
            reporter.codes |= findings.codes
            reporter.add(findings.diagnostics)
            has_one = has_one or "KD0220" in findings.codes  # it may have swallowed the loss
    _twice(node, reporter)
    if kind.setting("loss") and "loss" not in seen and not has_one:
        reporter.report("KD0223", node.head_span, name=node.name or kind.default_name or "")


def _no_equals(node: ast.Declaration) -> bool:
    """`loss mean(x)`: a setting without its `=`, of which the parser has spoken."""
    return node.params is not None and not node.clauses and node.items is None and node.listing is None


def _no_setting(kind: Kind, item: ast.Item) -> bool:
    """Whether an item between metrics is none of the kind's settings; a claim has several to choose from."""
    return not isinstance(item, ast.Setting) or (kind.setting(item.name) is None and len(kind.settings) < 2)


def _twice(node: ast.Declaration, reporter: _Findings) -> None:
    """KD0207 for two declarations of one name in a body."""
    first: dict[str, ast.Declaration] = {}
    for item in node.items or []:
        if not isinstance(item, ast.Declaration):
            continue
        spec = KINDS.get(item.kind)
        word = item.name or (spec.default_name if spec else None)
        if word is None:
            continue
        known = first.setdefault(word, item)
        if known is not item:
            earlier = known.name_span or known.head_span
            reporter.report(
                "KD0207",
                item.name_span or item.head_span,
                name=word,
                first=f"{earlier.file} line {earlier.line}",
                notes=[Note("declared here first", earlier)],
            )


def _setting(item: ast.Setting, kind: Kind, seen: dict[str, ast.Setting], reporter: _Findings) -> None:
    if item.name in seen:
        reporter.report("KD0224", item.name_span, name=item.name, line=seen[item.name].name_span.line)
    seen[item.name] = item
    if kind.free or kind.setting(item.name):
        return
    known = [s.name for s in kind.settings]
    near = nearest(item.name, known)
    advice = kind.help.get(item.name)
    if advice:
        reporter.report("KD0202", item.name_span, kind=kind.name, name=item.name, help=advice)
    elif near:
        if near in NEEDED:  # that it is missing is no second mistake
            seen.setdefault(near, item)
            reporter.codes.add(NEEDED[near])
        reporter.report("KD0202", item.name_span, kind=kind.name, name=item.name, help=f"Did you mean `{near}`?")
    elif "def" in kind.inner:
        reporter.report("KD0203", item.name_span, name=item.name, kind=f"`{kind.name}`", value=item.value.span.text)
    else:
        text = f"Choose from {listing(known)}." if known else None
        reporter.report("KD0202", item.name_span, kind=kind.name, name=item.name, help=text)

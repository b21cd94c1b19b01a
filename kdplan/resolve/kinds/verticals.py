"""`verticals`: partitions of a data set's classes, from sets, files, hierarchies, superclasses or at random."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from kdplan.constructs.table import KINDS
from kdplan.data.rules import PARTITIONS
from kdplan.diagnostics.report import error, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.diagnostics.text import read_text
from kdplan.ir import expr as ir
from kdplan.ir.plan import ClassSet, Data, Item
from kdplan.passes.load import Declared, Module
from kdplan.resolve import setting_values
from kdplan.resolve.arguments import check_required
from kdplan.resolve.arithmetic import integer
from kdplan.resolve.class_trees import absent, hierarchy_of, list_of_classes
from kdplan.resolve.context import Context, remember
from kdplan.resolve.values import Choice, ClassesValue, DataValue, ListValue, Value, VerticalsValue, describe
from kdplan.syntax import ast


def verticals_value(thing: Declared, span: Span, ctx: Context) -> VerticalsValue:
    """The partition of classes that a `verticals` declares."""
    value = remember(
        ctx.in_module(thing.module), (thing, thing.name), "verticals", span, lambda c: _verticals(thing, c)
    )
    return VerticalsValue(value.data, value.parts, value.disjoint, span)


def _verticals(thing: Declared, ctx: Context) -> VerticalsValue:
    node = thing.node
    of = node.clause("of")
    assert of is not None
    base = ctx.eval(of.exprs[0], "any")
    if not isinstance(base, DataValue) or not base.data.classes:
        raise error("KD0249", of.exprs[0].span, wants="a data set with classes", found=describe(base))
    data = base.data
    expression, source = node.clause("="), node.clause("from")
    disjoint = True
    parts: list[ClassSet] = []
    for item in node.items or []:
        if not isinstance(item, ast.Setting):
            continue
        if item.name == "disjoint":
            spec = KINDS["verticals"].setting("disjoint")
            assert spec is not None
            disjoint = setting_values.read(spec, item.value, ctx)
        else:
            ids = class_numbers(ctx.eval(item.value, "any"), data, item.value.span)
            parts.append(ClassSet(data.name, ids, item.name))
    if expression is not None:
        value = ctx.child(exclude=thing.name).eval(expression.exprs[0], "partition")
        parts += _given(value, data, expression.exprs[0].span, thing.module, ctx.session.root)
    elif source is not None:
        parts += _from_file(source.exprs[0], data, thing, ctx)
    check_partition(parts, data, disjoint, node.head_span)
    return VerticalsValue(data, parts, disjoint, node.span)


def _given(value: Value, data: Data, span: Span, module: Module, root: Path | None) -> list[ClassSet]:
    if isinstance(value, VerticalsValue):
        return value.parts
    if isinstance(value, Choice):
        check_required(PARTITIONS[value.item.name], value.item.arguments, span)
        if value.item.name == "random":
            return _random(value.item, data, span)
        return _hierarchy(value.item, data, span, module, root)
    wants = "verticals: superclasses, random(…), hierarchy(…), or sets in a body"
    raise error("KD0249", span, wants=wants, found=describe(value))


def _random(item: Item, data: Data, span: Span) -> list[ClassSet]:
    count = item.arguments["parts"]
    ids = list(range(len(data.classes)))
    if count > len(ids):
        raise error("KD0243", span, what="`parts` of `random`", limit=f"at most {len(ids)}", value=count)
    random.Random(f"kdplan random partition {item.arguments.get('seed', 0)}").shuffle(ids)
    return [ClassSet(data.name, sorted(ids[i::count]), f"part{i}") for i in range(count)]


def _hierarchy(item: Item, data: Data, span: Span, module: Module, root: Path | None) -> list[ClassSet]:
    """One vertical a name at a level, with the classes that are it or below it, in the data set's order."""
    tree = hierarchy_of(item.arguments["file"], module, root, span)
    absent(item.arguments["file"], (c for c in data.classes if c not in tree), data, span)
    level = item.arguments.get("level", 1)
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(data.classes):
        for above in tree.at(name, level):
            groups.setdefault(above, []).append(i)
    return [ClassSet(data.name, ids, label) for label, ids in groups.items()]


def class_numbers(value: Value, data: Data, span: Span) -> list[int]:
    """Class numbers of a list of numbers, of names, or of a class set.

    Raises
    ------
    PlanError
        KD0260 for a class that the data lacks.
    """
    if isinstance(value, ClassesValue):
        return list(value.classes.ids)
    items = value.items if isinstance(value, ListValue) else [value]
    ids = []
    for item in items:
        if isinstance(item, ir.Const) and isinstance(item.value, str):
            ids.append(_class(item.value, data, item.span or span))
        else:
            number = integer(item, item.span or span)
            if not 0 <= number < len(data.classes):
                help = f"Count classes from 0 to {len(data.classes) - 1}."
                raise error(
                    "KD0260", item.span or span, name=str(number), data=data.name, count=len(data.classes), help=help
                )
            ids.append(number)
    return ids


def _class(name: str, data: Data, span: Span) -> int:
    if name not in data.classes:
        near = nearest(name, data.classes)
        help = f'Did you mean "{near}"?' if near else f"Choose from {listing(data.classes)}."
        raise error("KD0260", span, name=name, data=data.name, count=len(data.classes), help=help)
    return data.classes.index(name)


def _from_file(node: ast.Expr, data: Data, thing: Declared, ctx: Context) -> list[ClassSet]:
    """Rows `class,vertical` of a CSV file, or a JSON object vertical -> classes."""
    name = ctx.eval(node, "any")
    if not (isinstance(name, ir.Const) and isinstance(name.value, str)):
        raise error("KD0249", node.span, wants="a file name", found=describe(name))
    path = list_of_classes(name.value, thing.module, ctx.session.root, node.span)
    text = read_text(path)
    groups: dict[str, list[str]] = {}
    if path.suffix == ".json":
        try:
            groups = {str(k): [str(c) for c in v] for k, v in json.loads(text).items()}
        except (ValueError, AttributeError, TypeError):
            raise error("KD0261", node.span, file=name.value) from None
    else:
        for row in csv.reader(text.splitlines()):
            if not row:
                continue
            if len(row) != 2:
                raise error("KD0261", node.span, file=name.value)
            groups.setdefault(row[1].strip(), []).append(row[0].strip())
    numbers = {c: i for i, c in enumerate(data.classes)}
    unknown = [c for members in groups.values() for c in members if c not in numbers]
    if unknown:
        raise error("KD0282", node.span, file=name.value, data=data.name, classes=listing(dict.fromkeys(unknown)))
    return [ClassSet(data.name, [numbers[c] for c in members], v) for v, members in groups.items()]


def check_partition(parts: list[ClassSet], data: Data, disjoint: bool, span: Span) -> None:
    """KD0262 for classes in several parts, KD0263 for classes in none, KD0264 for an empty part."""
    for part in parts:
        if not part.ids:
            raise error("KD0264", span, part=part.label)
    if not disjoint:
        return
    seen: dict[int, str | None] = {}
    twice = sorted({i for p in parts for i in p.ids if i in seen or seen.setdefault(i, p.label) != p.label})
    if twice:
        raise error("KD0262", span, classes=listing(data.classes[i] for i in twice))
    missing = [c for i, c in enumerate(data.classes) if i not in seen]
    if missing:
        rest = [str(i) for i in range(len(data.classes)) if i not in seen]
        listed = f"[{', '.join(rest)}]" if len(rest) <= 24 else None
        raise error("KD0263", span, classes=listing(missing), rest=listed)

"""`data` and `verticals`: data sets, and partitions of their classes."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

from kdplan.diagnostics.report import Gather, counted, error, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.kinds import KINDS
from kdplan.ir.plan import ClassSet, Data, View
from kdplan.passes import settings
from kdplan.passes.arithmetic import integer
from kdplan.passes.load import Declared
from kdplan.passes.session import Context, remember
from kdplan.passes.values import Choice, ClassesValue, DataValue, ListValue, Value, VerticalsValue, describe
from kdplan.syntax import ast


def data_value(thing: Declared, span: Span, ctx: Context) -> DataValue:
    """A data set as declared: no split chosen, all classes, with labels."""
    data = remember(ctx.in_module(thing.module), (thing, thing.name), "data", span, lambda inner: _data(thing, inner))
    return DataValue(data, None, None, False, span)


def _data(thing: Declared, ctx: Context) -> Data:
    node = thing.node
    clause = node.clause("=")
    assert clause is not None
    source = ctx.child(exclude=thing.name).eval(clause.exprs[0], "source")
    if isinstance(source, DataValue):
        base = source.data
        data = replace(base, name=thing.name, augment=list(base.augment), shape=None)
    elif isinstance(source, Choice):
        data = Data(thing.name, source.item)
    else:
        raise error("KD0249", clause.exprs[0].span, wants="a data set", found=describe(source))
    data.span = node.head_span
    gather = Gather()
    places: dict[str, Span] = {}
    for item in node.items or []:
        if isinstance(item, ast.Setting):
            spec = KINDS["data"].setting(item.name)
            if spec is not None:
                places[item.name] = item.value.span
                with gather:
                    setattr(data, item.name, settings.read(spec, item.value, ctx))
    gather.raise_if_failed()
    name = unique_name(thing, thing.name, ctx)
    data.name = name
    ctx.session.describe(data, thing.module.folder, clause.exprs[0].span)
    if "normalize" in places and data.normalize and data.shape and len(data.shape) == 3:
        channels, found = data.shape[0], len(data.normalize[0])
        if channels != found:
            raise error("KD0259", places["normalize"], found=counted(found, "channel"), channels=channels, name=name)
    ctx.session.plan.data[name] = data
    return data


def unique_name(thing: Declared, name: str, ctx: Context) -> str:
    """`name`, or with its file's name before it where another file's declaration has that name already."""
    names = ctx.session.names
    if names.setdefault(name, thing) is thing:
        return name
    stem = Path(thing.module.source.path).stem
    longer = f"{stem}.{name}"
    count = 2
    while names.setdefault(longer, thing) is not thing:
        longer = f"{stem}{count}.{name}"
        count += 1
    return longer


def view_of(value: DataValue) -> View:
    """The view that data means; all its classes in their order are no choice of classes."""
    chosen = value.classes
    if chosen is not None and chosen.ids == list(range(len(value.data.classes))):
        chosen = None
    return View(value.data.name, value.split or "train", chosen, value.unlabelled, span=value.span)


# ---- verticals


def verticals_value(thing: Declared, span: Span, ctx: Context) -> VerticalsValue:
    found = remember(
        ctx.in_module(thing.module), (thing, thing.name), "verticals", span, lambda c: _verticals(thing, c)
    )
    return VerticalsValue(found.data, found.parts, found.disjoint, span)


def _verticals(thing: Declared, ctx: Context) -> VerticalsValue:
    node = thing.node
    of = node.clause("of")
    assert of is not None
    base = ctx.eval(of.exprs[0], "any")
    if not isinstance(base, DataValue) or not base.data.classes:
        raise error("KD0249", of.exprs[0].span, wants="a data set with classes", found=describe(base))
    data = base.data
    made, source = node.clause("="), node.clause("from")
    disjoint = True
    if made is not None:
        parts = _given(ctx.child(exclude=thing.name).eval(made.exprs[0], "partition"), data, made.exprs[0].span)
    elif source is not None:
        parts = _from_file(source.exprs[0], data, thing, ctx)
    else:
        parts = []
        for item in node.items or []:
            if not isinstance(item, ast.Setting):
                continue
            if item.name == "disjoint":
                spec = KINDS["verticals"].setting("disjoint")
                assert spec is not None
                disjoint = settings.read(spec, item.value, ctx)
            else:
                parts.append(ClassSet(data.name, _ids(ctx.eval(item.value, "any"), data, item.value.span), item.name))
    check_partition(parts, data, disjoint, node.head_span)
    return VerticalsValue(data, parts, disjoint, node.span)


def _given(value: Value, data: Data, span: Span) -> list[ClassSet]:
    if isinstance(value, VerticalsValue):
        return value.parts
    if isinstance(value, Choice) and value.item.name == "random":
        count = value.item.arguments["parts"]
        ids = list(range(len(data.classes)))
        if count > len(ids):
            raise error("KD0243", span, what="`parts` of `random`", limit=f"at most {len(ids)}", value=count)
        random.Random(f"kdplan random partition {value.item.arguments.get('seed', 0)}").shuffle(ids)
        return [ClassSet(data.name, sorted(ids[i::count]), f"part{i}") for i in range(count)]
    raise error("KD0249", span, wants="verticals: superclasses, random(…), or sets in a body", found=describe(value))


def _ids(value: Value, data: Data, span: Span) -> list[int]:
    """Class numbers of a list of numbers, of names, or of a class set."""
    if isinstance(value, ClassesValue):
        return list(value.classes.ids)
    items = value.items if isinstance(value, ListValue) else [value]
    found = []
    for item in items:
        if isinstance(item, ir.Const) and isinstance(item.value, str):
            found.append(_class(item.value, data, item.span or span))
        else:
            number = integer(item, item.span or span)
            if not 0 <= number < len(data.classes):
                help = f"class numbers count from 0 to {len(data.classes) - 1}"
                raise error(
                    "KD0260", item.span or span, name=str(number), data=data.name, count=len(data.classes), help=help
                )
            found.append(number)
    return found


def _class(name: str, data: Data, span: Span) -> int:
    if name not in data.classes:
        near = nearest(name, data.classes)
        help = f'did you mean "{near}"?' if near else f"it has {listing(data.classes)}"
        raise error("KD0260", span, name=name, data=data.name, count=len(data.classes), help=help)
    return data.classes.index(name)


def _from_file(node: ast.Expr, data: Data, thing: Declared, ctx: Context) -> list[ClassSet]:
    """Rows `class,vertical` of a CSV file, or a JSON object vertical -> classes."""
    name = ctx.eval(node, "any")
    if not (isinstance(name, ir.Const) and isinstance(name.value, str)):
        raise error("KD0249", node.span, wants="a file name", found=describe(name))
    path = thing.module.folder / name.value
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise error("KD0211", node.span, file=name.value, folder=str(thing.module.folder)) from None
    groups: dict[str, list[str]] = {}
    if path.suffix == ".json":
        try:
            groups = {str(k): [str(c) for c in v] for k, v in json.loads(text).items()}
        except (ValueError, AttributeError, TypeError):
            raise error("KD0261", node.span, file=name.value) from None
    else:
        for row in csv.reader(text.splitlines()):
            if len(row) != 2:
                raise error("KD0261", node.span, file=name.value)
            groups.setdefault(row[1].strip(), []).append(row[0].strip())
    return [ClassSet(data.name, [_class(c, data, node.span) for c in members], v) for v, members in groups.items()]


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
        rest = ", ".join(str(i) for i in range(len(data.classes)) if i not in seen)
        raise error("KD0263", span, classes=listing(missing), rest=f"[{rest}]")

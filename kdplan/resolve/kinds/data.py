"""`data`: data sets with what is done to their images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import Gather, counted, error
from kdplan.diagnostics.span import Span
from kdplan.ir.plan import Data, Item, View
from kdplan.passes.load import Declared, Module, UserCode
from kdplan.resolve import axes, setting_values
from kdplan.resolve.context import Context, remember
from kdplan.resolve.values import Choice, DataValue, describe
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
        data = Data(thing.name, _named(source.item, thing.module))
    else:
        raise error("KD0249", clause.exprs[0].span, wants="a data set", found=describe(source))
    data.span = node.head_span
    gather = Gather()
    spans: dict[str, Span] = {}
    for item in node.items or []:
        if isinstance(item, ast.Setting):
            spec = KINDS["data"].setting(item.name)
            if spec is not None:
                spans[item.name] = item.value.span
                with gather:
                    setattr(data, item.name, setting_values.read(spec, item.value, ctx))
    gather.raise_if_failed()
    name = unique_name(thing, thing.name, ctx) + axes.suffix({}, axes.coordinates(ctx))
    data.name = name
    ctx.session.describe(data, clause.exprs[0].span)
    if "normalize" in spans and data.normalize and data.shape and len(data.shape) == 3:
        channels, given = data.shape[0], len(data.normalize[0])
        if channels != given:
            raise error("KD0259", spans["normalize"], found=counted(given, "channel"), channels=channels, name=name)
    ctx.session.plan.data[name] = data
    return data


def _named(item: Item, module: Module) -> Item:
    """`source("my.py:f")` of a file that a `use` names is what `use "my.py" as my` and `my.f()` are.

    Raises
    ------
    PlanError
        KD1001 for a file that none names.
    """
    file, _, function = str(item.arguments.get("function", "")).rpartition(":")
    if item.name != "source" or not file.endswith(".py"):
        return item
    path = str((module.folder / file).resolve())
    if path not in {code.path for m in module.every() for code in m.scope.values() if isinstance(code, UserCode)}:
        stem = Path(file).stem
        raise error("KD1001", item.span, file=file, stem=stem, function=function)
    others = {name: value for name, value in item.arguments.items() if name != "function"}
    return Item(f"{path}:{function}", others, span=item.span)


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
    split = value.split or "train"
    if value.data.sizes.get(split) == 0:
        raise error("KD0729", value.span, name=value.data.name, split=split)
    return View(value.data.name, value.split or "train", chosen, value.unlabelled, span=value.span)

"""Weights of networks from files, and the settings that say what of them is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.missing import no_such_file
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.origins import Loaded, Part
from kdplan.ir.plan import Item, Network
from kdplan.nn.pretrained import WEIGHTS_ARGUMENTS, implied, is_file, named_weights, renames
from kdplan.passes.load import Declared
from kdplan.resolve import setting_values
from kdplan.resolve.code import file_hash
from kdplan.resolve.context import Context
from kdplan.syntax import ast

PART = ("entry", "rename", "only", "except")
SETTINGS = ("weights", *PART)


def placed(item: Item, node: ast.Expr, folder: Path) -> tuple[Item, dict[str, Span]]:
    """An architecture whose file of weights is an absolute path, and where the plan names it.

    Raises
    ------
    PlanError
        KD0211 where there is no such file.
    """
    arguments, spans = dict(item.arguments), {}
    for name in WEIGHTS_ARGUMENTS.get(item.name, ()):
        if is_file(item.name, arguments.get(name)):
            spans["weights"] = _span_of(name, node)
            arguments[name] = str(_existing(arguments[name], folder, spans["weights"]))
    return (Item(item.name, arguments, span=item.span), spans) if spans else (item, {})


def _span_of(name: str, node: ast.Expr) -> Span:
    keywords = node.keywords if isinstance(node, ast.Call) else []
    return next((k.value.span for k in keywords if k.name == name), node.span)


def _existing(name: str, folder: Path, span: Span) -> Path:
    try:
        path = (folder / Path(name).expanduser()).resolve()
        if path.is_file():
            return path
    except (OSError, ValueError, RuntimeError):  # a circle of links, a name that no file can have
        pass
    raise no_such_file(name, [folder], span)


def attach(network: Network, thing: Declared, ctx: Context, as_written: bool) -> None:
    """Gives a network the weights that its declaration names.

    `as_written` says that the network's architecture stands in the declaration, and is no other network's.

    Raises
    ------
    PlanError
        KD0211 where there is no such file, KD0834 for a part of no weights.
    """
    given = {i.name: i.value for i in thing.node.items or [] if isinstance(i, ast.Setting) and i.name in SETTINGS}
    values = {n: setting_values.read(spec, node, ctx) for n, node in given.items() if (spec := _spec(thing, n))}
    part = Part(values.get("rename", []), values.get("only", []), values.get("except", []), values.get("entry", ""))
    if as_written:
        _from_argument(network, part)
    if "weights" in values:
        span = given["weights"].span
        path = _existing(values["weights"], thing.module.folder, span)
        network.origin = Loaded(str(path), file_hash(path), part, span=span)
    elif any(name in given for name in PART) and not _takes_part(network, part, as_written):
        first = next(name for name in PART if name in given)
        raise error("KD0834", given[first].span, setting=first, network=thing.name)


def _spec(thing: Declared, name: str) -> Any:
    return KINDS[thing.kind].setting(name)


def _from_argument(network: Network, part: Part) -> None:
    """Turns a file that the architecture names into the network's origin."""
    item = network.architecture
    files = [a for a in WEIGHTS_ARGUMENTS.get(item.name, ()) if is_file(item.name, item.arguments.get(a))]
    if not files:
        return
    rest = {n: v for n, v in item.arguments.items() if n not in files}
    network.architecture = Item(item.name, {**rest, **implied(item)}, span=item.span)
    path = Path(item.arguments[files[0]])
    part = replace(part, rename=[*renames(item.name), *part.rename])
    network.origin = Loaded(str(path), file_hash(path), part, span=network.spans.get("weights"))


def _takes_part(network: Network, part: Part, as_written: bool) -> bool:
    """Whether the network loads weights, of which `part` now is what it loads."""
    if isinstance(network.origin, Loaded):
        return True
    if not as_written or named_weights(network.architecture) is None:
        return False
    item = network.architecture
    weights = {"from": item.arguments["weights"], **part.content()}
    network.architecture = Item(item.name, {**item.arguments, "weights": weights}, span=item.span)
    return True

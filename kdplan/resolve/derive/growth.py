"""What a call adds to a plain network, for those that make such networks: `branched(…)`, `adapted(…)`."""

from __future__ import annotations

from dataclasses import dataclass

from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.origins import Copied
from kdplan.ir.plan import Item, Network
from kdplan.ir.spec import Spec
from kdplan.resolve.arguments import check_required, plain, too_many, unknown_parameter
from kdplan.resolve.code import code_of
from kdplan.resolve.context import Context
from kdplan.resolve.derive.named import named, part
from kdplan.resolve.expected import no_network
from kdplan.resolve.kinds.model import as_model
from kdplan.resolve.signals import fixed_weights
from kdplan.resolve.values import ModelValue, NetValue
from kdplan.syntax import ast


@dataclass
class Growth:
    """A call that makes a network of a plain one, with that one's architecture and what else the call says."""

    spec: Spec
    node: ast.Call
    ctx: Context
    base: ModelValue
    net: NetValue | None
    """The plain network, where it is one and no architecture."""
    given: dict[str, ast.Expr]

    def result(
        self,
        factory: str,
        arguments: dict[str, object],
        codes: dict[str, str | None],
        spans: dict[str, Span] | None = None,
    ) -> ModelValue | NetValue:
        """A model where the plain network is a model, or fresh; else a network that begins with its weights."""
        base, span = self.base, self.node.span
        model = ModelValue(Item(factory, arguments, span=span), base.classes, base.code, span)
        model.codes = {name: code for name, code in codes.items() if code}
        model.spans = spans or {}
        if self.net is None:
            return model
        if self.net.version is None and self.net.instance.fresh:
            model.seed = self.net.instance.network.seed
            return model
        version = fixed_weights(self.net, self.ctx)
        text = ", ".join(f"{k} = {v}" for k, v in arguments.items() if k != "base")
        network = Network(f"{self.spec.name}({version}, {text})", model.item, classes=model.classes, span=span)
        network.origin = Copied(version, grown=True)
        network.codes, network.spans, network.code = model.codes, model.spans, code_of(model.codes)
        return named(network, self.net.instance.declared.module, span, self.ctx)


def growth(spec: Spec, node: ast.Call, ctx: Context) -> Growth:
    """What a call says: the plain network, its first argument, and the others by name, not evaluated yet.

    Raises
    ------
    PlanError
        KD0226, KD0230, KD0236, KD0237 for its arguments; KD0250 for a part of a network.
    """
    names = [p.name for p in spec.params]
    if len(node.args) > 1:
        raise too_many(node.args[1].span, f"`{spec.name}`", names)
    given: dict[str, ast.Expr] = {}
    for k in node.keywords:
        if k.name not in names[1:] or k.name in given:
            raise unknown_parameter(k, f"`{spec.name}`", names, given=k.name in given)
        given[k.name] = k.value
    check_required(spec, {*given, *names[: len(node.args)]}, node.span)
    first = node.args[0]
    value = ctx.eval(first, "model")
    net = part(value, ctx) if isinstance(value, NetValue) else None
    if net is None:
        return Growth(spec, node, ctx, as_model(value, first, ctx), None, given)
    if net.path:
        raise no_network(net, first.span, ctx.module)
    network = net.instance.network
    base = ModelValue(network.architecture, network.classes, None, first.span)
    return Growth(spec, node, ctx, base, net, given)


def path_in(node: ast.Expr, base: ast.Expr) -> str:
    """`layer3`, `net.layer3`, `layers[2]`: where branches begin, as a path within the network that `base` means."""
    words: list[str] = []
    e = node
    while isinstance(e, ast.Attr) or (isinstance(e, ast.Pick) and len(e.picks) == 1):
        if isinstance(e, ast.Attr):
            words.append(e.word)
        else:
            key = e.picks[0]
            if not isinstance(key, ast.Number | ast.String):
                raise error("KD0251", node.span, what="this")
            words.append(str(key.value))
        e = e.base
    if not isinstance(e, ast.Name):
        raise error("KD0251", node.span, what="this")
    while isinstance(base, ast.Call | ast.Version | ast.Pick | ast.Attr):
        base = base.function if isinstance(base, ast.Call) else base.base
    named_again = isinstance(base, ast.Name) and base.name == e.name and words
    return ".".join(reversed(words if named_again else [*words, e.name]))


def shape_of(node: ast.Expr, ctx: Context) -> list[int]:
    """Channels, height and width of images, as a setting gives them."""
    value = plain(ctx.eval(node, "any"), node.span)
    fits = isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value)
    if not fits or not value:
        raise error("KD0244", node.span, what="`shape`", wants="channels, height and width", found=node.span.text)
    return list(value)

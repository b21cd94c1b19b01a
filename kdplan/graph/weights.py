"""Weights files of a plan's networks: read once to be checked, fitted to each network that starts from them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from torch import nn

from kdplan.diagnostics.report import Note, PlanError, error
from kdplan.diagnostics.span import Span
from kdplan.ir.heads import base_of
from kdplan.ir.origins import Loaded
from kdplan.ir.plan import Network
from kdplan.nn.pretrained import fits_channels, named_weights
from kdplan.nn.weight_files import UnreadableError, WeightsFile, read_weights
from kdplan.nn.weight_fit import Fitted, MisfitError, fitted_to


def fit(network: Network, module: nn.Module, file: WeightsFile) -> Fitted:
    """The tensors of the file that `network` starts from, by the names of its module.

    Raises
    ------
    PlanError
        KD0830 with every tensor that does not fit.
    """
    origin = network.origin
    assert isinstance(origin, Loaded)
    try:
        channels = fits_channels(network.architecture)
        return fitted_to(module, file, origin.part, drawn=network.reset, channels=channels)
    except MisfitError as problem:
        raise misfit(network, Path(origin.path).name, origin.span or network.span, problem) from problem


def check_fit(network: Network, module: nn.Module) -> str | None:
    """What was recognised in the file that a network starts from, as a line; None for other networks.

    Raises
    ------
    PlanError
        KD0830 with every tensor that does not fit, KD0835 where the file cannot be read.
    """
    origin = network.origin
    if not isinstance(origin, Loaded):
        return None
    name = Path(origin.path).name
    try:
        file = _without_memory(origin.path, origin.fingerprint, origin.part.entry)
    except UnreadableError as problem:
        raise unreadable(network, name, origin.span or network.span, problem) from problem
    notes = fit(network, module, file).notes
    return f"{network.name} from {name}: {', '.join(notes) if notes else 'all tensors'}"


@lru_cache(maxsize=64)
def _without_memory(path: str, fingerprint: str, entry: str) -> WeightsFile:
    """A file's shapes; `fingerprint` has a changed file read again."""
    return read_weights(Path(path), entry).without_memory()


def refusals(network: Network, problem: BaseException) -> Iterator[PlanError]:
    """KD0830 or KD0835 for an architecture that fails because of the weights that it loads itself."""
    name = named_weights(network.architecture) or base_of(network.architecture).arguments.get("backbone_weights")
    span = network.spans.get("weights", network.architecture.span or network.span)
    for cause in (problem, problem.__cause__):
        if isinstance(cause, MisfitError):
            yield misfit(network, f"{name}", span, cause)
        elif isinstance(cause, UnreadableError):
            yield unreadable(network, f"{name}", span, cause)


def misfit(network: Network, source: str, span: Span | None, problem: MisfitError) -> PlanError:
    """KD0830: all that does not fit, in short, and in full as notes."""
    notes = [Note(line) for line in problem.full]
    values = {"source": f"`{source}`", "network": network.name, "reason": f"{problem.reason}."}
    return error("KD0830", span, notes=notes, help=problem.help, **values)


def unreadable(network: Network, source: str, span: Span | None, problem: UnreadableError) -> PlanError:
    """KD0835: why a file cannot be read."""
    return error("KD0835", span, source=f"`{source}`", network=network.name, reason=problem.reason, help=problem.help)

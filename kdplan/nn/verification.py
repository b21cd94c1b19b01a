"""Open-set recognition: features of templates compared with one another, one number for each split of a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdplan.ir.protocol import Fold, Protocol


@dataclass(frozen=True, slots=True)
class Scores:
    """Cosine similarities of one split, float64 on the CPU.

    Parameters
    ----------
    genuine, impostor : Tensor
        [P], of pairs of one subject and of two.
    mated : Tensor
        [Q], of each probe with its own subject in the gallery.
    others : Tensor
        [Q, S - 1], with each other subject.
    """

    genuine: Tensor
    impostor: Tensor
    mated: Tensor
    others: Tensor


def template_features(features: Tensor, fold: Fold) -> Tensor:
    """Features of templates: images are normalised, averaged over each medium, then over media, and normalised again.

    Parameters
    ----------
    features : Tensor
        [N, D], of all samples.
    fold : Fold

    Returns
    -------
    Tensor
        float64 [T, D], of length 1 (or 0 where all images gave zeros).
    """
    rows, owners = (torch.from_numpy(a) for a in (fold.rows, fold.owners))
    parts = torch.nn.functional.normalize(features[rows].double(), dim=1) * torch.from_numpy(fold.weights)[:, None]
    sums = torch.zeros(len(fold.subjects), features.shape[1], dtype=torch.float64).index_add_(0, owners, parts)
    return torch.nn.functional.normalize(sums, dim=1)


def scores(features: Tensor, protocol: Protocol) -> Iterator[Scores]:
    """The scores of every split; features [N, ...] of all samples of the view, in its order.

    A subject with several templates in the gallery counts with the most similar one.
    """
    flat = features.flatten(1).cpu()
    for fold in protocol:
        templates = template_features(flat, fold)
        subjects = torch.from_numpy(fold.subjects)
        first, second = torch.from_numpy(fold.pairs).unbind(1)
        similar = (templates[first] * templates[second]).sum(dim=1)
        same = subjects[first] == subjects[second]
        gallery, probes = torch.from_numpy(fold.gallery), torch.from_numpy(fold.probes)
        enrolled, column = torch.unique(subjects[gallery], return_inverse=True)
        each = templates[probes] @ templates[gallery].T
        best = torch.full((len(probes), len(enrolled)), -torch.inf, dtype=torch.float64)
        best = best.scatter_reduce(1, column.expand(len(probes), -1), each, "amax")
        own = subjects[probes][:, None] == enrolled
        yield Scores(similar[same], similar[~same], best[own], best[~own].reshape(len(probes), -1))


def tar(scores: Scores, far: float) -> float:
    """True accept rate in percent at a false accept rate.

    The threshold is the smallest at which the share of impostor pairs that are accepted is at most `far`: genuine pairs
    count that are more similar than the most similar impostor pair that must be refused. Of equal scores all are
    accepted or none. Scores that are not numbers (of a network that has diverged) are accepted impostors and refused
    genuine pairs.

    Raises
    ------
    ValueError
        If there are no pairs of one of the two kinds.

    Examples
    --------
    >>> none = torch.zeros(0)
    >>> scores = Scores(torch.tensor([0.9, 0.6, 0.2]), torch.tensor([0.7, 0.5, 0.3, 0.1]), none, none)
    >>> [round(tar(scores, far), 2) for far in (0.2, 0.25, 0.5, 1)]
    [33.33, 66.67, 66.67, 100.0]
    """
    if not len(scores.genuine) or not len(scores.impostor):
        raise ValueError("a split has no pair of one subject, or none of two")
    refused = scores.impostor.nan_to_num(nan=torch.inf).sort(descending=True).values
    accepted = int(far * len(refused) + 1e-9)  # 0.29 * 100 is a little less than 29
    if accepted >= len(refused):
        passed = ~scores.genuine.isnan()
    else:
        passed = scores.genuine > refused[accepted]
    return 100.0 * passed.double().mean().item()


def rank(scores: Scores, k: int) -> float:
    """Share of probes, in percent, whose subject is among the `k` most similar ones in the gallery.

    Of equal scores the other subject comes first, so that features without content do not score.

    Examples
    --------
    >>> none = torch.zeros(0)
    >>> scores = Scores(none, none, torch.tensor([0.9, 0.2]), torch.tensor([[0.1, 0.3], [0.5, 0.1]]))
    >>> rank(scores, 1), rank(scores, 2)
    (50.0, 100.0)
    """
    if not len(scores.mated):
        raise ValueError("a split has no probe")
    before = (~(scores.others < scores.mated[:, None])).sum(dim=1)
    return 100.0 * (before < k).double().mean().item()


NUMBERS: dict[str, Callable[..., float]] = {"tar": tar, "rank": rank}
"""Metric -> its number for one split."""

"""Metrics with a plot: of a network's features, of a confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from kdplan.nn.embedding import embedded_rows
from kdplan.nn.scores import Confusion
from kdplan.runtime.measures.results import Drawn


def tsne(features: Tensor, labels: Tensor, classes: int = 10, samples: int = 500, seed: int = 0) -> Drawn:
    """Features of a few classes in two dimensions.

    Parameters
    ----------
    features : Tensor [N, D]
    labels : Tensor [N]
    classes : int
        How many classes, drawn at random from those in the data.
    samples : int
        How many samples at most, the same number of each class as far as there are so many.
    seed : int
        Of the draws, and of t-SNE.

    Returns
    -------
    Drawn
        `value` is the mean silhouette of the classes in two dimensions, from -1 to 1; `data` has `points` [n, 2],
        `labels` [n] and `classes`.

    References
    ----------
    Van der Maaten and Hinton: Visualizing data using t-SNE (2008).

    Examples
    --------
    >>> import torch
    >>> x = torch.cat([torch.randn(20, 5), torch.randn(20, 5) + 9])
    >>> embedding = tsne(x, torch.arange(40) // 20, classes=2)
    >>> embedding.kind, len(embedding.data["points"]), embedding.value > 0.3
    ('scatter', 40, True)
    """
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    rows = embedded_rows(labels.numpy(), classes, samples, seed)
    x, y = features.numpy()[rows], labels.numpy()[rows]
    start = "pca" if x.shape[1] > 1 else "random"  # of one feature there is one component
    embedding = TSNE(random_state=seed, init=start, perplexity=min(30.0, (len(x) - 1) / 3)).fit_transform(x)
    chosen = np.unique(y)
    apart = float(silhouette_score(embedding, y)) if len(chosen) > 1 else float("nan")
    data = {"points": np.round(embedding, 3).tolist(), "labels": y.tolist(), "classes": chosen.tolist()}
    return Drawn(apart, "scatter", data)


PLOTS: dict[str, Callable[..., Drawn]] = {"tsne": tsne}
"""Metric -> its plot, of features [N, D], labels [N] and settings."""


def matrix(confusion: Confusion, classes: Sequence[str], groups: Mapping[str, Sequence[int]]) -> Drawn:
    """A confusion matrix: `data` has the counts [C, C] (`matrix`), the names of `classes`, their `groups`, and `k`.

    >>> import torch
    >>> m = Confusion(2)
    >>> m.update(torch.tensor([[0.1, 0.9], [0.2, 0.8]]), torch.tensor([0, 1]))
    >>> matrix(m, ["a", "b"], {}).data["matrix"]
    [[1, 0], [1, 0]]
    """
    counts = confusion.matrix().tolist()
    names = list(classes) if len(classes) == len(counts) else [str(i) for i in range(len(counts))]
    data = {"matrix": counts, "classes": names, "groups": {n: list(ids) for n, ids in groups.items()}, "k": confusion.k}
    return Drawn(confusion.compute(), "matrix", data)

"""Features judged by what a linear classifier makes of them on data that the network was not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdplan.nn.catalog import METRICS
from kdplan.nn.metric import Metric, spatial_mean


class LinearSvm(Metric):
    """Share of samples, in percent, that a linear SVM on features gives the right label; `fit` it first.

    One classifier a class against all others, squared hinge loss (scikit-learn's `LinearSVC`). Maps are averaged over
    positions first.

    Parameters
    ----------
    C : float
        Weight of the errors against the squared weights.
    scale : {"standard", "unit", "none"}
        Each feature to mean 0 and deviation 1 by the training samples, each sample to length 1, or as it is.
    seed : int
        Of the solver; equal samples and seed give equal classifiers.
    per_class : int, optional
        How many training images a class are to be drawn (with `seed`) for `fit`; by default all.

    Examples
    --------
    >>> x, y = torch.tensor([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]]), torch.tensor([0, 0, 1, 1])
    >>> m = LinearSvm()
    >>> m.fit(x, y)
    >>> m.update(torch.tensor([[0.5, 0.5], [3.5, 0.5], [3.0, 0.0]]), torch.tensor([0, 1, 0]))
    >>> round(m.compute(), 2)
    66.67
    """

    def __init__(
        self,
        per_class: int | None = None,
        C: float = 1.0,
        scale: str = "standard",
        seed: int = 0,
        probabilities: bool = False,
    ) -> None:
        super().__init__(probabilities)
        allowed = next(p.choices for p in METRICS["svm"].params if p.name == "scale")
        if scale not in allowed:
            raise ValueError(f"`scale` is one of {', '.join(allowed)}, not {scale}")
        if C <= 0:
            raise ValueError(f"`C` is above 0, not {C:g}")
        self.per_class = per_class
        self.C = C
        self.scale = scale
        self.seed = seed
        self._model: Any = None

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Trains the classifier on features ``[N, D, ...]`` and labels ``[N]``.

        Raises
        ------
        ValueError
            If there are fewer than two classes, or the features are not finite.
        """
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler
        from sklearn.svm import LinearSVC

        before = {"standard": StandardScaler(), "unit": Normalizer(), "none": "passthrough"}[self.scale]
        svm = LinearSVC(C=self.C, random_state=self.seed, max_iter=10_000)
        x = spatial_mean(features).double().cpu().numpy()
        if not np.isfinite(x).all():
            raise ValueError("features of training images are not finite")
        self._model = make_pipeline(before, svm).fit(x, labels.cpu().numpy())

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, D, ...], [B] -> []``: samples that are given their label."""
        assert self._model is not None, "fit comes first"
        predictions = torch.from_numpy(self._model.predict(spatial_mean(outputs).double().cpu().numpy()))
        return (predictions == labels.cpu()).sum()

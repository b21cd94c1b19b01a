"""Average precision of detections in COCO's manner, by torchmetrics and pycocotools."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

PRECISIONS = {
    "ap": "map",
    "ap50": "map_50",
    "ap75": "map_75",
    "ap_small": "map_small",
    "ap_medium": "map_medium",
    "ap_large": "map_large",
}
"""Metric -> its name in torchmetrics."""


def gives_boxes(network: nn.Module) -> bool:
    """Whether a network is called as a detector is: with the sizes of its images.

    >>> gives_boxes(nn.Linear(2, 2))
    False
    """
    return "sizes" in inspect.signature(network.forward).parameters


class AveragePrecision:
    """Average precision over all images that `update` has seen.

    A detection is right if it overlaps a box of its class that no better one took; precision is averaged over recall,
    classes and, but for `ap50` and `ap75`, the overlaps 0.50, 0.55 … 0.95. The best hundred of an image count. Sizes of
    boxes are in the file's pixels: small below 32², large above 96².

    Examples
    --------
    >>> m = AveragePrecision()
    >>> box = torch.tensor([[[2.0, 2.0, 10.0, 10.0]]])
    >>> detections = {"boxes": box, "scores": torch.tensor([[0.9]]), "labels": torch.tensor([[1]])}
    >>> there = {"boxes": box, "classes": torch.tensor([[1]]), "crowd": torch.tensor([[False]])}
    >>> there |= {"areas": torch.tensor([[64.0]]), "scales": torch.ones(1, 2), "sizes": torch.tensor([[16.0, 16.0]])}
    >>> m.update(detections, there)
    >>> m.compute()["ap50"], m.compute()["ap_large"]
    (100.0, nan)

    References
    ----------
    Lin et al.: Microsoft COCO (2014), and its evaluation code.
    """

    def __init__(self) -> None:
        from torchmetrics.detection import MeanAveragePrecision

        self._metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox", backend="pycocotools")

    def update(self, detections: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Takes one batch.

        Parameters
        ----------
        detections : mapping
            `boxes` [B, D, 4] in pixels of the canvas, `scores` [B, D], `labels` int64 [B, D], -1 for none.
        batch : mapping
            As `kdplan.data.dataset.BoxDataset` gives it.
        """
        predictions, there = [], []
        for n in range(len(batch["classes"])):
            scale = batch["scales"][n, [1, 0, 1, 0]]
            kept = detections["labels"][n] >= 0
            inside = batch["sizes"][n, [1, 0, 1, 0]]
            boxes = torch.minimum(detections["boxes"][n][kept].clamp(min=0), inside) / scale
            predictions.append(
                {
                    "boxes": boxes.cpu(),
                    "scores": detections["scores"][n][kept].cpu(),
                    "labels": detections["labels"][n][kept].cpu(),
                }
            )
            real = batch["classes"][n] >= 0
            there.append({
                "boxes": (batch["boxes"][n][real] / scale).cpu(), "labels": batch["classes"][n][real].cpu(),
                "iscrowd": batch["crowd"][n][real].long().cpu(), "area": batch["areas"][n][real].cpu(),
            })  # fmt: skip
        self._metric.update(predictions, there)

    def compute(self) -> dict[str, float]:
        """Every metric of `PRECISIONS`, in percent; nan for sizes of which there is no box."""
        numbers = self._metric.compute()
        values = {name: float(numbers[theirs]) for name, theirs in PRECISIONS.items()}
        return {name: 100.0 * v if v >= 0 else math.nan for name, v in values.items()}

"""torchvision's detectors on images of one size: losses and detections of fixed shapes, everything else as it is there.

What depends on the data (matching, sampling, non-maximum suppression) stays torchvision's own code, in modules that a
trace keeps whole; their `fake_forward` gives the shapes of what they return, and does the arithmetic that costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import nearest
from kdplan.nn.models.zoo import load_fitted, read_named
from kdplan.nn.weight_files import read_weights

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
             "wide_resnet50_2", "wide_resnet101_2")  # fmt: skip
Targets = Mapping[str, Tensor]
"""`boxes` float [B, M, 4] (left, top, right, bottom in pixels), `labels` int64 [B, M] (-1: none), `crowd` bool [B, M]
(not trained on), `sizes` [B, 2] (height and width that an image takes of its canvas)."""


def detector(
    name: str,
    backbone: str = "resnet50",
    classes: int = 80,
    weights: str | None = None,
    backbone_weights: str | None = None,
    norm: str | None = None,
    detections: int | None = None,
) -> nn.Module:
    """A detector of torchvision on a feature pyramid.

    Parameters
    ----------
    name : {"retinanet", "faster_rcnn"}
    backbone : str
        A residual network of torchvision.
    classes : int
        Without background; for Faster R-CNN, class 0 of its last layer is the background.
    weights : str, optional
        A file (.safetensors, .pth, .pt) of the whole detector in torchvision's names.
    backbone_weights : str, optional
        For the residual network, as of `torchvision`: a name such as `IMAGENET1K_V1`, or a file.
    norm : {"frozen", "batch"}, optional
        "frozen": batch norm with fixed statistics and factors, the default where there are weights, as published;
        "batch": what a backbone that starts fresh needs, and has by default.
    detections : int, optional
        The most that an image gets; 300 for RetinaNet and 100 for Faster R-CNN by default.

    Raises
    ------
    ValueError
        If a name is unknown, or weights do not fit.
    FileNotFoundError
        If a file with weights is not there.

    Examples
    --------
    >>> net = detector("retinanet", "resnet18", classes=3).eval()
    >>> detections = net(torch.zeros(1, 3, 64, 64))
    >>> {name: tuple(t.shape) for name, t in detections.items()}
    {'boxes': (1, 300, 4), 'scores': (1, 300), 'labels': (1, 300)}

    References
    ----------
    Lin, Goyal, Girshick, He, Dollár: Focal loss for dense object detection (2017). Ren, He, Girshick, Sun: Faster
    R-CNN (2015), with the pyramid of Lin et al. (2017).
    """
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from torchvision.ops.misc import FrozenBatchNorm2d

    norm = norm or ("batch" if weights is None and backbone_weights is None else "frozen")
    for what, value, known in (("detector", name, tuple(_KINDS)), ("backbone", backbone, BACKBONES),
                               ("norm", norm, ("frozen", "batch"))):  # fmt: skip
        if value not in known:
            near = nearest(value, known)
            raise ValueError(f"there is no {what} `{value}`; " + (f"did you mean `{near}`?" if near else f"{known}"))
    pyramid: dict[str, Any] = {}
    if name == "retinanet":
        pyramid = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    body = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, trainable_layers=5,
        norm_layer=FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d, **pyramid,
    )  # fmt: skip
    if backbone_weights is not None:
        _load_body(body.body, backbone, backbone_weights)
    net: nn.Module = _KINDS[name](body, classes, detections)
    if weights is not None:
        _load_detector(net, weights)
    return net


def _load_body(body: nn.Module, name: str, weights: str) -> None:
    """Weights of a classifier into the part of it that the pyramid reads."""
    parts = sorted({key.partition(".")[0] for key in body.state_dict()})
    load_fitted(body, read_named(name, weights)[0], {"from": weights, "only": parts})


def _load_detector(net: nn.Module, weights: str) -> None:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file with weights at {path.absolute()}")
    load_fitted(net, read_weights(path), weights)


# ---- RetinaNet


class RetinaNet(nn.Module):
    """Taps `backbone.body.layer1` … `layer4`, `backbone.fpn`, `head`; see `detector`.

    Called with images [B, 3, H, W] it returns detections: `boxes` [B, D, 4] in pixels, `scores` [B, D], sorted, and
    `labels` int64 [B, D], -1 behind the last one. With targets it returns losses: `classification`, `bbox_regression`.
    """

    def __init__(self, backbone: nn.Module, classes: int, detections: int | None) -> None:
        from torchvision.models.detection import RetinaNet as Original

        super().__init__()
        original = Original(backbone, classes, detections_per_img=detections or 300)
        self.backbone, self.head = original.backbone, original.head
        self.losses, self.detections = _RetinaLosses(original), _RetinaDetections(original)

    def forward(self, images: Tensor, targets: Targets | None = None, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Detections, or losses where there are targets."""
        maps = list(self.backbone(images).values())
        predictions = self.head(maps)
        scores, boxes = predictions["cls_logits"], predictions["bbox_regression"]
        if targets is not None:
            losses: dict[str, Tensor] = self.losses(scores, boxes, images, maps, targets)
            return losses
        detections: dict[str, Tensor] = self.detections(scores, boxes, images, maps, sizes)
        return detections


class _Whole(nn.Module):
    """A step that a trace does not look into; it holds the detector without owning its parameters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.__dict__["model"] = model


class _RetinaLosses(_Whole):
    """Focal loss, and L1 distance of the boxes of matched anchors; each a match, mean over images."""

    def forward(
        self, scores: Tensor, boxes: Tensor, images: Tensor, maps: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """scores [B, A, C] and boxes [B, A, 4] of all anchors -> two scalars."""
        model = self.__dict__["model"]
        anchors = model.anchor_generator(_image_list(images, targets["sizes"]), maps)
        losses = model.compute_loss(
            listed(targets, 0), {"cls_logits": scores.float(), "bbox_regression": boxes.float()}, anchors
        )
        return {"classification": losses["classification"], "bbox_regression": losses["bbox_regression"]}

    def fake_forward(
        self, scores: Tensor, boxes: Tensor, images: Tensor, maps: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """Two scalars that depend on what the losses depend on, with tensors as large as they make."""
        from torchvision.ops import sigmoid_focal_loss

        focal = sigmoid_focal_loss(scores.float(), torch.zeros_like(scores, dtype=torch.float32), reduction="sum")
        return {"classification": focal, "bbox_regression": boxes.float().abs().sum()}


class _RetinaDetections(_Whole):
    def forward(
        self, scores: Tensor, boxes: Tensor, images: Tensor, maps: list[Tensor], sizes: Tensor | None
    ) -> dict[str, Tensor]:
        """The best boxes of each image after non-maximum suppression, padded to one number."""
        model = self.__dict__["model"]
        listed_images = _image_list(images, sizes)
        anchors = model.anchor_generator(listed_images, maps)
        positions = [m.shape[2] * m.shape[3] for m in maps]
        each = [n * (scores.shape[1] // sum(positions)) for n in positions]
        levels = {
            "cls_logits": list(torch.split(scores.float(), each, dim=1)),
            "bbox_regression": list(torch.split(boxes.float(), each, dim=1)),
        }
        detections = model.postprocess_detections(
            levels, [list(torch.split(a, each)) for a in anchors], listed_images.image_sizes
        )
        return padded(detections, model.detections_per_img, 0, images)

    def fake_forward(
        self, scores: Tensor, boxes: Tensor, images: Tensor, maps: list[Tensor], sizes: Tensor | None
    ) -> dict[str, Tensor]:
        """The shapes of detections."""
        return _like_detections(images, self.__dict__["model"].detections_per_img)


# ---- Faster R-CNN


class FasterRCNN(nn.Module):
    """Taps `backbone.body.layer1` … `layer4`, `backbone.fpn`; parts `rpn`, `roi_heads`; see `detector`.

    Called with images [B, 3, H, W] it returns detections as `RetinaNet` does. With targets it returns losses:
    `objectness`, `rpn_box_reg`, `classifier`, `box_reg`.
    """

    def __init__(self, backbone: nn.Module, classes: int, detections: int | None) -> None:
        from torchvision.models.detection import FasterRCNN as Original

        super().__init__()
        original = Original(backbone, classes + 1, box_detections_per_img=detections or 100)
        self.backbone, self.rpn, self.roi_heads = original.backbone, original.rpn, original.roi_heads
        self.proposals, self.regions = _Proposals(self.rpn), _Regions(self.roi_heads)

    def forward(self, images: Tensor, targets: Targets | None = None, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Detections, or losses where there are targets."""
        maps = self.backbone(images)
        proposed = self.proposals(images, maps, targets, sizes)
        results = self.regions(images, maps, proposed["boxes"], proposed["there"], targets, sizes)
        if targets is None:
            detections: dict[str, Tensor] = results
            return detections
        return {
            "objectness": proposed["objectness"],
            "rpn_box_reg": proposed["rpn_box_reg"],
            "classifier": results["classifier"],
            "box_reg": results["box_reg"],
        }


class _Part(nn.Module):
    """A part of Faster R-CNN that a trace keeps whole. `leaf` is whose parameters it uses; the detector owns them."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.__dict__["leaf"] = part

    @contextmanager
    def _asked_for(self, losses: bool) -> Any:
        """torchvision gives losses in training mode only; here they are given where there are targets."""
        part: nn.Module = self.__dict__["leaf"]
        was, part.training = part.training, losses
        try:
            yield part
        finally:
            part.training = was


class _Proposals(_Part):
    def forward(
        self, images: Tensor, maps: Mapping[str, Tensor], targets: Targets | None, sizes: Tensor | None
    ) -> dict[str, Tensor]:
        """`boxes` [B, P, 4] and which of them are `there`, bool [B, P]; with targets also two losses."""
        with self._asked_for(losses=targets is not None) as rpn:
            proposals, losses = rpn(
                _image_list(images, sizes if targets is None else targets["sizes"]),
                {name: m.float() for name, m in maps.items()},
                listed(targets, 1) if targets is not None else None,
            )
            most = rpn.post_nms_top_n()
        boxes = images.new_zeros(len(proposals), most, 4, dtype=torch.float32)
        there = images.new_zeros(len(proposals), most, dtype=torch.bool)
        for n, one in enumerate(proposals):
            boxes[n, : len(one)] = one
            there[n, : len(one)] = True
        return {"boxes": boxes.detach(), "there": there} | {n.removeprefix("loss_"): v for n, v in losses.items()}

    def fake_forward(
        self, images: Tensor, maps: Mapping[str, Tensor], targets: Targets | None, sizes: Tensor | None
    ) -> dict[str, Tensor]:
        """The convolutions, and as many boxes as there may be."""
        with self._asked_for(losses=targets is not None) as rpn:
            most = rpn.post_nms_top_n()
            scores, deltas = rpn.head([m.float() for m in maps.values()])
        boxes = images.new_zeros(len(images), most, 4, dtype=torch.float32)
        results = {"boxes": boxes, "there": images.new_zeros(len(images), most, dtype=torch.bool)}
        if targets is not None:
            torch.rand(())  # which anchors the losses are of is drawn
            results["objectness"] = sum((s.abs().mean() for s in scores), boxes.new_zeros(()))
            results["rpn_box_reg"] = sum((d.abs().mean() for d in deltas), boxes.new_zeros(()))
        return results


class _Regions(_Part):
    def forward(
        self, images: Tensor, maps: Mapping[str, Tensor], boxes: Tensor, there: Tensor,
        targets: Targets | None, sizes: Tensor | None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Two losses, or detections."""
        with self._asked_for(losses=targets is not None) as heads:
            detections, losses = heads(
                {name: m.float() for name, m in maps.items()},
                [one[kept] for one, kept in zip(boxes, there, strict=True)],
                _image_list(images, sizes if targets is None else targets["sizes"]).image_sizes,
                listed(targets, 1) if targets is not None else None,
            )
        if targets is not None:
            return {"classifier": losses["loss_classifier"], "box_reg": losses["loss_box_reg"]}
        return padded(detections, heads.detections_per_img, 1, images)

    def fake_forward(
        self, images: Tensor, maps: Mapping[str, Tensor], boxes: Tensor, there: Tensor,
        targets: Targets | None, sizes: Tensor | None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The layers on as many regions as are looked at, cut from the maps."""
        heads: Any = self.__dict__["leaf"]
        each = heads.fg_bg_sampler.batch_size_per_image if targets is not None else boxes.shape[1]
        regions, (height, width) = len(images) * each, heads.box_roi_pool.output_size
        # Every map has a part in what is cut out; the mean stands for the positions, which depend on the proposals.
        mean = torch.stack([m.float().mean(dim=(2, 3)) for m in maps.values()]).mean(dim=(0, 1))
        cut = mean[None, :, None, None].expand(regions, -1, height, width).contiguous()
        scores, deltas = heads.box_predictor(heads.box_head(cut))
        if targets is None:
            return _like_detections(images, heads.detections_per_img)
        torch.rand(())  # which regions the losses are of is drawn
        return {"classifier": nn.functional.cross_entropy(scores, scores.argmax(1)), "box_reg": deltas.abs().mean()}


_KINDS = {"retinanet": RetinaNet, "faster_rcnn": FasterRCNN}


# ---- lists of different lengths, and tensors of one shape


def listed(targets: Targets, first: int) -> list[dict[str, Tensor]]:
    """Targets as torchvision wants them: for each image the boxes that are trained on; classes begin with `first`."""
    images = []
    for boxes, labels, crowd in zip(targets["boxes"], targets["labels"], targets["crowd"], strict=True):
        kept = (labels >= 0) & ~crowd
        images.append({"boxes": boxes[kept].float(), "labels": labels[kept] + first})
    return images


def padded(detections: Sequence[Mapping[str, Tensor]], most: int, first: int, like: Tensor) -> dict[str, Tensor]:
    """torchvision's detections as tensors of one shape, classes from 0.

    Examples
    --------
    >>> one = {"boxes": torch.ones(1, 4), "scores": torch.ones(1), "labels": torch.tensor([5])}
    >>> padded([one], 3, 1, torch.zeros(1))["labels"]
    tensor([[ 4, -1, -1]])
    """
    table = _like_detections(like, most, len(detections))
    for n, image in enumerate(detections):
        count = min(most, len(image["scores"]))
        table["boxes"][n, :count] = image["boxes"][:count]
        table["scores"][n, :count] = image["scores"][:count]
        table["labels"][n, :count] = image["labels"][:count] - first
    return table


def _like_detections(like: Tensor, most: int, images: int | None = None) -> dict[str, Tensor]:
    count = len(like) if images is None else images
    return {
        "boxes": like.new_zeros(count, most, 4, dtype=torch.float32),
        "scores": like.new_zeros(count, most, dtype=torch.float32),
        "labels": like.new_full((count, most), -1, dtype=torch.int64),
    }


def _image_list(images: Tensor, sizes: Tensor | None) -> Any:
    """torchvision's list of images; without sizes each takes its whole canvas."""
    from torchvision.models.detection.image_list import ImageList

    whole = [(images.shape[2], images.shape[3])] * len(images)
    return ImageList(images, whole if sizes is None else [(int(h), int(w)) for h, w in sizes.tolist()])

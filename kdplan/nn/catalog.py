"""What can be named in a plan, without torch: networks and metrics, with their settings.

`check`, the language reference and completions read these tables; tests hold them equal to the functions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdplan.ir.plan import Item
from kdplan.ir.spec import REQUIRED, Param


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A network that can be named: `settings` by name; `open` if it passes unknown settings on."""

    name: str
    doc: str
    settings: dict[str, Param]
    open: bool = False


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric that can be named. `needs` is what `update` reads; `better` says which direction is good.

    `grouped` ones read the superclasses of the data's classes.
    """

    name: str
    doc: str
    needs: str
    larger_is_better: bool
    unit: str
    settings: dict[str, Param]
    grouped: bool = False


def _settings(*rows: Param) -> dict[str, Param]:
    return {row.name: row for row in rows}


_CLASSES = Param("classes", "classes", 10, "outputs: a number, or a set of classes", low=1)
_CHANNELS = Param("channels", "integer", 3, "channels of the images")

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "cifar_resnet",
            "Residual network for small images: taps `conv1`, `layer1`, `layer2`, `layer3`, `fc`.",
            _settings(
                Param("depth", "integer", 20, "6n + 2 with basic blocks, 9n + 2 with bottlenecks"),
                Param("block", "choice", "basic", "kind of block", choices=("basic", "bottleneck")),
                Param(
                    "shortcut",
                    "choice",
                    "projection",
                    "1 x 1 convolution, or zero channels without parameters",
                    choices=("projection", "pad"),
                ),
                _CLASSES,
                Param(
                    "width",
                    "any",
                    1.0,
                    "factor on 16, 32, 64 channels, or those of stem and three groups",
                ),
                _CHANNELS,
            ),
        ),
        ModelSpec(
            "cifar_wide_resnet",
            "Wide residual network for small images: taps `conv1`, `layer1`, `layer2`, `layer3`, `fc`.",
            _settings(
                Param("depth", "integer", 16, "6n + 4"),
                Param("width", "number", 2.0, "factor on 16, 32, 64 channels"),
                _CLASSES,
                _CHANNELS,
                Param("dropout", "number", 0.0, "between a block's convolutions"),
            ),
        ),
        ModelSpec(
            "cifar_resnext",
            "ResNeXt for small images: taps `conv1`, `layer1`, `layer2`, `layer3`, `fc`.",
            _settings(
                Param("depth", "integer", 29, "9n + 2"),
                Param("cardinality", "integer", 8, "groups of the 3 x 3 convolutions"),
                Param("width", "integer", 64, "channels of a group in `layer1`; twice and four times as many later"),
                _CLASSES,
                _CHANNELS,
            ),
        ),
        ModelSpec(
            "cifar_vgg",
            "VGG with batch norm and one linear layer for small images: taps `layer1` … `layer5`, `fc`.",
            _settings(
                Param("depth", "integer", 16, "8, 11, 13, 16 or 19"),
                _CLASSES,
                Param("width", "number", 1.0, "factor on 64, 128, 256, 512, 512 channels"),
                _CHANNELS,
            ),
        ),
        ModelSpec(
            "cifar_densenet",
            "DenseNet for small images, by default a DenseNet-BC: taps `conv1`, `layer1`, `transition1`, … `fc`.",
            _settings(
                Param("depth", "integer", 100, "6n + 4 with bottlenecks, 3n + 4 without"),
                Param("growth", "integer", 12, "channels that every layer adds"),
                Param("reduction", "number", 0.5, "part of the channels that a transition keeps"),
                Param("bottleneck", "flag", True, "a 1 x 1 convolution before each 3 x 3 one"),
                Param("blocks", "integers", None, "layers of each block, in place of `depth`"),
                _CLASSES,
                _CHANNELS,
                Param("dropout", "number", 0.0, "of the new channels"),
            ),
        ),
        ModelSpec(
            "alexnet",
            "AlexNet for images of about 224 x 224, as torchvision has it: taps `conv1` … `conv5`, `fc6`, `fc7`, "
            "`fc8`, `relu1` … `relu7`, `pool1`, `pool2`, `pool5`.",
            _settings(
                _CLASSES,
                Param(
                    "width",
                    "any",
                    1.0,
                    "factor on 64, 192, 384, 256, 256 channels and 4096, 4096 units, or these seven numbers",
                ),
                _CHANNELS,
                Param("dropout", "number", 0.5, "before `fc6` and `fc7`"),
                Param("weights", "text", None, "`IMAGENET1K_V1` (its file must be there), or a path; width 1 only"),
            ),
        ),
        ModelSpec(
            "bn_inception",
            "Inception-V2 for images of about 224 x 224: taps `stem`, `mixed3b`, `mixed3c`, `mixed4a` … `mixed4e`, "
            "`mixed5a`, `mixed5b`, `mixed5c`, `fc`.",
            _settings(
                _CLASSES,
                Param("base", "text", "mixed5c", "its last block; what follows is left out"),
                Param("pool", "integer", 1, "height and width that its maps are averaged to"),
                _CHANNELS,
            ),
        ),
        ModelSpec(
            "digits_net",
            "Small convolutional network: taps `stem`, `layer1`, `layer2`, `fc`.",
            _settings(
                Param("width", "integer", 16, "channels of the stem; twice and four times as many later"),
                _CLASSES,
                Param("channels", "integer", 1, "channels of the images"),
                Param("blocks", "integer", 1, "convolutions in each of the two layers"),
            ),
        ),
        ModelSpec(
            "mlp",
            "Multilayer perceptron on flattened samples: taps `layer1` … `fc`.",
            _settings(
                Param("inputs", "integer", REQUIRED, "values in a sample"),
                Param("hidden", "integers", (64,), "sizes of the hidden layers"),
                _CLASSES,
            ),
        ),
        ModelSpec(
            "conv1x1",
            "Linear map of channels at every position.",
            _settings(
                Param("inputs", "integer", REQUIRED, "channels that come in"),
                Param("outputs", "integer", REQUIRED, "channels that go out"),
                Param("bias", "flag", False, "add a constant a channel"),
            ),
        ),
        ModelSpec(
            "linear",
            "Linear map of vectors.",
            _settings(
                Param("inputs", "integer", REQUIRED, "values that come in"),
                Param("outputs", "integer", REQUIRED, "values that go out"),
                Param("bias", "flag", True, "add a constant"),
            ),
        ),
        ModelSpec(
            "autoencoder",
            "Squeezes channels of maps, or vectors, to a code and restores them: taps `code`, `output`.",
            _settings(
                Param("inputs", "integer", REQUIRED, "channels that come in"),
                Param("code", "integer", REQUIRED, "channels of the code"),
            ),
        ),
        ModelSpec(
            "torchvision",
            "Any network of torchvision, by its name there.",
            _settings(
                Param("name", "text", REQUIRED, 'e.g. "resnet18"'),
                Param("classes", "classes", None, "outputs; a new head where the weights have another number", low=1),
                Param("weights", "text", None, "a name such as `IMAGENET1K_V1` (its file must be there), or a path"),
                _CHANNELS,
            ),
            open=True,
        ),
        ModelSpec(
            "detector",
            "Detector of torchvision on a feature pyramid, for data with boxes: parts `backbone` (taps "
            "`backbone.body.layer1` … `backbone.fpn`) and `head`, or `rpn` and `roi_heads`. `net(inputs, targets)` has "
            "its losses: `classification`, `bbox_regression`; or `objectness`, `rpn_box_reg`, `classifier`, `box_reg`.",
            _settings(
                Param("name", "choice", REQUIRED, "which one", choices=("retinanet", "faster_rcnn")),
                Param("backbone", "text", "resnet50", "residual network of torchvision"),
                Param("classes", "classes", 80, "without background", low=1),
                Param("weights", "text", None, "path of a file with weights of the whole detector"),
                Param("backbone_weights", "text", None, "a name such as `IMAGENET1K_V1`, or a path"),
                Param(
                    "norm",
                    "choice",
                    None,
                    "batch norm: `frozen` with weights, `batch` without",
                    choices=("frozen", "batch"),
                ),
                Param("detections", "integer", None, "most of an image; 300, or 100 for `faster_rcnn`"),
            ),
        ),
        ModelSpec(
            "timm",
            "Any network of timm, by its name there.",
            _settings(
                Param("name", "text", REQUIRED, 'e.g. "vit_tiny_patch16_224"'),
                Param("classes", "classes", None, "outputs; a new head where the checkpoint has another number", low=1),
                Param("checkpoint", "text", None, "path of a file with weights"),
                _CHANNELS,
            ),
            open=True,
        ),
    )
}

_GROUPS = Param("groups", "any", None, "verticals of the data; by default its own superclasses")

METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec("top1", "Samples whose highest score is the label's.", "logits", True, "%", {}),
        MetricSpec("top5", "Samples whose label is among the five highest scores.", "logits", True, "%", {}),
        MetricSpec(
            "topk",
            "Samples whose label is among the k highest scores.",
            "logits",
            True,
            "%",
            _settings(Param("k", "integer", REQUIRED, "how many scores count", low=1)),
        ),
        MetricSpec("error", "100 - top1.", "logits", False, "%", {}),
        MetricSpec("cross_entropy", "Mean softmax cross-entropy with the labels.", "logits", False, "nats", {}),
        MetricSpec(
            "ece",
            "Expected calibration error: mean distance of confidence and accuracy.",
            "logits",
            False,
            "%",
            _settings(Param("bins", "integer", 15, "intervals of confidence, equally wide", low=1)),
        ),
        MetricSpec(
            "mean",
            "Mean of a tap's values (maps are averaged over places): how much each branch counts, of a gate.",
            "features",
            True,
            "value",
            _settings(Param("unit", "integer", None, "which value of a sample, from 0; by default all of them")),
        ),
        MetricSpec("agreement", "Samples on which two networks choose the same class.", "pair", True, "%", {}),
        MetricSpec(
            "tar",
            "True accept rate in verification, of pairs of templates of one subject, at a false accept rate; one "
            "number for each split of the protocol.",
            "templates",
            True,
            "%",
            _settings(
                Param("far", "number", REQUIRED, "share of impostor pairs that may be accepted", above=0, high=1)
            ),
        ),
        MetricSpec(
            "rank",
            "Probes whose subject is among the k most similar ones in the gallery; one number for each split.",
            "templates",
            True,
            "%",
            _settings(Param("k", "integer", REQUIRED, "how many subjects count", low=1)),
        ),
        MetricSpec(
            "tsne",
            "A picture: features of some classes in two dimensions (t-SNE; maps are averaged over places). The number "
            "is how well the classes are apart there, their silhouette, from -1 to 1.",
            "features",
            True,
            "silhouette",
            _settings(
                Param("classes", "integer", 10, "how many classes, drawn at random"),
                Param("samples", "integer", 500, "how many samples of them, at most"),
                Param("seed", "integer", 0, "which classes and samples"),
            ),
        ),
        MetricSpec(
            "score",
            "Mean of the k-th highest softmax score.",
            "logits",
            True,
            "%",
            _settings(Param("k", "integer", 1, "which score, counted from the highest", low=1)),
        ),
        MetricSpec(
            "confusion",
            "A picture: how often samples of each class have each class as that with the k-th highest score. The "
            "number is the share on the diagonal, for k = 1 the accuracy.",
            "logits",
            True,
            "%",
            _settings(Param("k", "integer", 1, "which score, counted from the highest", low=1)),
        ),
        MetricSpec(
            "siblings",
            "Samples whose k-th highest score is of another class of their label's superclass.",
            "logits",
            True,
            "%",
            _settings(
                Param("k", "integer", 2, "which score, counted from the highest", low=1),
                _GROUPS,
            ),
            grouped=True,
        ),
        MetricSpec(
            "mpvap",
            "Mean over verticals of the mean average precision of a vertical's classes on its own samples, with scores "
            "cut to these classes. Reads the data twice.",
            "logits",
            True,
            "%",
            _settings(_GROUPS),
            grouped=True,
        ),
        MetricSpec(
            "pvap",
            "The same for one vertical; without `part` mean average precision over all classes that are measured.",
            "logits",
            True,
            "%",
            _settings(
                Param("part", "integer", None, "which of the verticals that the data has classes of, from 0", low=0),
                _GROUPS,
            ),
            grouped=True,
        ),
        MetricSpec(
            "class_distance",
            "Mean angle between a class's mean feature and its superclass's (DistC; maps are averaged over places).",
            "features",
            False,
            "rad",
            _settings(_GROUPS),
            grouped=True,
        ),
        MetricSpec(
            "superclass_distance",
            "Mean angle between a superclass's mean feature and the mean of all superclasses' (DistS).",
            "features",
            True,
            "rad",
            _settings(_GROUPS),
            grouped=True,
        ),
        MetricSpec(
            "svm",
            "Samples that a linear SVM gives their label: it is trained on features of the same data's `train` part "
            "(maps are averaged over places), whose classes need not be the network's.",
            "transfer",
            True,
            "%",
            _settings(
                Param(
                    "per_class",
                    "integer",
                    None,
                    "training images of each class, drawn at random; by default all",
                    low=1,
                ),
                Param("C", "number", 1.0, "weight of the errors against the squared weights", above=0),
                Param(
                    "scale",
                    "choice",
                    "standard",
                    "each feature to mean 0 and deviation 1 by the training images, each image's features to length 1, "
                    "or as they are",
                    choices=("standard", "unit", "none"),
                ),
                Param("seed", "integer", 0, "which training images, and of the solver"),
            ),
        ),
        *(
            MetricSpec(name, f"Average precision of boxes in COCO's manner, {what}.", "boxes", True, "%", {})
            for name, what in (
                ("ap", "mean over overlaps from 0.50 to 0.95"),
                ("ap50", "at an overlap of 0.50"),
                ("ap75", "at an overlap of 0.75"),
                ("ap_small", "of boxes below 32² pixels"),
                ("ap_medium", "of boxes from 32² to 96² pixels"),
                ("ap_large", "of boxes above 96² pixels"),
            )
        ),
        MetricSpec("parameters", "Parameters of the network, as it is exported.", "network", False, "", {}),
        MetricSpec("flops", "Floating-point operations of one sample, 2 a multiply-add.", "network", False, "", {}),
        MetricSpec(
            "training_flops",
            "Floating-point operations of one sample forward through all networks of the phase that trained it, as far "
            "as its loss needs them; of several such phases their sum.",
            "network",
            False,
            "",
            {},
        ),
    )
}


def reads_groups(metric: Item) -> bool:
    """Whether a metric, as it is written, reads superclasses or verticals.

    >>> [reads_groups(Item(*m)) for m in (("top1",), ("mpvap",), ("pvap",), ("pvap", {"part": 0}))]
    [False, True, False, True]
    """
    spec = METRICS.get(metric.name)
    given = {name for name, value in metric.arguments.items() if value is not None}
    return spec is not None and spec.grouped and ("part" not in spec.settings or bool(given & {"part", "groups"}))

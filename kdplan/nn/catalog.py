"""What can be named in a plan, without torch: networks and metrics, with their settings.

`check` and the language reference read these tables. Tests compare them with the signatures of the implementations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdplan.ir.plan import Item
from kdplan.ir.spec import REQUIRED, Param, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec(Spec):
    """A metric that can be named in a plan."""

    needs: Literal["logits", "features", "templates", "transfer", "boxes", "network"]
    """What is measured: outputs with labels, values of a tap, features of templates, features
    with those of training images, detections, or the network itself."""
    unit: str = ""
    larger_is_better: bool = True
    grouped: bool = False
    """It reads the superclasses of the data's classes."""
    drawn: bool = False
    """It is a plot first; its number says little by itself."""


DEEPEST = 2000
"""Layers that kdplan's own networks have at most."""
_CLASSES = Param("classes", "classes", 10, "outputs: a number, or a set of classes", low=1)
_CHANNELS = Param("channels", "integer", 3, "channels of the images")

MODELS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec(
            "cifar_resnet",
            (
                Param("depth", "integer", 20, "6n + 2 with basic blocks, 9n + 2 with bottlenecks", high=DEEPEST),
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
            "Residual network for small images: taps `conv1`, `layer1`, `layer2`, `layer3`, `fc`.",
            implementation="kdplan.nn.models.cifar:cifar_resnet",
        ),
        Spec(
            "cifar_wide_resnet",
            (
                Param("depth", "integer", 16, "6n + 4", high=DEEPEST),
                Param("width", "number", 2.0, "factor on 16, 32, 64 channels"),
                _CLASSES,
                _CHANNELS,
                Param("dropout", "number", 0.0, "between a block's convolutions"),
            ),
            "Wide residual network for small images: taps `conv1`, `layer1`, `layer2`, `layer3`, `fc`.",
            implementation="kdplan.nn.models.cifar:cifar_wide_resnet",
        ),
        Spec(
            "cifar_resnext",
            (
                Param("depth", "integer", 29, "9n + 2", high=DEEPEST),
                Param("cardinality", "integer", 8, "groups of the 3 x 3 convolutions"),
                Param("width", "integer", 64, "channels of a group in `layer1`; twice and four times as many later"),
                _CLASSES,
                _CHANNELS,
            ),
            "ResNeXt for small images: taps `conv1`, `layer1`, `layer2`, `layer3`, `fc`.",
            implementation="kdplan.nn.models.resnext:cifar_resnext",
        ),
        Spec(
            "cifar_vgg",
            (
                Param("depth", "integer", 16, "8, 11, 13, 16 or 19", high=DEEPEST),
                _CLASSES,
                Param("width", "number", 1.0, "factor on 64, 128, 256, 512, 512 channels"),
                _CHANNELS,
            ),
            "VGG with batch norm and one linear layer for small images: taps `layer1` … `layer5`, `fc`.",
            implementation="kdplan.nn.models.vgg:cifar_vgg",
        ),
        Spec(
            "cifar_densenet",
            (
                Param("depth", "integer", 100, "6n + 4 with bottlenecks, 3n + 4 without", high=DEEPEST),
                Param("growth", "integer", 12, "channels that every layer adds"),
                Param("reduction", "number", 0.5, "part of the channels that a transition keeps"),
                Param("bottleneck", "boolean", True, "a 1 x 1 convolution before each 3 x 3 one"),
                Param("blocks", "integers", None, "layers of each block, in place of `depth`", low=1, high=DEEPEST),
                _CLASSES,
                _CHANNELS,
                Param("dropout", "number", 0.0, "of the new channels"),
            ),
            "DenseNet for small images, by default a DenseNet-BC: taps `conv1`, `layer1`, `transition1`, … `fc`.",
            implementation="kdplan.nn.models.densenet:cifar_densenet",
        ),
        Spec(
            "alexnet",
            (
                _CLASSES,
                Param(
                    "width",
                    "any",
                    1.0,
                    "factor on 64, 192, 384, 256, 256 channels and 4096, 4096 units, or these seven numbers",
                ),
                _CHANNELS,
                Param("dropout", "number", 0.5, "before `fc6` and `fc7`"),
                Param("weights", "string", None, "`IMAGENET1K_V1` (its file must be there), or a path; width 1 only"),
            ),
            "AlexNet for images of about 224 x 224, as torchvision has it: taps `conv1` … `conv5`, `fc6`, `fc7`, "
            "`fc8`, `relu1` … `relu7`, `pool1`, `pool2`, `pool5`.",
            implementation="kdplan.nn.models.alexnet:alexnet",
        ),
        Spec(
            "bn_inception",
            (
                _CLASSES,
                Param("base", "string", "mixed5c", "its last block; what follows is left out"),
                Param("pool", "integer", 1, "height and width that its maps are averaged to"),
                _CHANNELS,
            ),
            "Inception-V2 for images of about 224 x 224: taps `stem`, `mixed3b`, `mixed3c`, `mixed4a` … `mixed4e`, "
            "`mixed5a`, `mixed5b`, `mixed5c`, `fc`.",
            implementation="kdplan.nn.models.inception:bn_inception",
        ),
        Spec(
            "digits_net",
            (
                Param("width", "integer", 16, "channels of the stem; twice and four times as many later"),
                _CLASSES,
                Param("channels", "integer", 1, "channels of the images"),
                Param("blocks", "integer", 1, "convolutions in each of the two layers", high=DEEPEST),
            ),
            "Small convolutional network: taps `stem`, `layer1`, `layer2`, `fc`.",
            implementation="kdplan.nn.models.small:digits_net",
        ),
        Spec(
            "mlp",
            (
                Param("inputs", "integer", REQUIRED, "values in a sample"),
                Param("hidden", "integers", (64,), "sizes of the hidden layers", low=1),
                _CLASSES,
            ),
            "Multilayer perceptron on flattened samples: taps `layer1` … `fc`.",
            implementation="kdplan.nn.models.small:mlp",
        ),
        Spec(
            "conv1x1",
            (
                Param("inputs", "integer", REQUIRED, "channels that come in"),
                Param("outputs", "integer", REQUIRED, "channels that go out"),
                Param("bias", "boolean", False, "add a constant a channel"),
            ),
            "Linear map of channels at every position.",
            implementation="kdplan.nn.models.small:conv1x1",
        ),
        Spec(
            "linear",
            (
                Param("inputs", "integer", REQUIRED, "values that come in"),
                Param("outputs", "integer", REQUIRED, "values that go out"),
                Param("bias", "boolean", True, "add a constant"),
            ),
            "Linear map of vectors.",
            implementation="kdplan.nn.models.small:linear",
        ),
        Spec(
            "autoencoder",
            (
                Param("inputs", "integer", REQUIRED, "channels that come in"),
                Param("code", "integer", REQUIRED, "channels of the code"),
            ),
            "Squeezes channels of maps, or vectors, to a code and restores them: taps `code`, `output`.",
            implementation="kdplan.nn.models.small:autoencoder",
        ),
        Spec(
            "torchvision",
            (
                Param("name", "string", REQUIRED, 'e.g. "resnet18"'),
                Param(
                    "classes", "classes", None, "outputs; by default those of named weights, or the library's", low=1
                ),
                Param("weights", "string", None, "a name such as `IMAGENET1K_V1` (its file must be there), or a path"),
                _CHANNELS,
            ),
            "Any network of torchvision, by its name there.",
            more=True,
            implementation="kdplan.nn.models.zoo:torchvision",
        ),
        Spec(
            "detector",
            (
                Param("name", "choice", REQUIRED, "which one", choices=("retinanet", "faster_rcnn")),
                Param("backbone", "string", "resnet50", "residual network of torchvision"),
                Param("classes", "classes", 80, "without background", low=1),
                Param("weights", "string", None, "path of a file with weights of the whole detector"),
                Param("backbone_weights", "string", None, "a name such as `IMAGENET1K_V1`, or a path"),
                Param(
                    "norm",
                    "choice",
                    None,
                    "batch norm: `frozen` with weights, `batch` without",
                    choices=("frozen", "batch"),
                ),
                Param("detections", "integer", None, "most of an image; 300, or 100 for `faster_rcnn`"),
            ),
            "Detector of torchvision on a feature pyramid, for data with boxes: parts `backbone` (taps "
            "`backbone.body.layer1` … `backbone.fpn`) and `head`, or `rpn` and `roi_heads`. `net(inputs, targets)` has "
            "its losses: `classification`, `bbox_regression`; or `objectness`, `rpn_box_reg`, `classifier`, `box_reg`.",
            implementation="kdplan.nn.models.detection:detector",
        ),
        Spec(
            "timm",
            (
                Param("name", "string", REQUIRED, 'e.g. "vit_tiny_patch16_224"'),
                Param("classes", "classes", None, "outputs; by default the library's", low=1),
                Param("weights", "string", None, "path of a file"),
                Param("checkpoint", "string", None, "another word for `weights`"),
                _CHANNELS,
            ),
            "Any network of timm, by its name there.",
            more=True,
            implementation="kdplan.nn.models.zoo:timm",
        ),
    )
}

_GROUPS = Param("groups", "verticals", None, "verticals of the data; by default its own superclasses")

METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec(
            "top1",
            (),
            "Samples whose highest score is the label's.",
            needs="logits",
            unit="%",
            implementation="kdplan.nn.metrics:TopK",
        ),
        MetricSpec(
            "top5",
            (),
            "Samples whose label is among the five highest scores.",
            needs="logits",
            unit="%",
            implementation="kdplan.nn.metrics:top5",
        ),
        MetricSpec(
            "topk",
            (Param("k", "integer", REQUIRED, "how many scores count", low=1),),
            "Samples whose label is among the k highest scores.",
            needs="logits",
            unit="%",
            implementation="kdplan.nn.metrics:TopK",
        ),
        MetricSpec(
            "error",
            (),
            "100 - top1.",
            needs="logits",
            unit="%",
            larger_is_better=False,
            implementation="kdplan.nn.metrics:Error",
        ),
        MetricSpec(
            "cross_entropy",
            (),
            "Mean softmax cross-entropy with the labels.",
            needs="logits",
            unit="nats",
            larger_is_better=False,
            implementation="kdplan.nn.metrics:CrossEntropy",
        ),
        MetricSpec(
            "ece",
            (Param("bins", "integer", 15, "intervals of confidence, equally wide", low=1, high=10_000),),
            "Expected calibration error: mean distance of confidence and accuracy.",
            needs="logits",
            unit="%",
            larger_is_better=False,
            implementation="kdplan.nn.metrics:CalibrationError",
        ),
        MetricSpec(
            "mean",
            (Param("unit", "integer", None, "which value of a sample, from 0; by default all of them"),),
            "Mean of a tap's values (maps are averaged over positions): how much each branch counts, of a gate.",
            needs="features",
            unit="value",
            implementation="kdplan.nn.metrics:Mean",
        ),
        MetricSpec(
            "tar",
            (Param("far", "number", REQUIRED, "share of impostor pairs that may be accepted", above=0, high=1),),
            "True accept rate in verification, of pairs of templates of one subject, at a false accept rate; one "
            "number for each split of the protocol.",
            needs="templates",
            unit="%",
        ),
        MetricSpec(
            "rank",
            (Param("k", "integer", REQUIRED, "how many subjects count", low=1),),
            "Probes whose subject is among the k most similar ones in the gallery; one number for each split.",
            needs="templates",
            unit="%",
        ),
        MetricSpec(
            "tsne",
            (
                Param("classes", "integer", 10, "how many classes, drawn at random", low=1),
                Param("samples", "integer", 500, "how many samples of them, at most", low=4),
                Param("seed", "integer", 0, "which classes and samples"),
            ),
            "A plot: features of some classes in two dimensions (t-SNE; maps are averaged over positions). The number "
            "is how well the classes are apart there, their silhouette, from -1 to 1.",
            drawn=True,
            needs="features",
            unit="silhouette",
        ),
        MetricSpec(
            "score",
            (Param("k", "integer", 1, "which score, counted from the highest", low=1),),
            "Mean of the k-th highest softmax score.",
            needs="logits",
            unit="%",
            implementation="kdplan.nn.scores:Score",
        ),
        MetricSpec(
            "confusion",
            (Param("k", "integer", 1, "which score, counted from the highest", low=1),),
            "A plot: how often samples of each class have each class as that with the k-th highest score. The "
            "number is the share on the diagonal, for k = 1 the accuracy.",
            drawn=True,
            needs="logits",
            unit="%",
            implementation="kdplan.nn.scores:Confusion",
        ),
        MetricSpec(
            "siblings",
            (
                Param("k", "integer", 2, "which score, counted from the highest", low=1),
                _GROUPS,
            ),
            "Samples whose k-th highest score is of another class of their label's superclass.",
            needs="logits",
            unit="%",
            grouped=True,
            implementation="kdplan.nn.scores:Siblings",
        ),
        MetricSpec(
            "mpvap",
            (_GROUPS,),
            "Mean over verticals of the mean average precision of a vertical's classes on its own samples, with scores "
            "cut to these classes. Reads the data twice.",
            needs="logits",
            unit="%",
            grouped=True,
            implementation="kdplan.nn.precision:GroupPrecision",
        ),
        MetricSpec(
            "pvap",
            (
                Param("part", "integer", None, "which of the verticals that the data has classes of, from 0", low=0),
                _GROUPS,
            ),
            "The same for one vertical; without `part` mean average precision over all classes that are measured.",
            needs="logits",
            unit="%",
            grouped=True,
            implementation="kdplan.nn.precision:GroupPrecision",
        ),
        MetricSpec(
            "class_distance",
            (_GROUPS,),
            "Mean angle between a class's mean feature and its superclass's (DistC; maps are averaged over positions).",
            needs="features",
            unit="rad",
            larger_is_better=False,
            grouped=True,
            implementation="kdplan.nn.geometry:ClassDistance",
        ),
        MetricSpec(
            "superclass_distance",
            (_GROUPS,),
            "Mean angle between a superclass's mean feature and the mean of all superclasses' (DistS).",
            needs="features",
            unit="rad",
            grouped=True,
            implementation="kdplan.nn.geometry:SuperclassDistance",
        ),
        MetricSpec(
            "svm",
            (
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
            "Samples that a linear SVM gives their label: it is trained on features of the same data's `train` part "
            "(maps are averaged over positions), whose classes need not be the network's.",
            needs="transfer",
            unit="%",
            implementation="kdplan.nn.transfer:LinearSvm",
        ),
        *(
            MetricSpec(name, (), f"Average precision of boxes in COCO's manner, {what}.", needs="boxes", unit="%")
            for name, what in (
                ("ap", "mean over overlaps from 0.50 to 0.95"),
                ("ap50", "at an overlap of 0.50"),
                ("ap75", "at an overlap of 0.75"),
                ("ap_small", "of boxes below 32² pixels"),
                ("ap_medium", "of boxes from 32² to 96² pixels"),
                ("ap_large", "of boxes above 96² pixels"),
            )
        ),
        MetricSpec(
            "parameters",
            (),
            "Parameters of the network, or of what a tap needs, as it is exported.",
            needs="network",
            larger_is_better=False,
        ),
        MetricSpec(
            "flops",
            (),
            "Floating-point operations of one sample, 2 a multiply-add.",
            needs="network",
            larger_is_better=False,
        ),
        MetricSpec(
            "training_flops",
            (),
            "Floating-point operations of one sample forward through all networks of the phase that trained it, as far "
            "as its loss needs them; of several such phases their sum.",
            needs="network",
            larger_is_better=False,
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
    return spec is not None and spec.grouped and (spec.param("part") is None or bool(given & {"part", "groups"}))

"""Networks, inputs and the hand-written reference step that the graph tests compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.nn.models.cifar import cifar_resnet

CLASSES = 10


def _vgg() -> nn.Module:
    net: nn.Module = torchvision.models.vgg16_bn(num_classes=CLASSES)
    # The features are what counts here; the original classifier alone would take half a gigabyte.
    head = net.get_submodule("classifier")
    assert isinstance(head, nn.Sequential)
    head[0], head[3], head[6] = nn.Linear(25088, 32), nn.Linear(32, 32), nn.Linear(32, 10)
    return net


def _vit() -> nn.Module:
    net: nn.Module = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=96, dropout=0.1, num_classes=10
    )
    return net


@dataclass(frozen=True)
class Case:
    """A network with a tap in its middle; `clone` where an in-place operation follows the tap."""

    make: Callable[[], nn.Module]
    tap: str
    size: int = 32
    clone: bool = False


CASES: dict[str, Case] = {
    "cifar_resnet8": Case(lambda: cifar_resnet(depth=8), "layer2"),
    "cifar_resnet20": Case(lambda: cifar_resnet(depth=20), "layer2.1.bn2"),
    "resnet18": Case(lambda: torchvision.models.resnet18(num_classes=CLASSES), "layer2.0.bn1", clone=True),
    "resnet34": Case(lambda: torchvision.models.resnet34(num_classes=CLASSES), "layer3"),
    "resnet50": Case(lambda: torchvision.models.resnet50(num_classes=CLASSES), "layer1.2"),
    "vgg16_bn": Case(_vgg, "features.15", clone=True),
    "densenet121": Case(lambda: torchvision.models.densenet121(num_classes=CLASSES), "features.denseblock2"),
    "mobilenet_v3_small": Case(
        lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES), "features.4.block.1"
    ),
    "vit": Case(_vit, "encoder.layers.encoder_layer_1"),
    "timm_efficientnet_b0": Case(
        lambda: timm.create_model("efficientnet_b0", num_classes=CLASSES, drop_path_rate=0.2, drop_rate=0.2), "blocks.2"
    ),
    "timm_deit_tiny": Case(
        lambda: timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=CLASSES, drop_path_rate=0.1),
        "blocks.5",
    ),
}


def batch(size: int, count: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images [count, 3, size, size] and labels [count]."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=g), torch.randint(0, CLASSES, (count,), generator=g)


def hooked_step(student: nn.Module, teacher: nn.Module, case: Case, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy plus squared differences at the tap and at the logits, with forward hooks."""
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_m: nn.Module, _i: object, out: Tensor) -> None:
            # A clone changes the order in which autograd adds up three gradients, so only where it is needed.
            caught[name] = out.clone() if case.clone else out

        return hook

    handles = [
        student.get_submodule(case.tap).register_forward_hook(keep("student")),
        teacher.get_submodule(case.tap).register_forward_hook(keep("teacher")),
    ]
    with torch.no_grad():
        target = teacher(x)
    logits = student(x)
    for h in handles:
        h.remove()
    loss = F.cross_entropy(logits, y) + F.mse_loss(caught["student"], caught["teacher"]) + F.mse_loss(logits, target)
    return loss

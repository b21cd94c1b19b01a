"""Detectors beside torchvision's own: the same losses, the same detections, the same names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import faster_rcnn, retinanet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from kdplan.graph.build import Builder
from kdplan.graph.cost import cost
from kdplan.graph.reach import gradient_reach
from kdplan.graph.trace import trace
from kdplan.nn.models import create, initialise
from kdplan.nn.models.detection import detector, listed, padded
from kdplan.nn.weight_fit import MisfitError

CLASSES, SIZE = 3, (96, 128)
KINDS = ("retinanet", "faster_rcnn")


def ours(name: str) -> nn.Module:
    return initialise(lambda: detector(name, "resnet18", classes=CLASSES, norm="batch"), 5)


def theirs(name: str) -> nn.Module:
    """torchvision's own, with the weights of ours; its transform left out, since the images are ready."""
    if name == "retinanet":
        body = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d,
            returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256),
        )  # fmt: skip
        net: nn.Module = retinanet.RetinaNet(body, CLASSES)
    else:
        body = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d
        )
        net = faster_rcnn.FasterRCNN(body, CLASSES + 1)

    class Ready(nn.Module):
        def forward(self, images: list[Tensor], targets: Any = None) -> Any:
            return ImageList(torch.stack(images), [SIZE] * len(images)), targets

        def postprocess(self, found: Any, sizes: Any, original: Any) -> Any:
            return found

    net.transform = Ready()
    net.load_state_dict(ours(name).state_dict())
    return net


def example() -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *SIZE, generator=generator)
    boxes = torch.zeros(2, 4, 4)
    for m, box in enumerate(([8, 8, 60, 70], [30, 40, 90, 90], [1, 1, 50, 50])):
        boxes[0, m] = torch.tensor(box)
    boxes[1, 0] = torch.tensor([20.0, 10.0, 100.0, 80.0])
    labels = torch.tensor([[0, 2, 1, -1], [1, -1, -1, -1]])
    crowd = torch.zeros(2, 4, dtype=torch.bool)
    crowd[0, 2] = True  # never trained on
    return images, {"boxes": boxes, "labels": labels, "crowd": crowd, "sizes": torch.tensor([SIZE, SIZE]).float()}


@pytest.mark.parametrize("name", KINDS)
def test_losses_and_gradients_are_torchvisions(name: str) -> None:
    images, targets = example()
    a, b = ours(name).train(), theirs(name).train()
    torch.manual_seed(0)
    mine = a(images, targets)
    torch.manual_seed(0)
    first = 0 if name == "retinanet" else 1
    real = b(list(images), listed(targets, first))
    assert {n: v.item() for n, v in mine.items()} == pytest.approx(
        {n.removeprefix("loss_"): v.item() for n, v in real.items()}, rel=1e-6
    )
    sum(mine.values()).backward()
    sum(real.values()).backward()
    gradients = {n: p.grad for n, p in b.named_parameters()}
    for n, p in a.named_parameters():
        assert torch.allclose(p.grad, gradients[n], atol=1e-7, rtol=1e-5), n


@pytest.mark.parametrize("name", KINDS)
def test_detections_are_torchvisions(name: str) -> None:
    images, _ = example()
    a, b = ours(name).eval(), theirs(name).eval()
    for net in (a, b):  # low scores of an untrained network count too
        for m in net.modules():
            if hasattr(m, "score_thresh"):
                m.score_thresh = 0.0
        if name == "retinanet":
            nn.init.zeros_(net.head.classification_head.cls_logits.bias)
    if name == "retinanet":
        a.detections.__dict__["model"].score_thresh = 0.0
    with torch.no_grad():
        mine, real = a(images), b(list(images))
    first = 0 if name == "retinanet" else 1
    for n, one in enumerate(real):
        count = len(one["scores"])
        assert count > 20 and (mine["labels"][n] >= 0).sum() == count
        assert torch.equal(mine["labels"][n, :count], one["labels"] - first)
        assert torch.allclose(mine["boxes"][n, :count], one["boxes"], atol=1e-4)
        assert torch.allclose(mine["scores"][n, :count], one["scores"], atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_names_are_torchvisions(name: str) -> None:
    assert list(ours(name).state_dict()) == list(theirs(name).state_dict())


@pytest.mark.parametrize("name", KINDS)
def test_a_trace_has_the_shapes_that_really_come_out(name: str) -> None:
    images, targets = example()
    net = ours(name)
    for inputs, training in (((images, targets), True), ((images, targets), False), ((images,), False)):
        net.train(training)
        traced = trace(net, *inputs)
        with torch.no_grad():
            torch.manual_seed(0)
            real = net(*inputs)
            torch.manual_seed(0)
            replayed = traced.graph_module(*[v for i in inputs for v in (i.values() if isinstance(i, dict) else [i])])
        for key, value in real.items():
            fake = traced.taps[key].node.meta["val"]
            for index in traced.taps[key].index:
                fake = fake[index]
            assert tuple(fake.shape) == tuple(value.shape) and fake.dtype == value.dtype, key
            assert torch.allclose(value.float(), replayed[key].float(), atol=1e-5), key


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_gets_its_gradient_and_heads_are_counted(name: str) -> None:
    images, targets = example()
    net = ours(name).train()
    builder = Builder()
    x = builder.input("inputs", images)
    nodes = {n: builder.input(n, t) for n, t in targets.items()}
    builder.network("net", net)
    losses = [builder.apply("net", (x, nodes), n) for n in net(images, targets)]
    total = losses[0]
    for other in losses[1:]:
        total = builder.call(torch.add, total, other)
    gm = builder.finish({"loss": total}).graph_module
    names = {f"nets.net.{n}" for n, _ in net.named_parameters()}
    assert gradient_reach(gm).whole == names
    counted = cost(gm, names)
    assert counted.parameters == sum(p.numel() for p in net.parameters())
    # frozen backbone: the head alone gets gradients
    head = {n for n in names if not n.startswith("nets.net.backbone")}
    assert cost(gm, head).flops_step < counted.flops_step


def test_images_without_boxes_are_trained_on() -> None:
    images, targets = example()
    targets["labels"] = torch.full_like(targets["labels"], -1)
    for name in KINDS:
        found = ours(name).train()(images, targets)
        assert all(torch.isfinite(v) for v in found.values())


def test_padding() -> None:
    one = {"boxes": torch.arange(8.0).view(2, 4), "scores": torch.tensor([0.9, 0.5]), "labels": torch.tensor([1, 2])}
    found = padded([one, {k: v[:0] for k, v in one.items()}], 1, 1, torch.zeros(1))
    assert found["labels"].tolist() == [[0], [-1]] and found["boxes"][0, 0].tolist() == [0, 1, 2, 3]


def test_weights_of_files(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    net = ours("retinanet")
    save_file(net.state_dict(), tmp_path / "whole.safetensors")
    again = create("detector", name="retinanet", backbone="resnet18", classes=CLASSES, norm="batch",
                   weights=str(tmp_path / "whole.safetensors"))  # fmt: skip
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    with pytest.raises(MisfitError, match=r"`head.classification_head.cls_logits.weight` is \[27"):
        create("detector", name="retinanet", backbone="resnet18", classes=7, norm="batch",
               weights=str(tmp_path / "whole.safetensors"))  # fmt: skip
    save_file({f"{k}": v for k, v in net.backbone.body.state_dict().items()}, tmp_path / "body.safetensors")
    third = create("detector", name="faster_rcnn", backbone="resnet18", classes=2,
                   backbone_weights=str(tmp_path / "body.safetensors"))  # fmt: skip
    assert torch.equal(third.backbone.body.layer4[0].conv1.weight, net.backbone.body.layer4[0].conv1.weight)
    with pytest.raises(ValueError, match="the file lacks"):
        create("detector", name="faster_rcnn", weights=str(tmp_path / "whole.safetensors"))
    with pytest.raises(ValueError, match="the file lacks"):
        create("detector", name="faster_rcnn", backbone_weights=str(tmp_path / "body.safetensors"))
    with pytest.raises(FileNotFoundError):
        create("detector", name="retinanet", weights="nowhere.pth")
    with pytest.raises(ValueError, match="did you mean `resnet18`"):
        create("detector", name="retinanet", backbone="resnet81")

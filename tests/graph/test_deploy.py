"""Deployment: the plain network, equal to the trained one, written without pickles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from kdplan.graph.build import Builder
from kdplan.graph.deploy import DeployError, deploy, export_program, load_into, parameter_count, save, verify_equal
from kdplan.nn.models.cifar import cifar_resnet


def test_a_trained_student_is_the_plain_architecture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = cifar_resnet(depth=8)
    b = Builder()
    x = b.input("inputs", torch.zeros(4, 3, 32, 32))
    b.network("small", net)
    fit = b.module("fit", nn.Conv2d(32, 7, 1), b.apply("small", (x,), "layer2"))
    gm = b.finish({"loss": b.call(torch.sum, fit)}).graph_module
    gm(inputs=torch.randn(4, 3, 32, 32))["loss"].backward()
    plain = deploy(net, "logits", torch.zeros(1, 3, 32, 32))
    other = cifar_resnet(depth=8)
    assert parameter_count(plain) == parameter_count(other)
    save(plain, tmp_path, {"model": "cifar_resnet", "settings": {"depth": 8}})
    load_into(other, tmp_path)
    assert verify_equal(plain, other, torch.zeros(5, 3, 32, 32)) == 0.0
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["tensors"]["fc.weight"]["dtype"] == "float32"


def test_an_inner_tap_is_a_cut_network() -> None:
    net = torchvision.models.resnet18(num_classes=5).train()
    cut = deploy(net, "layer2", torch.zeros(1, 3, 64, 64))
    assert net.training and not cut.training
    assert {n.split(".")[0] for n, _ in cut.named_parameters()} == {"conv1", "bn1", "layer1", "layer2"}
    caught = []
    net.eval().layer2.register_forward_hook(lambda m, i, o: caught.append(o))
    x = torch.randn(3, 3, 64, 64)
    net(x)
    assert torch.equal(cut(x), caught[0])


def test_unequal_networks_are_refused() -> None:
    with pytest.raises(DeployError, match="differ"):
        verify_equal(nn.Linear(3, 2), nn.Linear(3, 2), torch.zeros(2, 3))
    with pytest.raises(DeployError, match="shapes"):
        verify_equal(nn.Linear(3, 2), nn.Linear(3, 4), torch.zeros(2, 3))


@pytest.mark.slow
def test_export_program_has_a_free_batch_size(tmp_path: Path) -> None:
    net = cifar_resnet(depth=8).eval()
    export_program(net, tmp_path / "net.pt2", torch.zeros(1, 3, 32, 32))
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for n in (1, 2, 7):
        x = torch.randn(n, 3, 32, 32)
        torch.testing.assert_close(loaded(x), net(x))

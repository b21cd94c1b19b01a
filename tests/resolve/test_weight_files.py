"""`weights`, `rename`, `only`, `except` in plans: what they mean, what is in the key, and how they are written out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.compile import Compiled, compile_source
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir.origins import Copied, Fresh, Loaded
from kdplan.passes.expand import expand

PLAN = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  steps = 2 }
teacher big = MODEL
student small = digits_net(width = 2)
phase kd of small on digits with quick { loss = kl(small.logits, big.logits) }
"""
RENAME = 'rename = [["a.", ""], ["b.", "c."]]'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"content")
    return tmp_path


def compiled(folder: Path, model: str) -> Compiled:
    return compile_source(Source("plan.kd", PLAN.replace("MODEL", model)), folder)


def key(folder: Path, model: str) -> str:
    return compiled(folder, model).keys["kd"].key


@pytest.mark.parametrize(
    "model",
    [
        'digits_net(width = 4) { weights = "w.pth" }',
        'digits_net(width = 4) { weights = "w.pth"  only = [layer1, layer2[0].conv] }',
        f'digits_net(width = 4) {{ weights = "w.pth"  except = [fc]  {RENAME} }}',
        'torchvision("resnet18", weights = "w.pth", classes = 5) { except = [fc] }',
        'torchvision("googlenet", weights = "w.pth")',
        'timm("resnet10t", checkpoint = "w.safetensors", channels = 1)',
        'alexnet(weights = "w.pth") { except = [fc8] }',
        'torchvision("resnet18", weights = "IMAGENET1K_V1")',
        f'torchvision("resnet18", classes = 5, weights = "IMAGENET1K_V1") {{ except = [fc]  {RENAME} }}',
    ],
)
def test_expanded_again_it_has_the_same_key(folder: Path, model: str) -> None:
    once = compiled(folder, model)
    text = expand(once.plan)
    again = compile_source(Source("plan.kd", text), Path("/"))
    assert again.keys["kd"].key == once.keys["kd"].key
    assert expand(again.plan) == text


def test_settings_and_content_are_in_the_key_and_names_are_not(folder: Path) -> None:
    settings = ["", "except = [fc]", "only = [fc]", RENAME, 'rename = [["b.", "c."], ["a.", ""]]']
    keys = [key(folder, f'digits_net(width = 4) {{ weights = "w.pth"  {s} }}') for s in settings]
    assert len({*keys}) == len(settings)
    assert key(folder, 'digits_net(width = 4) { weights = "w.safetensors" }') == keys[0]
    (folder / "w.pth").write_bytes(b"other content")
    assert key(folder, 'digits_net(width = 4) { weights = "w.pth" }') != keys[0]


def test_the_seed_counts_where_it_draws_the_rest(folder: Path) -> None:
    whole, part = ([key(folder, f'digits_net() {{ weights = "w.pth"  seed = {s}  {more} }}') for s in (0, 1)]
                   for more in ("", "except = [fc]"))  # fmt: skip
    assert whole[0] == whole[1] and part[0] != part[1]


def test_weights_alone_have_the_content_of_before(folder: Path) -> None:
    plan = compiled(folder, 'digits_net(width = 4) { weights = "w.pth" }').plan
    network = plan.networks["big"]
    content = network.origin.content(network.seed, network.architecture.arguments, str)
    assert isinstance(network.origin, Loaded) and content == {"loaded": network.origin.fingerprint}


def test_a_path_of_an_architecture_is_the_setting(folder: Path) -> None:
    as_setting = key(folder, 'torchvision("resnet18", classes = 10) { weights = "w.pth" }')
    assert key(folder, 'torchvision("resnet18", classes = 10, weights = "w.pth")') == as_setting


def test_named_weights_stay_in_the_architecture_and_count_as_trained(folder: Path) -> None:
    plan = compiled(folder, 'torchvision("resnet18", weights = "IMAGENET1K_V1")\nstudent next = big').plan
    network = plan.networks["big"]
    assert isinstance(network.origin, Fresh)
    assert network.architecture.arguments == {"name": "resnet18", "weights": "IMAGENET1K_V1"}
    assert isinstance(plan.networks["next"].origin, Copied)


@pytest.mark.parametrize(
    ("model", "code", "at"),
    [
        ("digits_net() { except = [fc] }", "KD0834", "[fc]"),
        ('digits_net() { weights = "absent.pth" }', "KD0211", '"absent.pth"'),
        ('torchvision("resnet18", weights = "absent.pth")', "KD0211", '"absent.pth"'),
        ('timm("resnet10t", checkpoint = "absent")', "KD0211", '"absent"'),
        ('digits_net() { weights = "w.pth"  rename = ["a.", "b.", "c."] }', "KD0244", '["a.", "b.", "c."]'),
        ('digits_net() { weights = "w.pth"  rename = 3 }', "KD0244", "3"),
    ],
)
def test_mistakes(folder: Path, model: str, code: str, at: str) -> None:
    with pytest.raises(PlanError) as raised:
        compiled(folder, model)
    [message] = raised.value.diagnostics
    assert message.code == code and message.span is not None and message.span.text == at

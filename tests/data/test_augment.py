"""Augmentation: right pictures, and the same bits however a batch is split."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.data.augment import HeldNumbers, Numbers, augment, crop, window_resize, windows
from kdplan.data.transforms import TRANSFORMS, out_shape, steps, transform

CALLS = [
    transform("pad_crop", [20], {"pad": 3, "fill": 9}),
    transform("random_crop", [12]),
    transform("flip"),
    transform("random_resized_crop", [13]),
    transform("random_resized_crop", [32], {"scale": [0.2, 1.0]}),
    transform("aspect", [1.5]),
    transform("rotation", [30], {"fill": 100}),
    transform("color_jitter", [0.4, 0.4, 0.4, 0.1]),
    transform("cutout", [7]),
    transform("resize", [15]),
    transform("center_crop", [11]),
    transform("grayscale"),
    transform("to_rgb"),
]


def _images(n=24, c=3, h=20, w=24, seed=0):
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _run(x, calls, index, seed=3, epoch=2, **kwargs):
    return augment(x, steps(calls, train=True), index, Numbers(seed, epoch, **kwargs))


def test_every_transform_is_covered():
    assert {c.name for c in CALLS} == set(TRANSFORMS)


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_bits_do_not_depend_on_the_batch(call, kind):
    x = _images() if kind == "uint8" else _images().float() / 255
    index = torch.arange(100, 124)
    whole = _run(x, [call], index)
    assert whole.dtype == x.dtype
    assert whole.shape[1:] == torch.Size(out_shape((3, 20, 24), [call]))
    single = torch.cat([_run(x[i : i + 1], [call], index[i : i + 1]) for i in range(24)])
    assert torch.equal(whole, single)
    mixed = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(whole[mixed], _run(x[mixed], [call], index[mixed]))


@given(st.permutations(range(len(CALLS))), st.integers(1, 23), st.integers(0, 2**63))
@settings(max_examples=10, deadline=None)
def test_chains_do_not_depend_on_the_batch(chosen, cut, seed):
    calls = [CALLS[i] for i in chosen[:3] if CALLS[i].name not in ("pad_crop", "random_crop", "center_crop")]
    x, index = _images(c=1), torch.arange(24)
    whole = _run(x, calls, index, seed=seed)
    parts = [_run(x[:cut], calls, index[:cut], seed=seed), _run(x[cut:], calls, index[cut:], seed=seed)]
    assert torch.equal(whole, torch.cat(parts))


def test_epochs_seeds_streams_and_positions_differ():
    x, index, call = _images(), torch.arange(24), CALLS[0]
    base = _run(x, [call], index)
    for other in (
        _run(x, [call], index, epoch=3),
        _run(x, [call], index, seed=4),
        _run(x, [call], index, stream=1),
        _run(x, [call], index + 24),
    ):
        assert not torch.equal(base, other)


def test_pad_crop_takes_a_window_of_the_padded_image():
    x = _images(400, 1, 8, 8)
    out = _run(x, [transform("pad_crop", [8], {"pad": 2, "fill": 77})], torch.arange(400))
    padded = torch.nn.functional.pad(x.float(), (2, 2, 2, 2), value=77).to(torch.uint8)
    places = set()
    for i in range(400):
        fits = [
            (t, u) for t in range(5) for u in range(5) if torch.equal(out[i], padded[i, :, t : t + 8, u : u + 8])
        ]  # fmt: skip
        assert len(fits) == 1
        places.add(fits[0])
    assert len(places) == 25


def test_flip_happens_half_the_time():
    x = _images(4000, 1, 2, 3)
    out = _run(x, [transform("flip")], torch.arange(4000))
    flipped = (out == x.flip(3)).flatten(1).all(1)
    kept = (out == x).flatten(1).all(1)
    assert bool((flipped | kept).all())
    assert abs(flipped.float().mean() - 0.5) < 0.05
    assert torch.equal(_run(x, [transform("flip", [0.0])], torch.arange(4000)), x)
    assert torch.equal(_run(x, [transform("flip", [1.0])], torch.arange(4000)), x.flip(3))


def test_cutout_fills_a_square_whose_middle_is_inside():
    x = torch.full((300, 1, 12, 12), 200, dtype=torch.uint8)
    out = _run(x, [transform("cutout", [4])], torch.arange(300))
    holes = (out == 0).sum((1, 2, 3))
    assert holes.max() == 16
    assert holes.min() >= 4


@pytest.mark.parametrize("size", [(7, 9), (20, 24), (50, 61)])
def test_scaling_agrees_with_torchvision(size):
    x = _images(4)
    zero = torch.zeros(4, dtype=torch.long)
    ours = window_resize(x, zero, zero, zero + 20, zero + 24, size).float()
    theirs = F.resize(x.float(), list(size), antialias=True)
    assert (ours - theirs).abs().max() <= 1.01  # we round after each axis


def test_scaling_a_window_sees_nothing_outside():
    x = _images(4)
    top, left = torch.tensor([0, 3, 5, 9]), torch.tensor([1, 0, 7, 12])
    height, width = torch.tensor([20, 10, 4, 11]), torch.tensor([3, 24, 17, 12])
    ours = window_resize(x, top, left, height, width, (16, 16))
    for i in range(4):
        t, l, h, w = int(top[i]), int(left[i]), int(height[i]), int(width[i])  # noqa: E741
        theirs = F.resize(x[i, :, t : t + h, l : l + w].float(), [16, 16], antialias=True)
        assert (ours[i].float() - theirs).abs().max() <= 1.01


@pytest.mark.parametrize(
    "call", [transform("random_resized_crop", [13]), transform("resize", [15]), transform("aspect")]
)
def test_images_alone_are_scaled_alike(call):
    x, index = _images(1), torch.tensor([4])
    todo = steps([call], train=True)
    together = augment(x, todo, index, Numbers(3, 2))
    alone = augment(x, todo, index, Numbers(3, 2), alone=True)
    assert alone.shape == together.shape
    assert (alone.int() - together.int()).abs().max() <= 1


def test_random_resized_crop_has_the_areas_and_aspects_asked_for():
    # Coordinates as pictures: the window shows in what comes out.
    ramp = torch.arange(100.0) / 100
    x = torch.stack([ramp[:, None].expand(100, 100), ramp[None, :].expand(100, 100)])[None].expand(600, -1, -1, -1)
    out = _run(x, [transform("random_resized_crop", [50], {"scale": [0.25, 0.81]})], torch.arange(600))
    height = (out[:, 0, 40, 25] - out[:, 0, 10, 25]) * 100 * 50 / 30
    width = (out[:, 1, 25, 40] - out[:, 1, 25, 10]) * 100 * 50 / 30
    area, ratio = height * width / 1e4, width / height
    assert 0.23 < area.min() < 0.28 and 0.78 < area.max() < 0.83
    assert abs(area.mean() - 0.53) < 0.03
    assert 0.72 < ratio.min() < 0.78 and 1.29 < ratio.max() < 1.37
    assert abs(ratio.log().mean()) < 0.02


def test_rotation_by_nothing_changes_nothing_and_turns_are_turns():
    x = _images(2)
    assert torch.equal(_run(x, [transform("rotation", [0])], torch.arange(2)), x)
    disc = torch.zeros(50, 1, 33, 33, dtype=torch.uint8)
    disc[:, :, 4, 16] = 255
    out = _run(disc, [transform("rotation", [90])], torch.arange(50)).float()
    ys, xs = torch.arange(33.0) - 16, torch.arange(33.0) - 16
    mass = out.sum((1, 2, 3))
    y, x0 = (out[:, 0].sum(2) * ys).sum(1) / mass, (out[:, 0].sum(1) * xs).sum(1) / mass
    assert torch.allclose((y**2 + x0**2).sqrt(), torch.tensor(12.0), atol=0.2)
    assert x0.min() < -9 and x0.max() > 9


@pytest.mark.parametrize(
    ("arg", "reference"),
    [
        ("brightness", lambda x, u: F.adjust_brightness(x, 1 + 0.4 * u)),
        ("contrast", lambda x, u: F.adjust_contrast(x, 1 + 0.4 * u)),
        ("saturation", lambda x, u: F.adjust_saturation(x, 1 + 0.4 * u)),
        ("hue", lambda x, u: F.adjust_hue(x, 0.4 * u)),
    ],
)
def test_color_jitter_agrees_with_torchvision(arg, reference):
    from kdplan.data.augment import Draws

    x, index = _images(6), torch.arange(6)
    which = ("brightness", "contrast", "saturation", "hue").index(arg)
    u = Draws(index, Numbers(3, 2), 0).uniform()[which] * 2 - 1
    ours = _run(x, [transform("color_jitter", [], {arg: 0.4})], index).float()
    for i in range(6):
        theirs = reference(x[i].float() / 255, float(u[i])) * 255
        assert (ours[i] - theirs).abs().max() < 1.2


def test_measuring_leaves_random_changes_out_and_keeps_the_shape():
    calls = [transform("random_resized_crop", [16]), transform("flip"), transform("color_jitter", [0.4])]
    done = steps(calls, train=False)
    assert [t.name for _, t in done] == ["resize", "center_crop"]
    assert out_shape((3, 32, 40), calls, train=False) == out_shape((3, 32, 40), calls, train=True) == (3, 16, 16)


def test_held_numbers_are_the_same_numbers():
    index = torch.tensor([5, 0, 99])
    held = HeldNumbers(100, torch.device("cpu"), 3, 2, 1)
    for slot in (0, 64, 0):
        assert all(map(torch.equal, held.words(index, slot), Numbers(3, 2, 1).words(index, slot)))


def test_measuring_pads_where_training_does():
    calls = [transform("pad_crop", [24], {"pad": 3, "fill": 5})]
    x = _images(h=20, w=20)
    out = augment(x, steps(calls, train=False), torch.arange(24), Numbers(0, 0))
    assert torch.equal(out[:, :, 2:22, 2:22], x)
    assert bool((out[:, :, :2] == 5).all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_devices_agree(call):
    x, index = _images(), torch.arange(24)
    here, there = _run(x, [call], index), _run(x.cuda(), [call], index.cuda()).cpu()
    words = [torch.stack(Numbers(3, 2).words(i, 1)).cpu() for i in (index, index.cuda())]
    assert torch.equal(*words)
    # Sines and logarithms may differ in their last bit, and so a rounded value by one.
    assert (here.int() - there.int()).abs().max() <= (1 if call.name in ("rotation", "color_jitter") else 0)


def test_crop_is_a_window():
    x = _images(2)
    out = crop(x, torch.tensor([2, 5]), torch.tensor([1, 0]), (4, 6))
    assert torch.equal(out[1], x[1, :, 5:9, 0:6])
    assert np.array_equal(out[0].numpy(), x[0, :, 2:6, 1:7].numpy())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize(("n", "c", "h", "w", "size", "pad"), [
    (5, 3, 9, 7, (6, 4), 0), (5, 1, 8, 8, (8, 8), 1), (1, 3, 4, 4, (10, 10), 3), (4, 2, 5, 6, (1, 1), 2),
    (3, 1, 1, 1, (1, 1), 0), (6, 3, 8, 8, (16, 16), 4),
])  # fmt: skip
@pytest.mark.parametrize("last", [False, True])
def test_windows_are_crops(dtype, n, c, h, w, size, pad, last):
    """One gather of windows gives the pixels that one of pixels gives, whatever the order in memory."""
    g = torch.Generator().manual_seed(n)
    x = torch.randint(0, 256, (n, c, h, w), generator=g).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    top = torch.randint(0, h + 2 * pad - size[0] + 1, (n,), generator=g)
    left = torch.randint(0, w + 2 * pad - size[1] + 1, (n,), generator=g)
    fill = 7 if dtype != torch.int64 else 0
    one = windows(x, top * (w + 2 * pad) + left, size, fill, pad)
    other = crop(x, top - pad, left - pad, size, fill)
    assert one.dtype == other.dtype and torch.equal(one, other)

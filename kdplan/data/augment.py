"""Augmentation of whole batches with tensor operations, on any device.

Every random number belongs to one sample: (seed, stream, epoch, index, position in the list). Images stay `uint8`
until `normalize`; what is summed is summed in whole numbers. So a sample comes out with the same bits whatever batch
it is in. Float inputs are taken to be on the scale from 0 to 1, and are not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdplan.data.params import Arguments
from kdplan.data.philox import AUGMENT, below, words
from kdplan.data.transforms import TRANSFORMS, resized
from kdplan.data.view import Transform
from kdplan.ir.implementation import load

_ONE = 1 << 15
"""Weights of interpolation are multiples of 1/_ONE: 255 * _ONE is exact in float32."""


Words = tuple[Tensor, Tensor, Tensor, Tensor]


class Numbers:
    """The random numbers of one epoch of one stream.

    Parameters
    ----------
    seed, epoch, stream : int

    Examples
    --------
    >>> [int(w) for w in Numbers(0, 0).words(torch.tensor([7]), slot=1)]
    [774352997, 223576231, 133681510, 660800035]
    """

    def __init__(self, seed: int, epoch: int, stream: int = 0) -> None:
        self.seed, self.epoch, self.stream = seed, epoch, stream

    def words(self, index: Tensor, slot: int) -> Words:
        """Four 32-bit words a sample: index int64 [B] -> int64 [B] each."""
        setting = {"seed": self.seed, "epoch": self.epoch, "purpose": AUGMENT, "slot": slot, "stream": self.stream}
        if index.device.type != "cpu":
            return words(index, **setting)
        # The same bits; numpy's small operations are several times faster.
        a, b, c, d = words(index.numpy(), **setting)
        return torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(c), torch.from_numpy(d)

    def of(self, index: Tensor, slot: int, make: Callable[[Words], Tensor]) -> Tensor:
        """What `make` gives for the words of each sample, [B]. It must be one function for a slot."""
        return make(self.words(index, slot))


class HeldNumbers(Numbers):
    """`Numbers` that are worked out for all samples at once, and then looked up: for sets that are held on the device.

    Parameters
    ----------
    n : int
        How many samples there are.
    device : torch.device
    seed, epoch, stream : int
    """

    def __init__(self, n: int, device: torch.device, seed: int, epoch: int, stream: int = 0) -> None:
        super().__init__(seed, epoch, stream)
        self._all = torch.arange(n, device=device)
        self._held: dict[int, Tensor] = {}
        self._made: dict[int, Tensor] = {}

    def words(self, index: Tensor, slot: int) -> Words:
        """Four 32-bit words a sample, looked up: index int64 [B] -> int64 [B] each."""
        if slot not in self._held:
            self._held[slot] = torch.stack(super().words(self._all, slot))
        a, b, c, d = self._held[slot].index_select(1, index).unbind(0)
        return a, b, c, d

    def of(self, index: Tensor, slot: int, make: Callable[[Words], Tensor]) -> Tensor:
        """What `make` gives for the words of each sample, [B]: made for all samples at once, and looked up."""
        if slot not in self._made:
            self._made[slot] = make(super().words(self._all, slot))
        return self._made[slot].index_select(0, index)


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one transform for a batch of samples.

    Parameters
    ----------
    index : Tensor
        int64 [B], on the batch's device.
    numbers : Numbers
    slot : int
        The transform's position in its list.
    alone : bool
        Whether images always come one by one; see `augment`.
    """

    index: Tensor
    numbers: Numbers
    slot: int
    alone: bool = False

    def words(self, block: int = 0) -> Words:
        """Four 32-bit words a sample, int64 [B] each."""
        assert 0 <= block < 64
        return self.numbers.words(self.index, self.slot * 64 + block)

    def of(self, make: Callable[[Words], Tensor]) -> Tensor:
        """What `make` gives for the four words of each sample, [B]."""
        return self.numbers.of(self.index, self.slot * 64, make)

    def uniform(self, block: int = 0) -> Words:
        """Four numbers in [0, 1) a sample, float64 [B] each."""
        a, b, c, d = self.uniforms(1, block).unbind(0)
        return a, b, c, d

    def uniforms(self, blocks: int, first: int = 0) -> Tensor:
        """Four numbers in [0, 1) a sample and block, of `blocks` blocks in a row: float64 [4 * blocks, B]."""
        words = [word for block in range(first, first + blocks) for word in self.words(block)]
        return torch.stack(words).double() / 2**32


def augment(
    x: Tensor, steps: Sequence[tuple[int, Transform]], index: Tensor, numbers: Numbers, *, alone: bool = False
) -> Tensor:
    """Apply transforms to a batch.

    Parameters
    ----------
    x : Tensor
        uint8 or float [B, C, H, W].
    steps : sequence
        From `transforms.steps`: what to do, in order, and each entry's position.
    index : Tensor
        int64 [B], the samples' numbers, on the device of `x`.
    numbers : Numbers
        The epoch's random numbers.
    alone : bool
        For sets whose images differ in size and always come one by one, B = 1: scaling is then left to torchvision,
        which is many times faster on one large image, and may round differently.

    Returns
    -------
    Tensor
        Same dtype, [B, C', H', W'].

    Examples
    --------
    >>> from kdplan.data.transforms import steps, transform
    >>> x = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    >>> augment(x, steps([transform("pad_crop", [8])], train=True), torch.tensor([3]), Numbers(seed=0, epoch=0)).shape
    torch.Size([1, 1, 8, 8])
    """
    for slot, t in steps:
        x = load(TRANSFORMS[t.name].implementation)(x, t.get(), Draws(index, numbers, slot, alone))
    return x


# ---- cutting and turning


def crop(x: Tensor, top: Tensor, left: Tensor, size: tuple[int, int], fill: int = 0) -> Tensor:
    """A window of each image; outside of it is `fill`.

    x [B, C, H, W], top and left int64 [B] -> [B, C, *size].
    """
    b, c, h, w = x.shape
    ys = top[:, None] + torch.arange(size[0], device=x.device)
    xs = left[:, None] + torch.arange(size[1], device=x.device)
    at = ys.clamp(0, h - 1)[:, :, None] * w + xs.clamp(0, w - 1)[:, None, :]
    out = x.flatten(2).gather(2, at.flatten(1)[:, None].expand(b, c, -1)).reshape(b, c, *size)
    inside = ((ys >= 0) & (ys < h))[:, None, :, None] & ((xs >= 0) & (xs < w))[:, None, None, :]
    return torch.where(inside, out, _grey(x, fill))


def windows(x: Tensor, first: Tensor, size: tuple[int, int], fill: int, pad: int) -> Tensor:
    """Windows of images that are padded on each side, by one gather: many times faster on a CPU than one of pixels.

    x [B, C, H, W], the first pixels of the windows in the padded images int64 [B] -> [B, C, *size].
    """
    padded = F.pad(x.contiguous(), (pad, pad, pad, pad), value=_shade(x, fill)).contiguous()
    _, c, h, w = padded.shape
    # Every number in memory begins a window: the last one whose end is still there is the last of all.
    begins = padded.numel() - ((c - 1) * h * w + (size[0] - 1) * w + size[1]) + 1
    every = padded.as_strided((begins, c, *size), (1, h * w, w, 1))
    return every.index_select(0, first + torch.arange(0, padded.numel(), c * h * w))


def _shade(x: Tensor, fill: int) -> float:
    return fill if x.dtype == torch.uint8 else fill / 255


def _grey(x: Tensor, fill: int) -> Tensor:
    # not from a tensor on the CPU: a copy would wait
    return torch.full((), _shade(x, fill), dtype=x.dtype, device=x.device)


def pad_crop(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """A window of `size` at a random location of the padded image: [B, C, H, W] -> [B, C, size, size]."""
    size, pad = args["size"], args.get("pad", 0)
    h, w = x.shape[2] + 2 * pad, x.shape[3] + 2 * pad
    if x.device.type == "cpu" and len(x):
        first = draws.of(lambda words: below(words[0], h - size + 1) * w + below(words[1], w - size + 1))
        return windows(x, first, (size, size), args.get("fill", 0), pad)
    a, b, _, _ = draws.words()
    top, left = below(a, h - size + 1) - pad, below(b, w - size + 1) - pad
    return crop(x, top, left, (size, size), args.get("fill", 0))


def center_crop(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """The middle window of `size`, of the padded image where that is larger: [B, C, H, W] -> [B, C, size, size]."""
    size = args["size"]
    top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
    if top < 0 or left < 0:
        zero = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return crop(x, zero + top, zero + left, (size, size), args["fill"])
    return x[:, :, top : top + size, left : left + size]


def flipped(args: Arguments, draws: Draws) -> Tensor:
    """Which samples the transform `flip` mirrors, bool [B]."""
    limit = int(args["p"] * 2**32)
    return draws.of(lambda words: words[0] < limit)


def flip(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """Images that `flipped` names are mirrored left to right, [B, C, H, W]."""
    mirrored = flipped(args, draws)
    if draws.alone:
        return x.flip(3) if bool(mirrored) else x
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def cutout(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """A square of `size` around a random pixel is filled with `fill`, [B, C, H, W]."""
    h, w, size = x.shape[2], x.shape[3], args["size"]
    a, b, _, _ = draws.words()
    y, x0 = below(a, h) - size // 2, below(b, w) - size // 2
    ys, xs = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    rows = (ys >= y[:, None]) & (ys < y[:, None] + size)
    columns = (xs >= x0[:, None]) & (xs < x0[:, None] + size)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], _grey(x, args["fill"]), x)


def rotation(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """Images turned by a random angle of at most `degrees`, bilinear, [B, C, H, W]."""
    b, c, h, w = x.shape
    angle = (draws.uniform()[0] * 2 - 1) * math.radians(args["degrees"])
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    ys = torch.arange(h, device=x.device, dtype=torch.float64)[:, None] - (h - 1) / 2
    xs = torch.arange(w, device=x.device, dtype=torch.float64)[None, :] - (w - 1) / 2
    # Locations are multiples of 1/128, so that the four weights are whole numbers, and their sum is 2**14.
    sy = ((xs * sin + ys * cos + (h - 1) / 2) * 128).round().long()
    sx = ((xs * cos - ys * sin + (w - 1) / 2) * 128).round().long()
    y0, x0, fy, fx = sy >> 7, sx >> 7, sy & 127, sx & 127
    pixels = x.float().flatten(2)
    fill = _grey(x, args["fill"]).float()
    total = torch.zeros_like(x, dtype=torch.float32)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        yy, xx = y0 + dy, x0 + dx
        weight = (fy if dy else 128 - fy) * (fx if dx else 128 - fx)
        at = (yy.clamp(0, h - 1) * w + xx.clamp(0, w - 1)).flatten(1)[:, None].expand(b, c, h * w)
        value = pixels.gather(2, at).reshape(b, c, h, w)
        inside = ((yy >= 0) & (yy < h) & (xx >= 0) & (xx < w))[:, None]
        total = total + weight[:, None].float() * torch.where(inside, value, fill)
    return _like(total / (1 << 14), x)


# ---- scaling


def _like(y: Tensor, x: Tensor) -> Tensor:
    """`y` on the scale and in the dtype of `x`."""
    return y.round().clamp(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else y.to(x.dtype)


def _taps(start: Tensor, length: Tensor, n_in: int, n_out: int) -> tuple[Tensor, Tensor]:
    """Which pixels each output reads, and their weights, for antialiased linear scaling of a window.

    start and length int64 [B] -> pixels int64 [B, n_out, K] and weights float32 [B, n_out, K], whole numbers
    with a sum of about 2**15.
    """
    scale = (length.double() / n_out)[:, None]
    support = scale.clamp(min=1.0)
    centre = start[:, None] + (torch.arange(n_out, device=start.device) + 0.5) * scale
    first = torch.maximum((centre - support + 0.5).floor().long(), start[:, None])
    last = torch.minimum((centre + support + 0.5).floor().long(), (start + length)[:, None])
    count = math.ceil(2 * max(n_in / n_out, 1.0)) + 1
    at = first[:, :, None] + torch.arange(count, device=start.device)
    weight = (1 - (at + 0.5 - centre[:, :, None]).abs() / support[:, :, None]).clamp(min=0) * (at < last[:, :, None])
    weight = (weight / weight.sum(2, keepdim=True) * _ONE).round()
    return at.clamp(0, n_in - 1), weight.float()


def _scaled(x: Tensor, at: Tensor, weight: Tensor, axis: int) -> Tensor:
    """One axis (2 or 3) of x [B, C, H, W] scaled with taps [B, N, K]."""
    shape = [x.shape[0], x.shape[1], x.shape[2], x.shape[3]]
    shape[axis] = at.shape[1]
    values, total = x.float(), torch.zeros(shape, device=x.device)
    spread = (slice(None), None, slice(None), None) if axis == 2 else (slice(None), None, None, slice(None))
    for k in range(at.shape[2]):
        taken = values.gather(axis, at[:, :, k][spread].expand(shape))
        total = total + weight[:, :, k][spread] * taken
    return _like(total / _ONE, x)


def _window(
    x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int], alone: bool
) -> Tensor:
    """`window_resize`, or torchvision's for one image."""
    if not alone:
        return window_resize(x, top, left, height, width, size)
    # Imported here: it takes a second, which sets that are held need not wait for.
    from torchvision.transforms.v2.functional import resize  # type: ignore[import-untyped, unused-ignore]

    assert len(x) == 1
    t, u, h, w = int(top), int(left), int(height), int(width)
    scaled: Tensor = resize(x[:, :, t : t + h, u : u + w], list(size), antialias=True)
    return scaled


def window_resize(x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]) -> Tensor:
    """A window of each image, scaled to `size`, linear and antialiased.

    x [B, C, H, W], the window int64 [B] each -> [B, C, *size].
    """
    y = _scaled(x, *_taps(left, width, x.shape[3], size[1]), axis=3)
    return _scaled(y, *_taps(top, height, x.shape[2], size[0]), axis=2)


def resize(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """The shorter side is scaled to `size`, the longer one in proportion: [B, C, H, W] -> [B, C, H', W']."""
    b, c, h, w = x.shape
    _, new_h, new_w = resized((c, h, w), args["size"])
    assert new_h is not None and new_w is not None
    if (new_h, new_w) == (h, w):
        return x
    zero = torch.zeros(b, dtype=torch.long, device=x.device)
    return _window(x, zero, zero, zero + h, zero + w, (new_h, new_w), draws.alone)


def random_resized_crop(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """Ten draws of (area, aspect) a sample; the first that fits, else the largest middle window of a legal aspect."""
    h, w, size = x.shape[2], x.shape[3], args["size"]
    (s0, s1), (r0, r1) = args["scale"], args["ratio"]
    pairs = draws.uniforms(5)
    area = (s0 + pairs[0::2] * (s1 - s0)) * (h * w)
    ratio = (math.log(r0) + pairs[1::2] * (math.log(r1) - math.log(r0))).exp()
    widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (widths > 0) & (widths <= w) & (heights > 0) & (heights <= h)
    first = fits.long().argmax(0, keepdim=True)
    any_fits = fits.any(0)
    middle = min(max(w / h, r0), r1)
    fall_w, fall_h = (w, round(w / middle)) if w / h <= middle else (round(h * middle), h)
    fall_w, fall_h = min(fall_w, w), min(fall_h, h)
    width = torch.where(any_fits, widths.gather(0, first)[0], fall_w)
    height = torch.where(any_fits, heights.gather(0, first)[0], fall_h)
    a, b, _, _ = draws.words(5)
    top = torch.where(any_fits, below(a, h - height + 1), (h - height) // 2)
    left = torch.where(any_fits, below(b, w - width + 1), (w - width) // 2)
    return _window(x, top, left, height, width, (size, size), draws.alone)


def aspect(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """A random window of another aspect, scaled to the size of the image, [B, C, H, W]."""
    h, w = x.shape[2], x.shape[3]
    u, _, _, _ = draws.uniform()
    _, a, b, _ = draws.words()
    ratio = ((u * 2 - 1) * math.log(args["factor"])).exp()
    width = (w / ratio.clamp(min=1)).round().long().clamp(1, w)
    height = (h * ratio.clamp(max=1)).round().long().clamp(1, h)
    return _window(x, below(a, h - height + 1), below(b, w - width + 1), height, width, (h, w), draws.alone)


# ---- colour


def _luma(x: Tensor) -> Tensor:
    """x [B, 1 or 3, H, W] -> grey float32 [B, 1, H, W], on the scale of `x`."""
    if x.shape[1] == 1:
        return x.float()
    y = x.float()
    return (y[:, 0:1] * 299 + y[:, 1:2] * 587 + y[:, 2:3] * 114) / 1000


def grayscale(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """One channel of grey: [B, 1 or 3, H, W] -> [B, 1, H, W]."""
    return x if x.shape[1] == 1 else _like(_luma(x), x)


def to_rgb(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """Three channels, equal where there was one: [B, 1 or 3, H, W] -> [B, 3, H, W]."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def color_jitter(x: Tensor, args: Arguments, draws: Draws) -> Tensor:
    """Brightness, contrast, saturation and hue are changed at random, in this order, [B, 1 or 3, H, W]."""
    top = 255.0 if x.dtype == torch.uint8 else 1.0
    signs = [(u * 2 - 1).float()[:, None, None, None] for u in draws.uniform()]
    y = x.float()
    if args["brightness"]:
        y = (y * (1 + signs[0] * args["brightness"])).clamp(0, top)
    if args["contrast"]:
        # A sum of whole numbers has the same bits in any order; a float mean has not.
        parts = (_luma(y) * (1024 if top == 255 else 1 << 18)).round().long().sum((2, 3), keepdim=True)
        mean = (parts.double() / (y.shape[2] * y.shape[3]) / (1024 if top == 255 else 1 << 18)).float()
        y = _blend(y, mean, 1 + signs[1] * args["contrast"], top)
    if args["saturation"] and x.shape[1] == 3:
        y = _blend(y, _luma(y), 1 + signs[2] * args["saturation"], top)
    if args["hue"] and x.shape[1] == 3:
        y = _turn_hue(y, signs[3][:, 0] * args["hue"] * 6)
    return _like(y, x)


def _blend(y: Tensor, base: Tensor, factor: Tensor, top: float) -> Tensor:
    return (base + (y - base) * factor).clamp(0, top)


def _turn_hue(y: Tensor, shift: Tensor) -> Tensor:
    """y [B, 3, H, W] with its hue turned by shift [B, 1, 1], in sixths of the circle."""
    r, g, b = y.unbind(1)
    high, low = y.amax(1), y.amin(1)
    spread = high - low
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    hue = torch.where(high == r, (g - b) / safe, torch.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4)) + shift
    out = []
    for n in (5.0, 3.0, 1.0):
        k = torch.remainder(hue + n, 6.0)
        out.append(high - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(out, dim=1)

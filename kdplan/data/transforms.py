"""The table of transforms: arguments, defaults, what each does to a shape. No torch; see `augment` for the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kdplan.data.params import Arguments, bind
from kdplan.data.view import Transform
from kdplan.diagnostics.report import error, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir.spec import REQUIRED, Param, Spec

Shape = tuple[int, int | None, int | None]
"""Channels, height, width; None where samples differ."""


def _same(shape: Shape, args: Arguments) -> Shape:
    return shape


def _square(shape: Shape, args: Arguments) -> Shape:
    return (shape[0], args["size"], args["size"])


def _short_side(shape: Shape, args: Arguments) -> Shape:
    return resized(shape, args["size"])


def resized(shape: Shape, size: int) -> Shape:
    """The shape after scaling the shorter side to `size`, the longer one in proportion.

    >>> resized((3, 300, 400), 150)
    (3, 150, 200)
    """
    c, h, w = shape
    if h is None or w is None:
        return (c, None, None)
    return (c, size, max(size, round(w * size / h))) if h <= w else (c, max(size, round(h * size / w)), size)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSpec(Spec):
    """A row of the table.

    Parameters
    ----------
    random : bool
        Whether it draws numbers; then measuring replaces it by `measuring`.
    measuring : callable
        The transforms that stand for it in measuring, from its arguments: () to leave it out, itself if not random.
    shape : callable
        Input shape and arguments to output shape.
    boxes : bool
        Whether it may be used on images with boxes: no pixel changes its location, or the boxes change theirs too.
    crops : bool
        Whether it cuts a square of `size`, which must fit into the image with `pad` pixels on each side.
    colours : bool
        Whether it reads colours: images then have 1 or 3 channels.
    """

    random: bool
    measuring_doc: str = "left out"
    measuring: Callable[[Arguments], tuple[Transform, ...]] = field(default=lambda args: (), repr=False)
    shape: Callable[[Shape, Arguments], Shape] = field(default=_same, repr=False)
    boxes: bool = False
    crops: bool = False
    colours: bool = False


def _size(doc: str = "Height and width of what comes out.") -> Param:
    return Param("size", "integer", REQUIRED, doc, low=1)


def _padding(pad: int) -> tuple[Param, Param]:
    return (
        Param("pad", "integer", pad, "Pixels added on each side.", low=0),
        Param("fill", "integer", 0, "Grey value of what is added, 0 to 255.", low=0, high=255),
    )


def _centre(args: Arguments) -> tuple[Transform, ...]:
    kept = (("size", args["size"]), ("pad", args.get("pad", 0)), ("fill", args.get("fill", 0)))
    return (Transform("center_crop", kept),)


def _resize_centre(args: Arguments) -> tuple[Transform, ...]:
    return (Transform("resize", (("size", round(args["size"] * 8 / 7)),)), *_centre(args))


def _strength(name: str, what: str) -> Param:
    doc = f"Largest change of the {what}; the factor is from 1 - {name} to 1 + {name}."
    return Param(name, "number", 0.0, doc, low=0, high=1)


_ROWS = (
    TransformSpec(
        "pad_crop",
        (_size(), *_padding(4)),
        "Pads all sides by `pad` with `fill`, then cuts a square of `size` out at a random location.",
        random=True,
        implementation="kdplan.data.augment:pad_crop",
        measuring_doc="`center_crop(size, pad, fill)`, which leaves images of that size as they are",
        measuring=_centre,
        shape=_square,
        crops=True,
    ),
    TransformSpec(
        "random_crop",
        (_size(),),
        "Cuts a square of `size` out at a random location.",
        random=True,
        implementation="kdplan.data.augment:pad_crop",
        measuring_doc="`center_crop(size)`",
        measuring=_centre,
        shape=_square,
        crops=True,
    ),
    TransformSpec(
        "flip",
        (Param("p", "number", 0.5, "Probability.", low=0, high=1),),
        "Mirrors left and right with probability `p`.",
        random=True,
        implementation="kdplan.data.augment:flip",
        boxes=True,
    ),
    TransformSpec(
        "random_resized_crop",
        (
            _size(),
            Param("scale", "numbers", (0.08, 1.0), "Least and greatest share of the area.", low=0, high=1),
            Param("ratio", "numbers", (0.75, 4 / 3), "Least and greatest width over height.", low=0.01, high=100),
        ),
        "Cuts out a rectangle of a random area (a share of the image in `scale`) and aspect (log-uniform in `ratio`), "
        "and scales it to `size`.",
        random=True,
        implementation="kdplan.data.augment:random_resized_crop",
        measuring_doc="`resize(size * 8 / 7)`, `center_crop(size)`",
        measuring=_resize_centre,
        shape=_square,
    ),
    TransformSpec(
        "aspect",
        (Param("factor", "number", 4 / 3, "Greatest width over height, and its inverse the least.", low=1, high=10),),
        "Changes the proportions by a random factor up to `factor`, keeping the size: one side of a random window is "
        "scaled up.",
        random=True,
        implementation="kdplan.data.augment:aspect",
    ),
    TransformSpec(
        "rotation",
        (
            Param("degrees", "number", REQUIRED, "Greatest angle.", low=0, high=180),
            Param("fill", "integer", 0, "Grey value of what comes in from outside, 0 to 255.", low=0, high=255),
        ),
        "Turns by a random angle up to `degrees` either way, bilinear.",
        random=True,
        implementation="kdplan.data.augment:rotation",
    ),
    TransformSpec(
        "color_jitter",
        (
            _strength("brightness", "brightness"),
            _strength("contrast", "contrast"),
            _strength("saturation", "saturation"),
            Param("hue", "number", 0.0, "Greatest shift of the hue, as a share of the colour circle.", low=0, high=0.5),
        ),
        "Changes brightness, contrast, saturation (factors) and hue (a shift), in this order.",
        random=True,
        implementation="kdplan.data.augment:color_jitter",
        boxes=True,
        colours=True,
    ),
    TransformSpec(
        "cutout",
        (_size("Side of the square."), Param("fill", "integer", 0, "Grey value, 0 to 255.", low=0, high=255)),
        "Fills a square of `size` at a random location (its middle is inside the image) with `fill`.",
        random=True,
        implementation="kdplan.data.augment:cutout",
        boxes=True,
    ),
    TransformSpec(
        "resize",
        (_size("The shorter side."),),
        "Scales the shorter side to `size`, antialiased; the longer one in proportion.",
        random=False,
        implementation="kdplan.data.augment:resize",
        shape=_short_side,
    ),
    TransformSpec(
        "center_crop",
        (_size(), *_padding(0)),
        "Cuts a square of `size` out of the middle, after adding `pad` on all sides.",
        random=False,
        implementation="kdplan.data.augment:center_crop",
        shape=_square,
        crops=True,
    ),
    TransformSpec(
        "grayscale",
        (),
        "Turns colour into one channel of grey.",
        random=False,
        implementation="kdplan.data.augment:grayscale",
        shape=lambda s, a: (1, s[1], s[2]),
    ),
    TransformSpec(
        "to_rgb",
        (),
        "Repeats a grey channel three times; leaves colour as it is.",
        random=False,
        implementation="kdplan.data.augment:to_rgb",
        shape=lambda s, a: (3, s[1], s[2]),
        colours=True,
    ),
)

TRANSFORMS: dict[str, TransformSpec] = {row.name: row for row in _ROWS}
"""Every transform by its name in plans."""


def transform(
    name: str, positional: Sequence[object] = (), named: Mapping[str, object] | None = None, span: Span | None = None
) -> Transform:
    """A checked transform with all its arguments.

    Raises
    ------
    PlanError
        KD0725 unknown transform, KD0720 to KD0724 wrong arguments.

    Examples
    --------
    >>> transform("pad_crop", [32])
    Transform(name='pad_crop', args=(('size', 32), ('pad', 4), ('fill', 0)))
    """
    if name not in TRANSFORMS:
        raise error("KD0725", span, name=name, nearest=nearest(name, TRANSFORMS), known=", ".join(TRANSFORMS))
    args = bind(name, TRANSFORMS[name].params, positional, named or {}, span)
    for arg in ("scale", "ratio"):
        if arg in args and not (len(args[arg]) == 2 and 0 < args[arg][0] <= args[arg][1]):
            raise error(
                "KD0721",
                span,
                owner=name,
                arg=arg,
                expected="two numbers above 0, the smaller first",
                found=str(list(args[arg])),
            )
    return Transform(name, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in args.items()), span)


def steps(transforms: Sequence[Transform], train: bool) -> tuple[tuple[int, Transform], ...]:
    """What is really done, with each entry's position in the list (which its random numbers depend on).

    >>> steps([transform("pad_crop", [32]), transform("flip")], train=False)
    ((0, Transform(name='center_crop', args=(('size', 32), ('pad', 4), ('fill', 0)))),)
    """
    done: list[tuple[int, Transform]] = []
    for slot, t in enumerate(transforms):
        full = transform(t.name, (), t.get(), t.span)
        if train or not TRANSFORMS[t.name].random:
            done.append((slot, full))
        else:
            done.extend((slot, m) for m in TRANSFORMS[t.name].measuring(full.get()))
    return tuple(done)


def check_boxes(name: str, transforms: Sequence[Transform]) -> None:
    """KD0773 for a transform after which the boxes of the data set `name` would no longer fit."""
    known = ", ".join(f"`{row.name}`" for row in TRANSFORMS.values() if row.boxes)
    for t in transforms:
        if not TRANSFORMS[t.name].boxes:
            raise error("KD0773", t.span, name=t.name, data=name, known=known)


def fixes_size(transforms: Sequence[Transform]) -> bool:
    """Whether images of all sizes have one size after the transforms.

    >>> fixes_size([transform("resize", [64])]), fixes_size([transform("resize", [64]), transform("pad_crop", [64])])
    (False, True)
    """
    now: Shape = (3, None, None)
    for _, t in steps(transforms, True):
        now = TRANSFORMS[t.name].shape(now, t.get())
    return now[1] is not None and now[2] is not None


def out_shape(
    shape: tuple[int, ...] | None, transforms: Sequence[Transform], train: bool = True, span: Span | None = None
) -> tuple[int, ...]:
    """One sample's shape after the transforms.

    Parameters
    ----------
    shape : tuple or None
        A sample's shape; None for colour images of differing sizes.

    Raises
    ------
    PlanError
        KD0730 if a crop does not fit, if sizes still differ at the end, or if the samples are not images.

    Examples
    --------
    >>> out_shape((3, 32, 32), [transform("resize", [64]), transform("center_crop", [56])])
    (3, 56, 56)
    """
    if shape is not None and len(shape) != 3:
        if transforms:
            raise error(
                "KD0730",
                span,
                name=transforms[0].name,
                why=f"the samples have shape {list(shape)}; images are [C, H, W]",
            )
        return shape
    now: Shape = (3, None, None) if shape is None else (shape[0], shape[1], shape[2])
    for _, t in steps(transforms, train):
        args = t.get()
        if TRANSFORMS[t.name].crops and now[1] is not None and now[2] is not None:
            room = 2 * args.get("pad", 0)
            if min(now[1], now[2]) + room < args["size"]:
                raise error(
                    "KD0730",
                    t.span or span,
                    name=t.name,
                    why=f"a square of {args['size']} does not fit into {now[1]} by {now[2]}",
                )
        if TRANSFORMS[t.name].colours and now[0] not in (1, 3):
            raise error("KD0730", t.span or span, name=t.name, why=f"the samples have {now[0]} channels")
        now = TRANSFORMS[t.name].shape(now, args)
    if now[1] is None or now[2] is None:
        raise error(
            "KD0730",
            span,
            name="augment",
            why="images of differing sizes need `random_resized_crop`, `random_crop` or `center_crop`",
        )
    return (now[0], now[1], now[2])

"""Data sets that a user's own function gives."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdplan.data.files import Where
from kdplan.data.params import Arguments
from kdplan.data.sources.arrays import arrange, whole
from kdplan.data.sources.base import Array, Opened, Part, SourceSpec
from kdplan.diagnostics.boundary import boundary, cause_of
from kdplan.diagnostics.report import error
from kdplan.ir import user_code
from kdplan.ir.factories import NoFactory, check_factory
from kdplan.ir.spec import REQUIRED, Param
from kdplan.ir.trust import check_trusted, top_of

_FACTS = ("classes", "superclasses", "mean", "std")
_given: dict[tuple[object, ...], Mapping[str, Any]] = {}


def load_function(name: str, where: Where) -> Any:
    """The function `package.module:function` or `path/to/file.py:function`.

    Raises
    ------
    PlanError
        KD0718 where its code cannot be imported, KD0719 where there is no such function, KD1003 for a package that the
        user does not trust, KD1005 for an object that is no factory of a data set.
    """
    module_name, _, function = name.rpartition(":")
    if not module_name or not function:
        expected = '"module:function" or "file.py:function"'
        raise error("KD0721", where.span, owner="source", arg="function", expected=expected, found=repr(name))
    is_file = module_name.endswith(".py")
    if not is_file:
        user_code.check_allowed(module_name)
        check_trusted(name, where.span)
    with boundary("KD0718", where.span, function=name):
        module = user_code.module_of_file(Path(module_name)) if is_file else importlib.import_module(module_name)
    code = getattr(module, function, None)
    if not callable(code):
        raise error("KD0719", where.span, function=name, why=f"`{module_name}` has no function `{function}`")
    try:
        check_factory(code, name, "data set", "" if is_file else top_of(module_name))
    except NoFactory as problem:
        raise error("KD1005", where.span, name=name, what="factory of a data set", why=problem.why) from None
    return code


def _call(name: str, args: Arguments, where: Where) -> Mapping[str, Any]:
    """What the function gives; asked once a process, unless its code changes."""
    file = Path(name.rpartition(":")[0])
    user_code.check_allowed(name.rpartition(":")[0])
    code = user_code.code(file).digest if file.suffix == ".py" and file.is_file() else None
    key = (name, os.getcwd(), repr(sorted(args.items())), code)
    if key not in _given:
        function = load_function(name, where)
        with boundary("KD0718", where.span, function=name):
            content = function(**args)
        if dataclasses.is_dataclass(content) and not isinstance(content, type):
            content = {f.name: getattr(content, f.name) for f in dataclasses.fields(content)}
        if not isinstance(content, Mapping):
            raise error(
                "KD0719", where.span, function=name, why=f"it returns {type(content).__name__}, not a dictionary"
            )
        _given[key] = content
    return _given[key]


def open_user(args: Arguments, where: Where) -> Opened:
    """Calls the function and checks what it gives."""
    name = args["function"]
    given = _call(name, {k: v for k, v in args.items() if k != "function"}, where)
    parts: dict[str, Part] = {}
    shapes: set[tuple[int, ...]] = set()
    types: set[np.dtype[Any]] = set()
    digest = hashlib.sha256(where.label.encode())
    top = 0
    for split, pair in given.items():
        if split in _FACTS or pair is None:
            continue
        try:
            inputs, labels = _pair(pair)
        except ValueError as e:
            raise error("KD0719", where.span, function=name, why=f"`{split}` has {e}") from e
        except (TypeError, RuntimeError) as e:  # of NumPy and torch, about values that are no arrays
            why = f"`{split}` cannot be made an array: {cause_of(e).reason}"
            raise error("KD0719", where.span, function=name, why=why) from e
        parts[split] = Part(len(inputs), lambda x=inputs: x, None if labels is None else lambda y=labels: y)  # type: ignore[misc]
        shapes.add(inputs.shape[1:])
        types.add(inputs.dtype)
        top = max(top, -1 if labels is None else int(labels.max(initial=-1)) + 1)
        for array in (inputs, labels):
            if array is not None:
                digest.update(f"{split}{array.dtype}{array.shape}".encode())
                digest.update(array.data)
    if not parts or len(shapes) > 1:
        why = (
            f"its splits have different shapes, {sorted(map(list, shapes))}"
            if parts
            else "it has no split such as `train`"
        )
        raise error("KD0719", where.span, function=name, why=why)
    try:
        classes = tuple(map(str, given.get("classes") or range(max(top, 0))))
        groups = given.get("superclasses")
        superclasses = {str(k): tuple(map(str, v)) for k, v in groups.items()} if groups else None
        mean, std = _numbers(given.get("mean")), _numbers(given.get("std"))
    except (TypeError, ValueError, AttributeError, RuntimeError) as e:
        facts = "`classes` are names, `superclasses` names of each group, `mean` and `std` numbers of each channel"
        raise error("KD0719", where.span, function=name, why=f"{facts}: {cause_of(e).reason}") from e
    digest.update(repr((classes, superclasses, given.get("mean"), given.get("std"))).encode())
    whole = types == {np.dtype(np.int64)}
    return Opened(parts, digest.hexdigest, classes, superclasses, shapes.pop(), mean, std, whole=whole)


def _pair(pair: object) -> tuple[Array, Array | None]:
    """Inputs [N, ...] and int64 [N] or None, from arrays, tensors or lists."""
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise ValueError("no pair `(inputs, labels)`")
    inputs = arrange(np.asarray(pair[0]))
    return inputs, None if pair[1] is None else whole(np.asarray(pair[1]), len(inputs))


def _numbers(values: object) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in np.atleast_1d(np.asarray(values)))


USER = SourceSpec(
    "source",
    (Param("function", "string", REQUIRED, "`file.py:function` of a file that a `use` names."),),
    "What a Python function gives: a dictionary from split names to `(inputs, labels)`, with `classes`, "
    "`superclasses`, `mean`, `std` if wanted. Further arguments go to the function. Its arrays are hashed, so it is "
    "called whenever a plan is looked at.",
    open=open_user,
    layout="a function of yours",
    more=True,
)

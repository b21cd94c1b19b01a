"""Export of one trained network: weights in safetensors, a description in JSON, on request a `torch.export` program."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from kdplan.diagnostics.report import error
from kdplan.graph.deploy import (
    DeployError,
    deploy,
    export_program,
    load_into,
    parameter_count,
    save,
    verify_equal,
)
from kdplan.graph.examples import of_shape
from kdplan.graph.taps import TapError
from kdplan.ir import user_code
from kdplan.ir.adapted import HELD
from kdplan.ir.branches import BRANCH
from kdplan.ir.expr import Version
from kdplan.ir.heads import HEADED
from kdplan.ir.imports import Code
from kdplan.ir.origins import ENSEMBLE, Copied
from kdplan.ir.outputs import is_output
from kdplan.ir.plan import Export, Plain, Plan, View
from kdplan.ir.versions import parts
from kdplan.nn.models import create
from kdplan.passes.exports import check_export, refused, seen_by
from kdplan.runtime.deployed import architecture, check_equal, deployed, part_at
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store.atomic import flush_folder, scratch
from kdplan.runtime.versions import Sources
from kdplan.runtime.views import opened

FORMAT = 1


def export_network(
    sources: Sources, export: Export, folder: Path, *, program: bool = False, options: RunOptions | None = None
) -> dict[str, Plain]:
    """Writes a network of the plan into `folder`: `model.safetensors`, `model.json`, perhaps `model.pt2`.

    The files are loaded again and compared with the trained network on random inputs before they are put into `folder`.

    Parameters
    ----------
    sources : Sources
        The plan, the store and the keys.
    export : Export
        One network.
    folder : Path
        Made if it is not there; other files in it stay.
    program : bool
        Whether to write a `torch.export` program with a free batch size too.

    Returns
    -------
    dict
        The content of `model.json`.

    Raises
    ------
    PlanError
        KD0841 if it is not one network, KD0842 if the network gives other outputs after loading.
    """
    target = export.target
    options = options or RunOptions()
    check_export(sources.plan, export)
    version = target.versions[0]
    net = materialise(sources, version)
    about = describe(sources, version, options)
    example = _samples(sources.plan, version, options) if about["whole"] else of_shape(about["input_shape"], 2, False)
    _check_branch(sources, version, net, example, export)
    if is_output(target.path):
        trained, (net, item) = net, deployed(sources.plan.networks[version.network], net)
        try:
            check_equal(trained, net, example)
        except DeployError as problem:
            raise error("KD0842", export.span, export=export.name, difference=str(problem)) from problem
        about["architecture"] = architecture(item)
    plain = cut(net, target.path, example, export)
    about |= {"name": export.name, "tap": target.path, "parameters": parameter_count(plain)}
    _write(plain, about, example, folder, export, program)
    written: dict[str, Plain] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return written


def _write(
    net: nn.Module, about: dict[str, Plain], example: torch.Tensor, folder: Path, export: Export, program: bool
) -> None:
    """Writes a network's files into `folder`, all at once, after they were loaded and compared (KD0842)."""
    folder.mkdir(parents=True, exist_ok=True)
    with scratch(folder) as new:
        about["architecture"] = _with_code(about["architecture"], new)
        save(net, new, about)
        again = load(new)
        try:
            verify_equal(net, again, example)
        except DeployError as problem:
            raise error("KD0842", export.span, export=export.name, difference=str(problem)) from problem
        if program:
            export_program(again, new / "model.pt2", example)
        for file in sorted(new.iterdir()):
            if (folder / file.name).is_dir():
                shutil.rmtree(folder / file.name)
            os.replace(file, folder / file.name)
    flush_folder(folder)


def _check_branch(sources: Sources, version: Version, net: nn.Module, example: torch.Tensor, export: Export) -> None:
    """KD0842 where the plain network with a branch's weights does not give, bit for bit, that branch's outputs."""
    origin = sources.plan.networks[version.network].origin
    if version.phase is not None or not isinstance(origin, Copied) or origin.branch is None:
        return
    whole = materialise(sources, origin.version)
    try:
        verify_equal(deploy(whole, f"{BRANCH}.{origin.branch}", example), net, example)
    except DeployError as problem:
        raise error("KD0842", export.span, export=export.name, difference=str(problem)) from problem


def load(folder: Path | str) -> nn.Module:
    """The network that `export_network` wrote, in eval mode on the CPU.

    Parameters
    ----------
    folder : Path or str
        Holds `model.json` and `model.safetensors`.

    Returns
    -------
    nn.Module
    """
    folder = Path(folder)
    user_code.begin(folder)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    item = _at(about["architecture"], folder)
    net = create(item["factory"], **item["arguments"]).eval()
    if not is_output(about["tap"]):
        net = deploy(net, about["tap"], of_shape(about["input_shape"], 2, about.get("whole", False)))
    load_into(net, folder)
    return net.eval()


def cut(net: nn.Module, path: str, example: torch.Tensor, export: Export) -> nn.Module:
    """The network, or the part of it that gives the value at `path` (KD0841 where it has none)."""
    try:
        return part_at(net, path, example)
    except TapError as problem:
        raise refused(export, f"{problem}.") from problem


def describe(sources: Sources, version: Version, options: RunOptions) -> dict[str, Plain]:
    """The description in `model.json`: architecture, classes, inputs, origin."""
    plan = sources.plan
    network = plan.networks[version.network]
    view = seen_by(plan, version)
    data = plan.data[view.data] if view is not None else None
    classes = network.classes or (view.classes if view is not None else None)
    names: list[str] = []
    if classes is not None and classes.data in plan.data and plan.data[classes.data].classes:
        names = [plan.data[classes.data].classes[i] for i in classes.ids]
    elif data is not None:
        names = list(data.classes)
    shape = (data.shape if data is not None else None) or network.input_shape
    return {
        "format": FORMAT,
        "architecture": {"factory": network.architecture.name, "arguments": dict(network.architecture.arguments)},
        "classes": names,
        "input_shape": list(shape) if shape is not None else None,
        "whole": data is not None and data.whole,
        "normalize": _normalize(plan, view, options),
        "source": _source(sources, version)
        | ({"made_of": [_source(sources, v) for v in parts(plan, version)]} if version.phase is None else {}),
    }


def _source(sources: Sources, version: Version) -> dict[str, Plain]:
    key = sources.keys[version.phase].key if version.phase is not None else None
    return {"version": str(version), "key": key, "snapshot": version.snapshot}


def _samples(plan: Plan, version: Version, options: RunOptions) -> torch.Tensor:
    """Two samples of the data that a version is for: any other whole numbers may mean nothing to the network."""
    view = seen_by(plan, version)
    assert view is not None
    data = opened(plan, view, options.data_root, torch.device("cpu"))
    return data.batch(torch.arange(2) % len(data))["inputs"]


def _normalize(plan: Plan, view: View | None, options: RunOptions) -> dict[str, list[float]] | None:
    """Mean and deviation a channel that the network's inputs were normalised with, on a scale of 0 to 1."""
    if view is None:
        return None
    data = plan.data[view.data]
    if data.normalize is not None:
        mean, std = data.normalize
        return {"mean": list(mean), "std": list(std)}
    from kdplan.data.catalog import describe as describe_data

    info = describe_data(data.source.name, data.source.arguments, options.data_root)
    return {"mean": list(info.mean), "std": list(info.std)} if info.mean and info.std else None


def _with_code(architecture: dict[str, Plain], folder: Path) -> dict[str, Plain]:
    """An architecture for whoever loads the network; users' own files, those of members too, go along."""
    copied: dict[str, str] = {}

    def copy(factory: str) -> str:
        where, _, function = factory.rpartition(":")
        if not where.endswith(".py"):
            return factory
        if where not in copied:
            copied[where] = _copy(user_code.code(Path(where)), folder, f"{len(copied) + 1 if copied else ''}")
        return f"{copied[where]}:{function}"

    return _renamed(architecture, copy)


def _copy(code: Code, folder: Path, number: str) -> str:
    """Writes a user's file, as `model.py`, or under its own name in a folder with the modules that it imports."""
    main, at = f"model{number}.py", folder
    if len(code.local) > 1:
        at = folder / f"model{number}"
        main = f"{at.name}/{code.path.name}"
    for module in code.local.values():
        path = folder / main if module.path == code.path else at / module.path.relative_to(code.path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(module.content)
    return main


def _at(architecture: dict[str, Plain], folder: Path) -> dict[str, Plain]:
    """An architecture that `_with_code` made, with the paths of its files in `folder` (KD1006 for others)."""

    def at(factory: str) -> str:
        where, _, function = factory.rpartition(":")
        if not where.endswith(".py"):
            return factory
        path = (folder / where).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise error("KD1006", None, folder=folder, file=where)
        return f"{path}:{function}"

    return _renamed(architecture, at)


def _renamed(architecture: dict[str, Plain], name: Callable[[str], str]) -> dict[str, Plain]:
    """With other names of its factories, and of those of an ensemble's members or a branched network's parts."""
    factory, arguments = architecture["factory"], dict(architecture["arguments"])
    if factory == ENSEMBLE:
        inner = [_renamed({"factory": f, "arguments": a}, name) for f, a in arguments["members"]]
        arguments["members"] = [[m["factory"], m["arguments"]] for m in inner]
    for part in HELD.get(factory, ()):
        f, a = arguments[part]
        inner_one = _renamed({"factory": f, "arguments": a}, name)
        arguments[part] = [inner_one["factory"], inner_one["arguments"]]
    if factory == HEADED:
        arguments["base"] = _renamed({"factory": arguments["base"], "arguments": {}}, name)["factory"]
    return {"factory": name(factory), "arguments": arguments}

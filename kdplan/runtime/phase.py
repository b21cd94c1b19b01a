"""One phase from its plan to its artifact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, fx, nn

from kdplan.data.dataset import Dataset
from kdplan.data.loader import Loader
from kdplan.diagnostics.boundary import cause_of, foreign, is_foreign
from kdplan.diagnostics.report import PlanError, diagnostic, error, listing
from kdplan.graph.assemble import assemble
from kdplan.graph.compiler import compiler_later
from kdplan.graph.kept import functions_of, undone
from kdplan.graph.lines import at_node
from kdplan.graph.phase_graph import Networks, PhaseGraph
from kdplan.graph.state import draws_undone
from kdplan.graph.verify import HALF, SAMPLES, users_calls, verify, verify_calls
from kdplan.ir import user_code
from kdplan.ir.dag import Cost, PhaseKey
from kdplan.ir.expr import STEP_COUNTERS
from kdplan.ir.lengths import extendable
from kdplan.ir.plan import Phase, Plain, Plan, Recipe
from kdplan.ir.versions import ema_copies
from kdplan.passes.layout import with_layouts
from kdplan.runtime.checkpoint import tensor_file
from kdplan.runtime.device import MOST_THREADS, choose_device, environment, set_determinism, threads_for
from kdplan.runtime.division import Division
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.extend import adopt
from kdplan.runtime.first_batch import Differs
from kdplan.runtime.frozen_values import Keeper
from kdplan.runtime.gpu.arithmetic import tf32
from kdplan.runtime.gpu.without import without_effect
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.job import Job
from kdplan.runtime.loop import Training
from kdplan.runtime.measures.labels import label_of
from kdplan.runtime.measures.metrics import larger_is_better
from kdplan.runtime.measures.validation import validation
from kdplan.runtime.networks import modules_of
from kdplan.runtime.options import RunOptions
from kdplan.runtime.out_of_memory import is_out_of_memory, out_of_memory
from kdplan.runtime.own_rows import OwnRows
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.space import Patience
from kdplan.runtime.store import Artifact, Work, phase_json
from kdplan.runtime.store.artifact import FINAL, FINAL_STATE
from kdplan.runtime.store.atomic import Content
from kdplan.runtime.store.work import RECORD_HEAD
from kdplan.runtime.streams import Streams
from kdplan.runtime.versions import Sources
from kdplan.runtime.views import check_content, opened, require_samples

Assemble = Callable[[Plan, Phase, Networks], PhaseGraph]


@dataclass
class PhaseRun:
    """The surroundings of one phase: plan and store, options, observers."""

    sources: Sources
    options: RunOptions
    events: Events = field(default_factory=NoEvents)
    interrupt: Interrupt = field(default_factory=Interrupt)
    assemble: Assemble = assemble
    """How a phase becomes graphs."""
    cost: Cost | None = None
    """What was predicted."""
    extends: str | None = None
    """Key of the shorter phase from whose last state this one resumes."""
    ranks: Ranks = field(default_factory=Ranks)
    """This process among those that train the phase."""

    @property
    def patience(self) -> Patience:
        """What is done when the store's disk is full."""
        return Patience(self.options.wait_for_space, self.events, self.interrupt)


@draws_undone()
@compiler_later()
def run_phase(run: PhaseRun, phase: Phase, key: PhaseKey, work: Work) -> Artifact:
    """Trains a phase, from its newest checkpoint if it has one, and commits its artifact.

    Raises
    ------
    Interrupted
        When asked to stop; a checkpoint is written.
    PlanError
        Any failure, with the span where it can be fixed.
    """
    device = begin(run, phase)
    about = phase_json(phase.name, run.options.plan_file, key)
    run.patience.write(lambda: work.describe(about))
    training: Training | None = None
    whole: dict[str, str] = {}
    try:
        if run.extends is not None:
            adopt(work, run.sources.store.artifact(run.extends))
        while True:
            run.ranks.order("phase", name=phase.name, key=key.key)
            job = make_job(run, phase, key.key, work, device, whole)
            training = Training(job)
            if not whole:
                for notice in work.notices:
                    run.events.note(f"{notice.code}: {notice.message}")
                run.events.phase_started(phase.name, key.key, training.total, training.step)
            try:
                with in_its_surroundings(training):
                    training.run()
                    return commit(run, phase, key, work, training)
            except Differs as problem:
                whole |= problem.whole
    except BaseException as problem:
        run.ranks.abandon()
        step = training.step if training is not None else 0
        run.events.stopped(phase.name, step)
        reported = failed(run, phase, step, device, problem)
        if reported is problem:
            raise
        raise reported from problem


def failed(run: PhaseRun, phase: Phase, step: int, device: torch.device, problem: BaseException) -> BaseException:
    """What is reported of an exception that ended a phase: itself, or an error of the plan."""
    if is_out_of_memory(problem):
        return out_of_memory(phase, device, run.cost, run.ranks.size)
    return failure(phase, step, problem) if is_foreign(problem) and not isinstance(problem, Interrupted) else problem


def begin(run: PhaseRun, phase: Phase) -> torch.device:
    """The device of a phase, set up for it; and its code as if no other phase had run."""
    device = choose_device(run.options.device)
    set_determinism(run.options.deterministic)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    user_code.forget_modules()  # state in them is no part of a phase
    _check_code(run, phase)
    return device


@contextmanager
def in_its_surroundings(training: Training) -> Iterator[None]:
    """The threads and the code of a phase while it trains.

    What code keeps outside of networks is the same for every phase, whichever ran before. A buffer may share it, so the
    artifact is written inside.
    """
    graph, recipe = training.job.phase_graph, training.recipe
    parts = _parts(graph)
    code = [f for part in parts for f in functions_of(part)] + [n.target for n in users_calls(parts)]
    exact = training.job.device.type == "cpu"
    shards = training.job.division.shards if training.job.division is not None else recipe.shards
    products = tf32(recipe.precision == "tf32", training.job.device)
    with threads_for(graph.flops // shards, recipe.threads, exact), products, undone(*code):
        yield


def _recipes(plan: Plan, phase: Phase, ranks: Ranks) -> list[Recipe]:
    """The recipes with their layouts; pieces of parameters have the usual one."""
    recipes = with_layouts(plan, phase)
    return [replace(r, layout="contiguous") for r in recipes] if ranks.way == "fully-shard" else recipes


def make_job(
    run: PhaseRun, phase: Phase, key: str, work: Work, device: torch.device, whole: Mapping[str, str] | None = None
) -> Job:
    """The phase's networks, graphs, data and validation, put together.

    `whole` has networks that are known to be called whole, with the reasons, as `Networks.whole`.
    """
    plan, root, recipe = run.sources.plan, run.options.data_root, phase.recipes[0]
    workers = max(r.workers for r in phase.recipes)
    networks = modules_of(run.sources, phase)
    networks.whole |= whole or {}
    sets = [require_samples(opened(plan, view, root, device), view, phase.name) for view in phase.streams]
    _check_data(run, phase, later=False)

    def images(stream: int) -> Tensor:
        loader = Loader(sets[stream], SAMPLES, phase.seed, train=True, stream=stream)
        return next(iter(loader.epoch(0)))["inputs"].cpu()

    def first() -> dict[str, Tensor]:
        plain = [Loader(d, recipe.batch_of(n), phase.seed, train=True, stream=n) for n, d in enumerate(sets)]
        batch = {n: t.cpu() for n, t in next(Streams(plain).epoch(0)).items()}
        return batch | dict.fromkeys(STEP_COUNTERS, torch.zeros(()))

    store, ranks = run.sources.store, run.ranks
    if not ranks.leads:
        networks.whole = dict(ranks.receive("graphs")["whole"])
    warnings = verify(plan, phase, networks, images, store) if ranks.leads else []
    phase_graph = run.assemble(plan, phase, networks)
    others = phase_graph.plain.others if phase_graph.plain is not None and ranks.leads else []
    if others:
        # The first step does not compare these.
        graphs, labels = dict(networks.whole), [label for name in others for label in phase_graph.labels[name]]
        warnings += verify(plan, phase, networks, images, store, batch=key, only=labels)
        if networks.whole != graphs:
            phase_graph = run.assemble(plan, phase, networks)
    ranks.order("graphs", whole=networks.whole)
    if ranks.leads:
        half = recipe.precision in HALF
        warnings += verify_calls(_parts(phase_graph), first, half, weights=True, verdicts=store)
    warnings += without_effect(phase.name, recipe, device) if ranks.leads else []
    for warning in dict.fromkeys(f"{w.code}: {w.message}" for w in warnings):
        run.events.note(warning)
    assert [f.name for f in phase_graph.ema_copies] == ema_copies(plan, phase)
    read = {*phase_graph.trainable_inputs, *(phase_graph.frozen_inputs if not phase_graph.stored else ())}
    division = Division.of(recipe, tuple(map(len, sets)), ranks.rank, ranks.size) if ranks.way else None
    loaders = _loaders(phase, sets, read, ranks, division, workers)
    stored = None
    if phase_graph.stored:

        def measuring(stream: int) -> Loader:
            return Loader(sets[stream], recipe.batch_of(stream), phase.seed, train=False, workers=workers)

        if not ranks.leads:
            ranks.receive("values")
        keeper = Keeper(plan, phase, phase_graph, run.sources.store, device, measuring, key, run.events, run.interrupt)
        with threads_for(0, MOST_THREADS, exact=device.type == "cpu"):  # other phases read these values, too
            stored = keeper.values(compute=ranks.leads)
        ranks.order("values")
    copies = deepcopy(phase_graph.networks) if ranks.leads and ranks.way == "fully-shard" else None
    validate = _validation(run, phase, phase_graph, copies, device) if ranks.leads else None
    metric = phase.validations[0].metrics[0] if phase.validations else None
    return Job(
        name=phase.name,
        phase_graph=phase_graph,
        recipes=_recipes(plan, phase, ranks),
        streams=Streams(loaders),
        stored=stored,
        work=work,
        device=device,
        seed=phase.seed,
        validate=validate,
        larger_is_better=larger_is_better(metric) if metric is not None else True,
        checkpoint_seconds=run.options.checkpoint_seconds,
        checkpoint_steps=run.options.checkpoint_steps,
        interrupt=run.interrupt,
        events=run.events,
        patience=run.patience,
        span=phase.loss.span or phase.span,
        ranks=ranks,
        division=division,
        copies=copies,
    )


def _loaders(
    phase: Phase, sets: list[Dataset], read: set[str], ranks: Ranks, division: Division | None, workers: int
) -> list[Loader]:
    """What loads the batches of training: of several ranks, each has the samples that it computes."""
    recipe, sizes = phase.recipes[0], tuple(map(len, sets))
    shared = ranks.size > 1 and recipe.shards > 1 and division is None

    def part(number: int) -> Callable[[int], Tensor] | None:
        if division is not None:
            return partial(division.rows, number)
        return OwnRows(recipe, sizes, number, ranks.rank, ranks.size) if shared else None

    return [
        Loader(data, recipe.batch_of(number) * recipe.accumulate, phase.seed, train=True, workers=workers,
               drop_last=recipe.drop_last, stream=number, inputs=f"inputs_{number}" in read,
               part=part(number), fill=shared)
        for number, data in enumerate(sets)
    ]  # fmt: skip


def _validation(
    run: PhaseRun, phase: Phase, phase_graph: PhaseGraph, copies: list[nn.Module] | None, device: torch.device
) -> Callable[[], dict[str, float]] | None:
    """What measures the networks after an epoch: themselves, or copies of those that are in pieces."""
    measured = replace(phase_graph, networks=copies) if copies is not None else phase_graph
    validate = validation(run.sources.plan, phase, measured, run.options.data_root, device)
    if copies is None:
        return validate
    from kdplan.runtime.sharded import validated_on

    return validated_on(copies, device, validate)


def _parts(phase_graph: PhaseGraph) -> list[fx.GraphModule]:
    return [g for g in (phase_graph.frozen, phase_graph.trainable_graph) if isinstance(g, fx.GraphModule)]


def commit(run: PhaseRun, phase: Phase, key: PhaseKey, work: Work, training: Training) -> Artifact:
    """Writes the artifact: weights of every snapshot, metrics, key and environment."""
    job, options = training.job, run.options
    last = training.history[-1] if training.history else {}
    summary: dict[str, Plain] = {
        "steps": training.step,
        "epochs": -(-training.step // training.per_epoch),
        "seconds": round(training.elapsed(), 3),
        "last": {k: v for k, v in last.items() if k not in RECORD_HEAD},
        "best": training.snapshots.best,
    }
    if phase.validations:
        summary["measure"] = label_of(phase.validations[0].metrics[0])
    files: dict[str, Content | dict[str, Plain]] = {
        Artifact.weights_name(slot, snapshot): content for (slot, snapshot), content in training.weights().items()
    }
    for number, ema_copy in enumerate(job.phase_graph.ema_copies):
        name = Artifact.weights_name(len(phase.trainees) + number)
        files[name] = tensor_file(ema_copy.module.state_dict())
    if extendable(phase):
        tensors, state = training.checkpoint()
        files[FINAL], files[FINAL_STATE] = tensor_file(tensors), state
    files["summary.json"] = summary
    files["phase.json"] = phase_json(phase.name, options.plan_file, key)
    files["environment.json"] = environment(job.device, options.deterministic) | {
        "code": user_code.listed(),
        "processes": run.ranks.size,
        "sums": run.ranks.sums,
        **({"stack": training.form} if training.form is not None else {}),
        "finished": time.time(),
    }
    _check_code(run, phase)
    try:
        _check_data(run, phase, later=True)
    except PlanError:
        work.discard()  # its checkpoints may be of either content
        raise
    artifact = run.patience.write(lambda: work.commit(files))
    run.events.phase_done(phase.name, summary["seconds"], summary)
    return artifact


def _check_data(run: PhaseRun, phase: Phase, later: bool) -> None:
    views = [*phase.streams, *(v.view for v in phase.validations)]
    check_content(run.sources.plan, views, run.options.data_root, f"phase `{phase.name}`", later)


def _check_code(run: PhaseRun, phase: Phase) -> None:
    """Look at the user's files again: KD0825 once for what runs as it was read, KD0824 for what may not."""
    as_read, unknown = user_code.edited()
    if unknown:
        raise error("KD0824", phase.span, files=listing(map(str, unknown)), phase=phase.name)
    if as_read:
        notice = diagnostic("KD0825", None, files=listing(p.name for p in as_read))
        run.events.note(f"{notice.code}: {notice.message}")


def failure(phase: Phase, step: int, problem: BaseException) -> PlanError:
    """KD0821 for an exception of code that the phase calls, with the innermost line that is the user's."""
    cause = cause_of(at_node(problem))
    return foreign("KD0821", phase.span, at_node(problem), phase=phase.name, step=step,
                   place=f" in {cause.location}" if cause.location else "",
                   kind=cause.kind, reason=cause.reason)  # fmt: skip

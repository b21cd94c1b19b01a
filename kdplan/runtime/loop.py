"""The one training loop: every phase of every plan runs through `Training.run`.

A phase may be stopped at any moment. The result of step n is a function of the state after step n - 1, the
phase's seed and n alone: batches come from (seed, epoch, index), random layers from (seed, step). So resuming from a
checkpoint gives the bits of an uninterrupted run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kdplan.diagnostics.report import PlanError, counted, diagnostic, error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.graph.plain_form import PlainForm
from kdplan.ir.expr import STEP_COUNTERS
from kdplan.ir.plan import Plain, Recipe
from kdplan.ir.seed import fold
from kdplan.ir.snapshots import kept_epochs
from kdplan.runtime.averages import Averages
from kdplan.runtime.checkpoint import below, plain_tensors, prefixed, read_tensors, reseed, tensor_file
from kdplan.runtime.device import rounding
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.first_batch import FirstBatch
from kdplan.runtime.frozen_values import StoredValues
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.optimise import Optimisers
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.recovery import Recovery, State, all_finite, untouched
from kdplan.runtime.saving import Saving
from kdplan.runtime.shards import Shards, mark_of
from kdplan.runtime.snapshots import Snapshots
from kdplan.runtime.space import Patience
from kdplan.runtime.store.atomic import Content
from kdplan.runtime.store.work import Work
from kdplan.runtime.streams import Batch, Streams, samples, split
from kdplan.runtime.torch_compile import compiled
from kdplan.runtime.watch import Watch

BRIEF = 1.0
"""Seconds: an epoch that ends sooner after a checkpoint than this does not get one of its own."""
RARE = 20
"""Nor one that ends sooner than so many times what the last checkpoint cost."""


@dataclass
class Job:
    """One phase, ready to be trained."""

    name: str
    phase_graph: PhaseGraph
    recipes: list[Recipe]
    streams: Streams
    work: Work
    device: torch.device
    seed: int
    stored: StoredValues | None = None
    """The frozen graph's outputs, where they are read from the store."""
    validate: Callable[[], dict[str, float]] | None = None
    """Numbers of the networks as they stand, after every epoch; the first one chooses the best snapshot."""
    larger_is_better: bool = True
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    interrupt: Interrupt = field(default_factory=Interrupt)
    events: Events = field(default_factory=NoEvents)
    patience: Patience = field(default_factory=Patience)
    """What is done when the store's disk is full."""
    span: Span | None = None
    """Where the loss stands in the plan."""
    progress_seconds: float = 0.5
    ranks: Ranks = field(default_factory=Ranks)
    """This process among those that train the phase."""


class Training:
    """The training of one job: its state, and the loop over steps."""

    def __init__(self, job: Job) -> None:
        self.job, self.recipe = job, job.recipes[0]
        a = job.phase_graph
        for module in (a.root, a.trainable_graph, *a.networks, *([a.frozen] if a.frozen is not None else [])):
            module.to(job.device)
        if self.recipe.channels_last:
            a.root.to(memory_format=torch.channels_last)
        a.set_modes()
        trainable = {id(p) for p in a.named_trainable().values()}
        for parameter in a.root.parameters():
            parameter.requires_grad_(id(parameter) in trainable)
        self.per_epoch = job.streams.steps
        length = self.recipe.steps or (self.recipe.epochs * self.per_epoch if self.recipe.epochs else None)
        self.total: int | None = length
        self.optimisers = Optimisers(a, job.recipes, self.per_epoch, self.total)
        self.scaler = torch.amp.GradScaler(job.device.type, enabled=self.recipe.precision == "fp16")
        self.averages = Averages(a, self.recipe.ema)
        self.watch = Watch(job.device)
        self.kept = kept_epochs(self.recipe)
        self.snapshots = Snapshots(
            job.work.snapshots, [*a.networks, *(f.module for f in a.ema_copies)], job.work.confirm
        )
        self.trainable_graph = compiled(a.trainable_graph, self.recipe.compile, job.name)
        self.frozen = (
            compiled(a.frozen, self.recipe.compile, job.name) if a.frozen is not None and job.stored is None else None
        )
        self.step = 0
        self.seconds = 0.0
        self.seen = 0
        self.saved_at = self.reported_at = self.began_at = time.monotonic()
        self.history: list[dict[str, Plain]] = []
        self.finite = {
            n for n, t in a.state().items() if (t.is_floating_point() or t.is_complex()) and bool(_are_finite(t))
        }
        """What must stay finite: a mask may hold infinities from the start."""
        self.form: dict[str, Plain] | None = None
        """How the phase is stacked with others, once that has decided bits of it."""
        self.recovery = Recovery(self.recipe.on_nan, job.seed)
        self.saving = Saving(job.work, job.patience)
        self.restore()
        self._crossed: dict[str, Tensor] | None = None
        self._shard: tuple[int, ...] = ()
        """The number of the running shard in its step; none where a batch is not cut."""
        self.shards: Shards | None = None
        if self.recipe.shards > 1:
            self.shards = Shards(a, self.recipe.shards, job.ranks, job.name, self.recipe.spans.get("shards", job.span))
        self.first = FirstBatch.of(a, self.recipe, self.seed, job.span)

    # ---- the loop

    def run(self) -> None:
        """Trains from the restored step to the last.

        Raises
        ------
        Interrupted
            When the job's interrupt asks for it; a checkpoint of this very step is written then.
        PlanError
            KD0820 if the loss stops being finite, KD0826 if weights do; the last good checkpoint stays.
        """
        with self.saving:
            while not self.finished:
                try:
                    self.train_epoch()
                except PlanError as problem:
                    self.go_back(problem)
            self.check_finite()

    def train_epoch(self) -> None:
        """Trains to the end of the epoch, or of the phase."""
        epoch, start = divmod(self.step, self.per_epoch)
        for batch in self.job.streams.epoch(epoch, start):
            self.train_step(batch)
            self.step += 1
            self.after_step(epoch)
            if self.finished:
                break

    def after_step(self, epoch: int) -> None:
        """Ends the epoch where it ends, stops where the run shall stop, saves and reports, while other ranks wait."""
        last = self.step % self.per_epoch == 0 or self.step == self.total
        if last:
            self.end_epoch(epoch)
            self.job.ranks.order("epoch")
        if self.job.interrupt.requested:
            self.save(at_once=True)
            raise Interrupted
        self.save_and_report(epoch, last)
        if self.finished:
            self.agree()
        self.job.ranks.order("go")

    def go_back(self, problem: PlanError) -> None:
        """Goes on from an earlier state after a value that is not finite, where the recipe says so; else raises."""
        state = self.recovery.go_back(problem)
        if state is None:
            raise problem
        at = self.step
        self.load(*state)
        self.job.streams.reseed(self.recovery.seed)
        self.job.ranks.order("back")
        notice = diagnostic("KD0828", None, phase=self.job.name, problem=problem.diagnostics[0].message.rstrip("."),
                            step=self.step, at=at, left=counted(self.recovery.left, "time"))  # fmt: skip
        self.job.events.note(f"{notice.code}: {notice.message}")

    @property
    def finished(self) -> bool:
        """Whether the schedules or the number of steps have ended the phase."""
        return self.optimisers.ended or (self.total is not None and self.step >= self.total)

    def train_step(self, batch: Batch) -> None:
        """One step of every optimizer, on parts of a batch whose losses are averaged to the whole's."""
        before = untouched(self.job.phase_graph) if self.recovery.skips else None
        self.seed()
        self.optimisers.start_step(self.step)
        whole = samples(batch)
        self.seen += whole
        terms: list[tuple[dict[str, Tensor], int]] = []
        for number, part in enumerate(split(batch, self.recipe.batch_of(), self.recipe.channels_last)):
            if self.shards is not None:
                result = self._in_shards(self.shards, number, part, whole)
            else:
                result = self._compared(partial(self._gradients, part, samples(part) / whole))
            terms.append(({n: t.detach() for n, t in result.items()}, samples(part)))
        if before is not None and not self.steps_with_finite(terms):
            self.job.phase_graph.load_state(before)
            self.recovery.skipped += 1
            return
        for result, size in terms:
            self.watch.add(result, size, self.step)
        self.optimisers.finish_step(self.scaler)
        self.averages.update()

    def _in_shards(self, shards: Shards, number: int, part: Batch, whole: int) -> dict[str, Tensor]:
        """Adds the gradients of one part of a batch of `whole` samples, shard by shard."""

        def step(shard: int, batch: Batch, share: float) -> dict[str, Tensor]:
            self._shard = (number * shards.count + shard,)
            self.seed()
            return self._compared(partial(self._gradients, batch, share))

        result = shards.train(part, whole, step, self.job.interrupt.requested)
        if shards.stop and not self.job.interrupt.requested:
            self.job.interrupt.request("a signal to another process")
        return result

    def _compared(self, step: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
        """What a step gives; the first one of a run is compared with the plain form."""
        first, self.first = self.first, None
        if first is not None and not first.expect(step):
            notice, first = diagnostic("KD0551", None, phase=self.job.name), None
            self.job.events.note(f"{notice.code}: {notice.message}")
        result = step()
        return result if first is None or first.compare(result) else step()

    def steps_with_finite(self, terms: list[tuple[dict[str, Tensor], int]]) -> bool:
        """Whether the losses of a step and its gradients are finite."""
        parameters = self.job.phase_graph.named_trainable().values()
        return all_finite([t for t, _ in terms], parameters, self.scaler.is_enabled())

    def seed(self) -> None:
        """Sets all generators as at the beginning of the step."""
        shard = ("shard", *self._shard) if self._shard else ()
        reseed(fold(self.recovery.seed, "step", self.step, *shard), self.job.device)

    def _gradients(self, part: Batch, share: float, form: PlainForm | None = None) -> dict[str, Tensor]:
        """Adds the gradients of a part of a batch, and gives the loss and its logged terms."""
        result = self.forward(part) if form is None else self._in_form(part, form)
        self.scaler.scale(result["loss"] * share if share != 1 else result["loss"]).backward()  # type: ignore[no-untyped-call]
        return result

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and its logged terms on one batch."""
        a, known = self.job.phase_graph, self.known(batch)
        with self._precision():
            known |= self.crossing(known)
            result: dict[str, Tensor] = self.trainable_graph(**{name: known[name] for name in a.trainable_inputs})
        return result

    def crossing(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the frozen graph gives."""
        if (crossing := self._crossed) is not None:  # for this batch, and it gives the same again
            self._crossed = None
            return crossing
        if self.frozen is None:
            return {}
        with torch.no_grad():
            values: dict[str, Tensor] = self.frozen(**{n: known[n] for n in self.job.phase_graph.frozen_inputs})
            return values

    def _in_form(self, batch: Batch, form: PlainForm) -> dict[str, Tensor]:
        """The same by the plain form of the phase's graphs, on copies: code may write into what it gets."""
        known = self.known(batch)
        with self._precision():
            if form.crossing:
                known |= (crossing := self.crossing(known))
                self._crossed = crossing
            return form(**{name: t.clone() for name, t in known.items()})

    def known(self, batch: Batch) -> dict[str, Tensor]:
        """The batch, the step counters that are read, and values from the store."""
        a, device = self.job.phase_graph, self.job.device
        epoch = self.step // self.per_epoch
        at = {"epoch": epoch, "step": self.step, "progress": self.step / self.total if self.total else 0.0}
        known = dict(batch)
        for name in STEP_COUNTERS:
            if name in a.trainable_inputs or name in a.frozen_inputs:
                known[name] = torch.full((), float(at[name]), device=device)
        return known | self.job.stored.of(batch) if self.job.stored is not None else known

    def _precision(self) -> torch.autocast:
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        return torch.autocast(self.job.device.type, dtype=half, enabled=half is not None)

    def end_epoch(self, epoch: int) -> None:
        """Validates, keeps snapshots, reports the mean loss to the schedules, and logs the epoch."""
        self.check_finite()
        self.check_weights()
        if not self.watch.samples:
            raise error("KD0827", self.job.span, phase=self.job.name, epoch=epoch + 1)
        means = self.watch.means()
        self.watch.start_epoch()
        record: dict[str, Plain] = {"step": self.step, "epoch": epoch + 1, "loss": means.pop("loss"), "terms": means}
        record["lr"] = self.optimisers.rates()
        if self.job.validate is not None:
            record["val"] = self.job.validate()
            self.job.phase_graph.set_modes()
            score = next(iter(record["val"].values()))
            self.snapshots.offer_best(epoch + 1, score, self.job.larger_is_better)
        for name in self.kept.get(epoch + 1, ()):
            self.snapshots.keep(name, epoch + 1)
        self.optimisers.end_epoch(record["loss"])
        record |= self.recovery.record()
        record["seconds"] = round(self.elapsed(), 3)
        self.job.patience.write(lambda: self.job.work.log(record))
        self.history.append(record)
        self.recovery.skipped = 0
        self.recovery.remember(self.checkpoint())
        self.job.events.epoch_done(self.job.name, epoch + 1, record.get("val", {}))

    def check_finite(self) -> None:
        """Stops the phase if a loss was not finite; nothing is saved after such a step."""
        broken = self.watch.broken()
        if broken is not None:
            terms = [n for n in broken.names if n != "loss"]
            raise error(
                "KD0820",
                self.job.span,
                phase=self.job.name,
                value=broken.value,
                step=broken.step,
                epoch=broken.step // self.per_epoch + 1,
                first=f"; first {listing(terms)}" if terms else "",
                help=None if broken.step else "Correct the loss: it is no number before anything is trained.",
            )

    def check_weights(self) -> None:
        """Stops the phase if a weight or buffer is no longer finite: no checkpoint, snapshot or artifact has such."""
        state = {n: t for n, t in self.job.phase_graph.state().items() if n in self.finite}
        if state and not bool(torch.stack([_are_finite(t) for t in state.values()]).all()):  # one wait for the device
            broken = sorted(n for n, t in state.items() if not bool(_are_finite(t)))
            names = listing(dict.fromkeys(n.removeprefix("buffer/").removeprefix("nets.") for n in broken), 4)
            raise error("KD0826", self.job.span, phase=self.job.name, names=names, step=self.step)

    def save_and_report(self, epoch: int, last: bool) -> None:
        """Saves a checkpoint and reports progress, each when it is due."""
        now, job = time.monotonic(), self.job
        self.saving.collect()
        if self.due(last) and not self.finished:
            self.save()
        if now - self.reported_at >= job.progress_seconds or self.finished:
            self.check_finite()
            if not self.watch.samples and not self.history:
                return  # every step so far was left out
            terms = self.watch.means() if self.watch.samples else dict(self.history[-1]["terms"])
            loss = terms.pop("loss") if self.watch.samples else self.history[-1]["loss"]
            speed = self.seen / max(now - self.reported_at, 1e-9)
            job.events.progress(job.name, self.step, epoch + last, loss, speed, terms)
            self.reported_at, self.seen = now, 0

    def due(self, last: bool) -> bool:
        """Whether it is time for a checkpoint of this step, the `last` of an epoch or not."""
        since, steps = time.monotonic() - self.saved_at, self.job.checkpoint_steps
        often = since >= self.job.checkpoint_seconds or (steps is not None and self.step % steps == 0)
        return often or (last and since >= max(BRIEF, RARE * self.saving.cost))

    def elapsed(self) -> float:
        """Seconds of training so far, those of earlier processes included."""
        return self.seconds + time.monotonic() - self.began_at

    # ---- checkpoints

    def save(self, at_once: bool = False) -> None:
        """A checkpoint of this step, on the disk now or later; refuses one whose loss or weights are not finite."""
        self.check_finite()
        self.check_weights()
        self.agree()
        tensors, state = self.checkpoint()
        recovery, plain = self.recovery.state()
        step, named = self.step, self.snapshots.wanted()

        def done() -> None:
            self.snapshots.tidy(named)
            self.job.events.checkpointed(self.job.name, step)

        self.saving.save(step, tensors | recovery, state | plain, done, at_once)
        self.saved_at = time.monotonic()

    def agree(self) -> None:
        """KD0954 where a rank has other weights, or another state of an optimizer, than rank 0."""
        ranks = self.job.ranks
        if ranks.size > 1:
            ranks.order("agree")
            marks = ranks.gather_numbers([self.mark()])
            if others := [rank for rank, mark in enumerate(marks) if mark != marks[0]]:
                raise error("KD0954", self.job.span, phase=self.job.name, step=self.step,
                            ranks=", ".join(map(str, others)))  # fmt: skip

    def mark(self) -> int:
        """A number of 63 bits for all that training changes."""
        tensors, _ = self.checkpoint()
        return mark_of(tensors)

    def checkpoint(self) -> State:
        """The state that resuming from this step needs: tensors by name, and plain values."""
        optimisers, optimisers_plain = self.optimisers.state()
        watch, watch_plain = self.watch.state()
        tensors = prefixed("model", self.job.phase_graph.state()) | prefixed("optim", optimisers)
        averages, updates = self.averages.state()
        tensors |= prefixed("average", averages) | prefixed("watch", watch)
        state = {
            "step": self.step,
            "optimisers": optimisers_plain,
            "watch": watch_plain,
            "updates": updates,
            "scaler": self.scaler.state_dict(),
            "snapshots": self.snapshots.state(),
            "networks": len(self.snapshots.networks),
            "seconds": self.elapsed(),
            "rounding": rounding(self.job.device),
        } | ({"stack": self.form} if self.form is not None else {})
        return tensors, state

    def restore(self) -> None:
        """Loads the newest checkpoint, or stays at the start."""
        checkpoint = self.job.work.latest_checkpoint(lambda c: self.snapshots.problem(c.state["snapshots"]))
        self.job.work.rewind(checkpoint)
        self.start(self.job.ranks.share_state((read_tensors(checkpoint), checkpoint.state) if checkpoint else None))
        if checkpoint is not None:
            self._compare_rounding(checkpoint.state)
            self.history = self.job.work.metrics()

    def start(self, saved: State | None) -> None:
        """Loads a state, or stays at the start."""
        if saved is None:
            self.recovery.remember(self.checkpoint())
            return
        tensors, state = saved
        self.recovery.load_state(tensors, state)
        if self.recovery.rollbacks:
            self.job.streams.reseed(self.recovery.seed)
        self.load(tensors, state)
        self.seconds, self.form = state["seconds"], state.get("stack")

    def _compare_rounding(self, state: Mapping[str, Plain]) -> None:
        """KD0838 where the checkpoint is of another machine or library."""
        now, before = rounding(self.job.device), state.get("rounding", {})
        changed = [name for name, value in now.items() if before.get(name, value) != value]
        others = [f"{name} {before[name]} then and {now[name]} now" for name in changed]
        if others:
            notice = diagnostic("KD0838", None, phase=self.job.name, step=self.step, others=" and ".join(others))
            self.job.events.note(f"{notice.code}: {notice.message}")

    def load(self, tensors: dict[str, Tensor], state: dict[str, Plain]) -> None:
        """The inverse of `checkpoint`."""
        self.job.phase_graph.load_state(below("model", tensors))
        self.optimisers.load_state(below("optim", tensors), state["optimisers"])
        self.averages.load_state(below("average", tensors), state["updates"])
        self.watch.load_state(below("watch", tensors), state["watch"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.snapshots.load_state(state["snapshots"])
        self.step = state["step"]

    # ---- the end

    def weights(self) -> dict[tuple[int, str], Content]:
        """(slot, snapshot) -> a function that writes that safetensors file: last, best, averages, kept epochs."""
        writers: dict[tuple[int, str], Content] = {}
        for slot, network in enumerate(self.job.phase_graph.networks):
            writers[slot, "last"] = tensor_file(plain_tensors(network.state_dict()))
            if self.averages.slots:
                writers[slot, "ema"] = tensor_file(self.averages.weights(slot))
        return writers | self.snapshots.files()


def _are_finite(tensor: Tensor) -> Tensor:
    return torch.isfinite(tensor).all()

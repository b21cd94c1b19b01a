"""The one training loop: every phase of every plan runs through `Training.run`.

A phase may be stopped at any moment. The result of step n is a function of the state after step n - 1, the
phase's seed and n alone: batches come from (seed, epoch, index), random layers from (seed, step). So resuming from a
checkpoint gives the bits of an uninterrupted run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdplan.diagnostics.report import error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.expr import STEP_COUNTERS
from kdplan.ir.plan import Plain, Recipe
from kdplan.ir.seed import fold
from kdplan.ir.snapshots import kept_epochs
from kdplan.runtime.averages import Averages
from kdplan.runtime.checkpoint import TENSORS, below, plain_tensors, prefixed, read_tensors, reseed, tensor_file
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.frozen_values import StoredValues
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.optimise import Optimisers
from kdplan.runtime.snapshots import Snapshots
from kdplan.runtime.store.atomic import Content
from kdplan.runtime.store.work import Work
from kdplan.runtime.streams import Batch, Streams, samples, split
from kdplan.runtime.torch_compile import compiled
from kdplan.runtime.watch import Watch

BRIEF = 1.0
"""Seconds: an epoch that ends sooner after a checkpoint than this does not get one of its own."""


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
    span: Span | None = None
    """Where the loss stands in the plan."""
    progress_seconds: float = 0.5


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
        self.snapshots = Snapshots(job.work.folder / "snapshots", [*a.networks, *(f.module for f in a.ema_copies)])
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
        self.restore()

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
        while not self.finished:
            epoch, start = divmod(self.step, self.per_epoch)
            for batch in self.job.streams.epoch(epoch, start):
                self.train_step(batch)
                self.step += 1
                last = self.step % self.per_epoch == 0 or self.step == self.total
                if last:
                    self.end_epoch(epoch)
                if self.job.interrupt.requested:
                    self.save()
                    raise Interrupted
                self.save_and_report(epoch, last)
                if self.finished:
                    break
        self.check_finite()

    @property
    def finished(self) -> bool:
        """Whether the schedules or the number of steps have ended the phase."""
        return self.optimisers.ended or (self.total is not None and self.step >= self.total)

    def train_step(self, batch: Batch) -> None:
        """One step of every optimizer, on parts of a batch whose losses are averaged to the whole's."""
        reseed(fold(self.job.seed, "step", self.step), self.job.device)
        self.optimisers.start_step(self.step)
        whole = samples(batch)
        for part in split(batch, self.recipe.batch_of(), self.recipe.channels_last):
            result = self.forward(part)
            share = samples(part) / whole
            self.scaler.scale(result["loss"] * share if share != 1 else result["loss"]).backward()  # type: ignore[no-untyped-call]
            self.watch.add(result, samples(part), self.step)
        self.optimisers.finish_step(self.scaler)
        self.averages.update()
        self.seen += whole

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and its logged terms on one batch."""
        job = self.job
        a, device = job.phase_graph, job.device
        epoch = self.step // self.per_epoch
        at = {"epoch": epoch, "step": self.step, "progress": self.step / self.total if self.total else 0.0}
        known = dict(batch)
        for name in STEP_COUNTERS:
            if name in a.trainable_inputs or name in a.frozen_inputs:
                known[name] = torch.full((), float(at[name]), device=device)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            if job.stored is not None:
                known.update(job.stored.of(batch))
            elif self.frozen is not None:
                with torch.no_grad():
                    known.update(self.frozen(**{name: known[name] for name in a.frozen_inputs}))
            result: dict[str, Tensor] = self.trainable_graph(**{name: known[name] for name in a.trainable_inputs})
        return result

    def end_epoch(self, epoch: int) -> None:
        """Validates, keeps snapshots, reports the mean loss to the schedules, and logs the epoch."""
        self.check_finite()
        self.check_weights()
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
        record["seconds"] = round(self.elapsed(), 3)
        self.job.work.log(record)
        self.history.append(record)
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
        due = now - self.saved_at >= job.checkpoint_seconds
        due |= job.checkpoint_steps is not None and self.step % job.checkpoint_steps == 0
        due |= last and now - self.saved_at >= BRIEF
        if due and not self.finished:
            self.save()
        if now - self.reported_at >= job.progress_seconds or self.finished:
            self.check_finite()
            terms = self.watch.means() if self.watch.samples else dict(self.history[-1]["terms"])
            loss = terms.pop("loss") if self.watch.samples else self.history[-1]["loss"]
            speed = self.seen / max(now - self.reported_at, 1e-9)
            job.events.progress(job.name, self.step, epoch + last, loss, speed, terms)
            self.reported_at, self.seen = now, 0

    def elapsed(self) -> float:
        """Seconds of training so far, those of earlier processes included."""
        return self.seconds + time.monotonic() - self.began_at

    # ---- checkpoints

    def save(self) -> None:
        """A checkpoint of this step; refuses one whose loss or weights are not finite."""
        self.check_finite()
        self.check_weights()
        tensors, state = self.checkpoint()
        self.job.work.save_checkpoint(self.step, {TENSORS: tensor_file(tensors)}, state)
        self.snapshots.tidy()
        self.saved_at = time.monotonic()
        self.job.events.checkpointed(self.job.name, self.step)

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Plain]]:
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
        }
        return tensors, state

    def restore(self) -> None:
        """Loads the newest checkpoint, or stays at the start."""
        checkpoint = self.job.work.latest_checkpoint(lambda c: self.snapshots.problem(c.state["snapshots"]))
        self.job.work.rewind(checkpoint)
        if checkpoint is None:
            return
        tensors, state = read_tensors(checkpoint), checkpoint.state
        self.job.phase_graph.load_state(below("model", tensors))
        self.optimisers.load_state(below("optim", tensors), state["optimisers"])
        self.averages.load_state(below("average", tensors), state["updates"])
        self.watch.load_state(below("watch", tensors), state["watch"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.snapshots.load_state(state["snapshots"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = self.job.work.metrics()

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

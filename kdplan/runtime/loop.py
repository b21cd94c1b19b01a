"""The one training loop: every phase of every plan runs through `Training.run`.

A phase may be stopped at any moment. The result of step n is a function of the state after step n - 1, the
phase's seed and n alone: batches come from (seed, epoch, index), random layers from (seed, step). So resuming from a
checkpoint gives the bits of an uninterrupted run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from kdplan.diagnostics.report import PlanError, counted, diagnostic, error, listing
from kdplan.graph.plain_form import PlainForm
from kdplan.ir.plan import Plain
from kdplan.ir.seed import fold
from kdplan.ir.snapshots import kept_epochs
from kdplan.nn.host import known_on_host
from kdplan.runtime.agreed import agree, compare_rounding
from kdplan.runtime.averages import Averages
from kdplan.runtime.checkpoint import below, plain_tensors, prefixed, read_tensors, reseed, tensor_file
from kdplan.runtime.counters import counters
from kdplan.runtime.device import rounding
from kdplan.runtime.finite import all_finite, are_finite
from kdplan.runtime.first_batch import FirstBatch
from kdplan.runtime.gpu.ahead import ahead
from kdplan.runtime.gpu.arithmetic import Arithmetic
from kdplan.runtime.gpu.graphs import recorded, step_graphs
from kdplan.runtime.interrupt import Interrupted
from kdplan.runtime.job import Job
from kdplan.runtime.optimise import Optimisers
from kdplan.runtime.parallel import Parallel
from kdplan.runtime.recovery import Recovery, State, finite_step, untouched
from kdplan.runtime.saving import Saving
from kdplan.runtime.shards import Shards
from kdplan.runtime.snapshots import Snapshots
from kdplan.runtime.store.atomic import Content
from kdplan.runtime.streams import Batch, host_pairs, samples, split
from kdplan.runtime.synced import SyncedShards
from kdplan.runtime.torch_compile import Compiler
from kdplan.runtime.watch import Watch
from kdplan.runtime.ways import parallel


class Training:
    """The training of one job: its state, and the loop over steps."""

    def __init__(self, job: Job) -> None:
        self.job, self.recipe = job, job.recipes[0]
        a = job.phase_graph
        for module in (a.root, a.trainable_graph, *a.networks, *([a.frozen] if a.frozen is not None else [])):
            module.to(job.device if job.ranks.way != "fully-shard" else "cpu")
        if self.recipe.channels_last:
            a.root.to(memory_format=torch.channels_last)
        a.set_modes()
        trainable = {id(p) for p in a.named_trainable().values()}
        for parameter in a.root.parameters():
            parameter.requires_grad_(id(parameter) in trainable)
        self.per_epoch = job.streams.steps
        length = self.recipe.steps or (self.recipe.epochs * self.per_epoch if self.recipe.epochs else None)
        self.total: int | None = length
        graphs = recorded(self.recipe, job.device)
        self.optimisers = Optimisers(a, job.recipes, self.per_epoch, self.total, graphs=graphs)
        self.scaler = torch.amp.GradScaler(job.device.type, enabled=self.recipe.precision == "fp16")
        self.averages = Averages(a, self.recipe.ema)
        self.watch = Watch(job.device)
        self.kept = kept_epochs(self.recipe)
        self.snapshots = Snapshots(
            job.work.snapshots, [*(job.copies or a.networks), *(f.module for f in a.ema_copies)], job.work.confirm
        )
        self.arithmetic = Arithmetic(self.recipe, job.device)
        cut = job.division.shards if job.division is not None else None
        self.compiler = Compiler(self.recipe, job.name, job.streams.whole, cut)
        self.trainable_graph = self.compiler.of(a.trainable_graph)
        self.frozen = self.compiler.of(a.frozen) if a.frozen is not None and job.stored is None else None
        if job.device.type != "cpu":
            self.arithmetic.hold_in_half(a)
        self.step = 0
        self.seconds = 0.0
        self.seen = 0
        self.saved_at = self.reported_at = self.began_at = time.monotonic()
        self.history: list[dict[str, Plain]] = []
        self.finite = {
            n for n, t in a.state().items() if (t.is_floating_point() or t.is_complex()) and bool(are_finite(t))
        }
        """What must stay finite: a mask may hold infinities from the start."""
        self.form: dict[str, Plain] | None = None
        """How the phase is stacked with others, once that has decided bits of it."""
        self.recovery = Recovery(self.recipe.on_nan, job.seed)
        self.saving = Saving(job.work, job.patience, job.device)
        self.saving.expect(a.state().values())
        self.graphs = step_graphs(job.name, self._recorded_step, a, job.device, self.recipe)
        self.parallel: Parallel | None = None
        self.restore()
        self._crossed: dict[str, Tensor] | None = None
        self._shard: tuple[int, ...] = ()
        """The number of the running shard in its step; none where a batch is not cut."""
        self.shards: Shards | None = None
        if job.division is not None:
            self.trainable_graph = self.parallel = parallel(job, job.division, self.trainable_graph)
        elif self.recipe.shards > 1:
            kind = SyncedShards if self.recipe.norm == "sync" else Shards
            self.shards = kind(a, self.recipe.shards, job.ranks, job.name, self.recipe.spans.get("shards", job.span))
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
        batches = self.job.streams.epoch(epoch, start)
        loaded = self.parallel or self.shards
        source = batches if loaded is None else loaded.loaded(batches)
        for batch in ahead(source, self.job.device, self.job.stored):
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
            agree(self)
            self.checkpoint()  # while other ranks are here, who may have parts of it
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
        if self.parallel is not None:
            self.parallel.prepare(self, batch)
        before = untouched(self.job.phase_graph) if self.recovery.skips else None
        self.seed()
        if self.graphs is not None:
            self.seen += samples(batch)
            self.optimisers.set_rates(self.step)
            self.graphs.step(batch, counters(self.step, self.per_epoch, self.total) | {"at": self.step})
            self.watch.samples += samples(batch)
            self.averages.update()
            return
        self.optimisers.start_step(self.step)
        terms = self._parts(batch) if self.parallel is None else [self._in_parallel(self.parallel, batch)]
        self.seen += sum(size for _, size in terms)
        if before is not None and not self.steps_with_finite(terms):
            self.job.phase_graph.load_state(before)
            self.recovery.skipped += 1
            return
        for result, size in terms:
            self.watch.add(result, size, self.step)
        self.optimisers.finish_step(self.scaler)
        self.averages.update()

    def _recorded_step(self, batch: Batch) -> None:
        """What the device does in a step, without what depends on the step's number."""
        assert self.graphs is not None
        self.optimisers.forget_gradients()
        for result, size in self._parts(batch):
            self.watch.take(result, size, self.graphs.counters["at"])
        self.optimisers.finish_step(self.scaler)

    def _parts(self, batch: Batch) -> list[tuple[dict[str, Tensor], int]]:
        """Adds the gradients of all parts of a batch; gives the loss and terms of each, and its size."""
        terms: list[tuple[dict[str, Tensor], int]] = []
        whole = samples(batch)
        for number, part in enumerate(split(batch, self.recipe.batch_of(), self.recipe.channels_last)):
            if self.shards is not None:
                result = self._in_shards(self.shards, number, part, whole)
            else:
                result = self._compared(partial(self._gradients, part, samples(part) / whole))
            terms.append(({n: t.detach() for n, t in result.items()}, samples(part)))
        return terms

    def _in_parallel(self, parallel: Parallel, batch: Batch) -> tuple[dict[str, Tensor], int]:
        """The same of a batch of which this process has its samples."""
        (batch,) = split(batch, max(1, samples(batch)), self.recipe.channels_last)
        result = parallel.train(batch, self.step, self.of_shard, self.first is not None)
        self.job.interrupt.join(parallel.stop)
        return result

    def _in_shards(self, shards: Shards, number: int, part: Batch, whole: int) -> dict[str, Tensor]:
        """Adds the gradients of one part of a batch of `whole` samples, shard by shard."""
        if isinstance(shards, SyncedShards):
            shards.compared = self._compared if self.first is not None else None
        at = number * shards.count
        result = shards.train(part, whole, lambda n, *how: self.of_shard(at + n, *how), self.job.interrupt.requested)
        self.job.interrupt.join(shards.stop)
        return result

    def of_shard(self, number: int, batch: Batch, share: float, form: PlainForm | None = None) -> dict[str, Tensor]:
        """Adds the gradients of a shard, by its own draws."""
        self._shard = (number,)
        self.seed()
        gradients = partial(self._gradients, batch, share)
        return gradients(form) if isinstance(self.shards, SyncedShards) else self._compared(gradients)

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
        fine = finite_step([t for t, _ in terms], parameters, self.scaler.is_enabled())
        return fine if self.parallel is None else self.parallel.all_agree(fine)

    def seed(self) -> None:
        """Sets all generators as at the beginning of the step."""
        shard = ("shard", *self._shard) if self._shard else ()
        reseed(fold(self.recovery.seed, "step", self.step, *shard), self.job.device)

    def _gradients(self, part: Batch, share: float, form: PlainForm | None = None) -> dict[str, Tensor]:
        """Adds the gradients of a part of a batch, and gives the loss and its logged terms."""
        result = self.forward(part) if form is None else self._in_form(part, form)
        loss = self.scaler.scale(result["loss"] * share if share != 1 else result["loss"])
        self.shards.backward(loss) if self.shards is not None else loss.backward()  # type: ignore[no-untyped-call]
        return result

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and its logged terms on one batch."""
        a, known = self.job.phase_graph, self.known(batch)
        with known_on_host(host_pairs(known)):
            known |= self.crossing(known)
            with self.arithmetic.trained():
                result: dict[str, Tensor] = self.trainable_graph(**{name: known[name] for name in a.trainable_inputs})
        return result

    def crossing(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the frozen graph gives."""
        if (crossing := self._crossed) is not None:  # for this batch, and it gives the same again
            self._crossed = None
            return crossing
        if self.frozen is None:
            return {}
        with self.arithmetic.frozen():
            values: dict[str, Tensor] = self.frozen(**{n: known[n] for n in self.job.phase_graph.frozen_inputs})
        return self.arithmetic.crossing(values)

    def _in_form(self, batch: Batch, form: PlainForm) -> dict[str, Tensor]:
        """The same by the plain form of the phase's graphs, on copies: code may write into what it gets."""
        known = self.known(batch)
        if form.crossing:
            known |= (crossing := self.crossing(known))
            self._crossed = None if isinstance(self.shards, SyncedShards) else crossing  # those take turns
        with self.arithmetic.trained():
            return form(**{name: t.clone() for name, t in known.items()})

    def known(self, batch: Batch) -> dict[str, Tensor]:
        """The batch, the step counters that are read, and values from the store."""
        a, device = self.job.phase_graph, self.job.device
        known = dict(batch)
        self.compiler.see(batch)
        for name, value in counters(self.step, self.per_epoch, self.total).items():
            if name in a.trainable_inputs or name in a.frozen_inputs:
                held = self.graphs.counters if self.graphs is not None else {}
                known[name] = held[name] if held else torch.full((), value, device=device)
        return known | self.job.stored.of(batch) if self.job.stored is not None else known

    def end_epoch(self, epoch: int) -> None:
        """Validates, keeps snapshots, reports the mean loss to the schedules, and logs the epoch."""
        self.check_finite()
        self.check_weights()
        if not self.watch.samples:
            raise error("KD0827", self.job.span, phase=self.job.name, epoch=epoch + 1)
        if self.parallel is not None and self.job.copies is not None:
            self.parallel.refresh(self.job.copies)
        means = self.watch.means()
        self.watch.start_epoch()
        record: dict[str, Plain] = {"step": self.step, "epoch": epoch + 1, "loss": means.pop("loss"), "terms": means}
        record["lr"] = self.optimisers.rates()
        if self.job.validate is not None:
            record["val"] = self.job.validate()
            self.job.phase_graph.set_modes()
            if self.graphs is not None:
                self.graphs.look([self.job.phase_graph.root])
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
        if self.recovery.times:
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
        held = self.job.phase_graph.state()
        if self.parallel is not None:  # which may have parts of them only
            held = below("model", self.checkpoint(optimisers=False)[0])
        state = {n: t for n, t in held.items() if n in self.finite}
        if not all_finite(state.values()):
            broken = sorted(n for n, t in state.items() if not bool(are_finite(t)))
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
        return often or (last and self.saving.worth(since))

    def elapsed(self) -> float:
        """Seconds of training so far, those of earlier processes included."""
        return self.seconds + time.monotonic() - self.began_at

    # ---- checkpoints

    def save(self, at_once: bool = False) -> None:
        """A checkpoint of this step, on the disk now or later; refuses one whose loss or weights are not finite."""
        began = time.monotonic()
        self.check_finite()
        parts = self.parallel.written(self) if self.parallel is not None else {}
        if not parts:
            self.check_weights()
        agree(self)
        tensors, state = self.checkpoint() if not parts else self.state()
        recovery, plain = self.recovery.state()
        step, named = self.step, self.snapshots.wanted()

        def done() -> None:
            if self.parallel is not None:
                self.parallel.tidy()
            self.snapshots.tidy(named)
            self.job.events.checkpointed(self.job.name, step)

        self.saving.save(step, tensors | recovery, state | plain, done, at_once, parts, began)
        self.saved_at = time.monotonic()

    def checkpoint(self, optimisers: bool = True) -> State:
        """The state that resuming from this step needs, perhaps but for `optimisers`: tensors by name, plain values."""
        tensors, state = self.state()
        if not optimisers:
            tensors = {name: t for name, t in tensors.items() if not name.startswith("optim/")}
        if self.parallel is not None:
            keep = self.job.ranks.leads or bool(self.recovery.times)
            tensors = self.parallel.whole(tensors, self.step, keep)
        return tensors, state

    def state(self) -> State:
        """The same, of which tensors may be parts."""
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
            "rounding": rounding(self.job.device, self.job.ranks.sums),
        } | ({"stack": self.form} if self.form is not None else {})
        return tensors, state

    def restore(self) -> None:
        """Loads the newest checkpoint, or stays at the start."""
        checkpoint = self.job.work.latest_checkpoint(lambda c: self.snapshots.problem(c.state["snapshots"]))
        self.job.work.rewind(checkpoint)
        self.start(self.job.ranks.share_state((read_tensors(checkpoint), checkpoint.state) if checkpoint else None))
        if checkpoint is not None:
            compare_rounding(self, checkpoint.state)
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

    def load(self, tensors: dict[str, Tensor], state: dict[str, Plain]) -> None:
        """The inverse of `checkpoint`."""
        tensors = self.parallel.divided(tensors) if self.parallel is not None else tensors
        self.job.phase_graph.load_state(below("model", tensors))
        self.optimisers.load_state(below("optim", tensors), state["optimisers"])
        self.averages.load_state(below("average", tensors), state["updates"])
        self.watch.load_state(below("watch", tensors), state["watch"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.snapshots.load_state(state["snapshots"])
        self.step = state["step"]
        if self.graphs is not None:
            self.graphs.forget()

    # ---- the end

    def weights(self) -> dict[tuple[int, str], Content]:
        """(slot, snapshot) -> a function that writes that safetensors file: last, best, averages, kept epochs."""
        writers: dict[tuple[int, str], Content] = {}
        averages = below("average", self.checkpoint(optimisers=False)[0])
        for slot, network in enumerate(self.job.copies or self.job.phase_graph.networks):
            writers[slot, "last"] = tensor_file(plain_tensors(network.state_dict()))
            if self.averages.slots:
                writers[slot, "ema"] = tensor_file(below(str(slot), averages))
        return writers | self.snapshots.files()

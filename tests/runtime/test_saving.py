"""Checkpoints that a thread writes: of the step at which they were asked for, and no failure of them is lost."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdplan.runtime import saving
from kdplan.runtime.checkpoint import below, read_tensors
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.loop import Job, Training
from kdplan.runtime.space import Patience
from kdplan.runtime.store import Store, manifest
from kdplan.runtime.store.atomic import Content
from kdplan.runtime.store.errors import StoreUnwritable, writing
from kdplan.runtime.store.work import Work
from tests.runtime.small import job, network, recipe, same, train

BUILD = manifest.build


@pytest.fixture(autouse=True)
def by_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small it is."""
    monkeypatch.setattr(saving, "AT_ONCE", 0)


class Disk:
    """A disk that writes a checkpoint when it may, and refuses some."""

    def __init__(self, refused: int = 0, number: int = errno.ENOSPC) -> None:
        self.may, self.begun = threading.Event(), threading.Event()
        self.refused, self.number = refused, number
        self.threads: list[str] = []

    def build(self, folder: Path, files: dict[str, Content]) -> None:
        """In place of `manifest.build`."""
        self.threads.append(threading.current_thread().name)
        self.begun.set()
        assert self.may.wait(30)
        if self.refused:
            self.refused -= 1
            with writing(folder):
                raise OSError(self.number, os.strerror(self.number))
        BUILD(folder, files)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Whose checkpoints are stuck until `may` is set."""
    slow = Disk()
    monkeypatch.setattr(manifest, "build", slow.build)
    yield slow
    slow.may.set()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with Store(tmp_path).begin("k") as opened:
        yield opened


def steps(work: Work) -> set[str]:
    return {p.name for p in work.checkpoints.iterdir() if not p.name.startswith(".")}


def test_it_is_of_the_moment_of_the_call(work: Work, disk: Disk) -> None:
    """Tensors, plain values and metrics may change as soon as `save` returns."""
    weight, plain, done = torch.zeros(1000), {"kept": {"last": 1}}, []
    with saving.Saving(work, Patience()) as saver:
        work.log({"step": 1, "loss": 0.5})
        saver.save(1, {"w": weight}, plain, lambda: done.append(1))
        assert disk.begun.wait(30) and disk.threads[0].startswith("checkpoint")
        weight += 1
        plain["kept"]["last"] = 2
        work.log({"step": 2, "loss": 0.25})
        saver.collect()
        assert not done and steps(work) == set()
        disk.may.set()
        saver.collect(wait=True)
        assert done == [1]
        saver.save(2, {"w": weight}, plain, lambda: done.append(2))
    assert done == [1, 2] and steps(work) == {"step-1", "step-2"}
    newest = work.latest_checkpoint()
    assert newest is not None and newest.state == {"kept": {"last": 2}} and read_tensors(newest)["w"][0] == 1
    work.rewind(newest)
    assert [line["step"] for line in work.metrics()] == [1, 2]
    (older,) = [p for p in work.checkpoints.iterdir() if p.name == "step-1"]
    assert (
        '"last": 1' in (older / "state.json").read_text() and b'"step": 2' not in (older / "metrics.jsonl").read_bytes()
    )


@pytest.mark.parametrize(
    "tensor", [torch.rand(3, 4).t(), torch.rand(()), torch.rand(2, 3)[:, 1], torch.rand(4).bfloat16()]
)
def test_every_form_of_tensor_is_copied(work: Work, tensor: Tensor) -> None:
    with saving.Saving(work, Patience()) as saver:
        for step in (1, 2):  # the second time into the same memory
            saver.save(step, {"w": tensor, "again": tensor}, {}, lambda: None)
            newest = work.latest_checkpoint() if saver.collect(wait=True) is None else None
            assert newest is not None and newest.step == step
            assert all(torch.equal(t, tensor) and t.dtype == tensor.dtype for t in read_tensors(newest).values())


def test_a_refusal_is_told_by_the_next_call(work: Work, disk: Disk) -> None:
    disk.refused = 2  # by the thread, and when it is tried again
    disk.may.set()
    with saving.Saving(work, Patience()) as saver:
        saver.save(1, {"w": torch.zeros(9)}, {}, lambda: pytest.fail("nothing was saved"))
        with pytest.raises(StoreUnwritable):
            saver.collect(wait=True)
        assert list(work.checkpoints.iterdir()) == []
        saver.save(2, {"w": torch.zeros(9)}, {}, lambda: None)
    assert steps(work) == {"step-2"}


def test_a_run_that_waits_for_space_writes_it_later(work: Work, disk: Disk) -> None:
    disk.refused, done = 3, []
    disk.may.set()
    with saving.Saving(work, Patience(wait=True, pause=0.01)) as saver:
        saver.save(1, {"w": torch.zeros(9)}, {}, lambda: done.append(1))
    assert done == [1] and steps(work) == {"step-1"}


@pytest.mark.parametrize("wait", [False, True])
def test_a_failure_of_training_is_the_one_that_is_raised(work: Work, disk: Disk, wait: bool) -> None:
    """At once: nobody waits for space for the checkpoint of a phase that has failed."""
    disk.refused = 9
    disk.may.set()
    with pytest.raises(ZeroDivisionError), saving.Saving(work, Patience(wait, pause=600)) as saver:
        saver.save(1, {"w": torch.zeros(9)}, {}, lambda: None)
        raise ZeroDivisionError
    assert not [t for t in threading.enumerate() if t.name.startswith("checkpoint")]


def test_training_goes_on_meanwhile_and_is_resumed(tmp_path: Path, disk: Disk) -> None:
    """Stopped while a checkpoint is on its way: the newest state is saved, and the end has the bits of a whole run."""
    whole = network()
    disk.may.set()
    train(tmp_path / "whole", recipe(epochs=3), whole)
    disk.may.clear()
    disk.begun.clear()
    with Store(tmp_path / "b").begin("k") as opened:
        interrupt = Interrupt()
        chosen: Job = job(opened, recipe(epochs=3), network(), interrupt=interrupt, checkpoint_steps=4)
        training = Training(chosen)
        step = training.train_step

        def counted(batch: dict[str, Tensor]) -> None:
            step(batch)
            if training.step == 6:  # two steps after the checkpoint was begun
                assert disk.begun.is_set() and not training.saving._pending.future.done()  # type: ignore[union-attr]
                interrupt.requested = True
                disk.may.set()

        training.train_step = counted  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            training.run()
        assert steps(opened) == {"step-4", "step-7"}
        again = Training(job(opened, recipe(epochs=3), network()))
        assert again.step == 7
        newest = opened.latest_checkpoint()
        assert newest is not None
        held = below("model", read_tensors(newest))
        assert all(torch.equal(held[n], t) for n, t in again.job.phase_graph.state().items())
        again.run()
        assert same(again.job.phase_graph.networks[0], whole)


def test_epochs_that_end_soon_after_a_costly_checkpoint_get_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At ends of epochs a checkpoint takes at most a hundredth of the time."""
    with Store(tmp_path).begin("k") as opened:
        training = Training(job(opened, recipe(), network(), checkpoint_seconds=1000))
        saved: list[int] = []
        monkeypatch.setattr(training, "save", lambda at_once=False: saved.append(training.step))
        for since, cost in ((0.5, 0.0), (3.0, 0.02), (3.0, 0.04)):
            training.saved_at = saving.time.monotonic() - since
            training.saving.cost = cost
            training.save_and_report(0, last=True)
        assert len(saved) == 1

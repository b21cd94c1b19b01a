"""Processes that load data: killed, stopped, ended by their own code, and never left behind."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.data.workers import PATIENCE, patience
from kdplan.diagnostics.report import PlanError

SPEC = ViewSpec("image_folder", (("path", "a"),), augment=(transform("center_crop", [8]),))


@pytest.fixture
def loader(images, tmp_path):
    images(tmp_path / "a")
    made = Loader(open_view(SPEC, tmp_path, cache=tmp_path), 1, 0, True, workers=1)
    yield made
    made.close()
    assert not multiprocessing.active_children()


def _child():
    (process,) = multiprocessing.active_children()
    return process.pid


def test_a_process_that_is_killed(loader):
    batches = loader.epoch(0)
    next(batches)
    os.kill(_child(), signal.SIGKILL)
    with pytest.raises(PlanError, match=r"KD0737.*`image_folder` was ended by SIGKILL"):
        list(batches)
    assert len(list(loader.epoch(0))) == loader.steps_per_epoch  # with a new process


def test_a_process_that_is_stopped(loader, monkeypatch):
    monkeypatch.setenv(PATIENCE, "1")
    batches = loader.epoch(0)
    next(batches)
    os.kill(_child(), signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(PlanError, match=r"KD0737.*gave nothing for 1 s"):
        list(batches)
    assert time.monotonic() - began < 30
    assert not multiprocessing.active_children()


def test_a_process_that_ends_itself(loader, monkeypatch):
    monkeypatch.setattr(loader.dataset, "raw", lambda *_: os._exit(7))
    with pytest.raises(PlanError, match=r"KD0737.*ended itself with code 7"):
        list(loader.epoch(0))


@pytest.mark.parametrize("problem", [RuntimeError("of the loading code"), ValueError("of the loading code")])
def test_an_error_of_the_loading_code_stays_itself(loader, monkeypatch, problem):
    def raw(*_):
        raise problem

    monkeypatch.setattr(loader.dataset, "raw", raw)
    with pytest.raises(type(problem), match="of the loading code"):
        list(loader.epoch(0))


def test_a_stopped_process_is_not_left_behind(images, tmp_path):
    images(tmp_path / "a")
    made = Loader(open_view(SPEC, tmp_path, cache=tmp_path), 1, 0, True, workers=1)
    batches = made.epoch(0)
    next(batches)
    pid = _child()
    os.kill(pid, signal.SIGSTOP)
    del batches, made
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_batches_are_what_they_were(loader):
    first, second = list(loader.epoch(0)), list(loader.epoch(0))
    assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(first, second, strict=True))


def test_a_time_that_is_no_number(monkeypatch):
    monkeypatch.setenv(PATIENCE, "soon")
    with pytest.raises(PlanError, match=r"KD0738.*soon"):
        patience()

"""Weights of certain epochs of a running phase: the best so far, and those that the recipe keeps.

Each is a file named by its epoch, written before the checkpoint that names it. So a phase that resumes from an
older checkpoint has that checkpoint's files untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from kdplan.ir.plan import Plain
from kdplan.runtime.checkpoint import tensor_file
from kdplan.runtime.store.atomic import digest_file, make_folder, write
from kdplan.runtime.store.errors import StoreCorrupt


def snapshot_file(epoch: int, slot: int) -> str:
    """The name of the file with a network's weights after an epoch."""
    return f"epoch-{epoch}-{slot}.safetensors"


class Snapshots:
    """The snapshots of one running phase, in `folder`."""

    def __init__(self, folder: Path, networks: Sequence[nn.Module], confirm: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self.confirm = confirm
        """Is called before something is written; it raises where the phase is another process's by now."""
        self.networks = networks
        self.best: dict[str, Plain] | None = None
        """`epoch` and `score` of the best epoch so far."""
        self.kept: dict[str, int] = {}
        """Snapshot name -> epoch."""
        self.digests: dict[str, str] = {}
        self._saved: set[str] = set()

    def offer_best(self, epoch: int, score: float, larger_is_better: bool) -> None:
        """Keeps the weights as they stand if `score` is the best so far; of equal ones the earlier stays.

        A score that is no number is the best until there is a number, so that there is a best snapshot in any case.
        """
        best = self.best["score"] if self.best is not None else None
        better = best is not None and (score > best if larger_is_better else score < best)
        if best is None or better or (best != best and score == score):
            self.best = {"epoch": epoch, "score": score}
            self._write(epoch)

    def keep(self, name: str, epoch: int) -> None:
        """Keeps the weights as they stand, at the end of `epoch`, as snapshot `name`."""
        self.kept[name] = epoch
        self._write(epoch)

    def _write(self, epoch: int) -> None:
        self.confirm()
        make_folder(self.folder)
        for slot, network in enumerate(self.networks):
            path = self._path(epoch, slot)
            known = write(path, tensor_file(network.state_dict()))
            assert known is not None
            self.digests[path.name] = known.sha256

    def _path(self, epoch: int, slot: int) -> Path:
        return self.folder / snapshot_file(epoch, slot)

    def wanted(self) -> set[str]:
        """The files that a checkpoint of this moment names."""
        epochs = [*self.kept.values(), *([self.best["epoch"]] if self.best else [])]
        return {self._path(e, slot).name for e in epochs for slot in range(len(self.networks))}

    def state(self) -> dict[str, Plain]:
        """Plain values for a checkpoint."""
        wanted = self.wanted()
        self.digests = {name: digest for name, digest in self.digests.items() if name in wanted}
        return {"best": self.best, "kept": self.kept, "digests": self.digests}

    def load_state(self, state: dict[str, Plain]) -> None:
        """The inverse of `state`."""
        self.best, self.kept, self.digests = state["best"], dict(state["kept"]), dict(state["digests"])
        self._saved = self.wanted()

    def problem(self, state: dict[str, Plain]) -> str | None:
        """What is wrong with the files that a checkpoint's plain values name, in a sentence, or None."""
        for name, digest in state["digests"].items():
            path = self.folder / name
            if not path.is_file() or digest_file(path) != digest:
                return f"{path} is missing or altered."
        return None

    def tidy(self, named: set[str]) -> None:
        """Removes files that neither the two newest checkpoints name nor the next one will.

        `named` is what `wanted` was for the checkpoint that was just written.
        """
        if self.folder.is_dir():
            for entry in self.folder.iterdir():
                if entry.name not in named | self._saved | self.wanted():
                    entry.unlink()
        self._saved = named

    def files(self) -> dict[tuple[int, str], Callable[[Path], object]]:
        """(slot, snapshot) -> a function that writes its file, for the artifact.

        Raises
        ------
        StoreCorrupt
            KD0902 if a file was changed.
        """
        writers: dict[tuple[int, str], Callable[[Path], object]] = {}
        names = {"best": self.best["epoch"]} if self.best else {}
        for name, epoch in (names | self.kept).items():
            for slot in range(len(self.networks)):
                path = self._path(epoch, slot)
                if path.name not in self.digests:
                    continue  # the checkpoint is of an earlier version, which kept none of EMA copies
                if not path.is_file() or digest_file(path) != self.digests[path.name]:
                    raise StoreCorrupt.of("KD0902", path=path, folder=self.folder, what=f"snapshot {name}")
                writers[slot, name] = lambda target, path=path: target.write_bytes(path.read_bytes())  # type: ignore[misc]
        return writers

"""Artifacts of finished phases and checkpoints of running ones: folders whose files are checked by a manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from kdplan.ir.dag import Component, PhaseKey
from kdplan.ir.plan import Plain
from kdplan.runtime.store import manifest
from kdplan.runtime.store.errors import StoreCorrupt, StoreMissing
from kdplan.runtime.store.sealed import CHECK

FINAL, FINAL_STATE = "final.safetensors", "final.json"
"""An artifact's files with its phase's last state, where the phase may be trained further."""


@dataclass(slots=True)
class Folder:
    """A finished folder of the store. Sizes are checked when it is opened, hashes when a file is read."""

    path: Path
    what: str
    """How messages call it."""
    files: manifest.Manifest
    _hashed: set[str] = field(default_factory=set)

    def file(self, name: str) -> Path:
        """The path of file `name`, its hash compared once with the manifest's.

        Raises
        ------
        StoreMissing
            KD0909 if the folder never had such a file.
        StoreCorrupt
            KD0902 if the file was changed.
        """
        self._known(name)
        if name not in self._hashed:
            manifest.check(self.path, name, self.files, self.what)
            self._hashed.add(name)
        return self.path / name

    def read(self, name: str) -> bytes:
        """The content of file `name`, compared with the manifest."""
        self._known(name)
        path = self.path / name
        try:
            content = path.read_bytes()
        except OSError as problem:
            state = f"unreadable ({problem.strerror})"
            raise StoreCorrupt.of("KD0903", path=path, folder=self.path, what=self.what, state=state) from problem
        manifest.check(self.path, name, self.files, self.what, content)
        return content

    def json(self, name: str) -> Plain:
        """The value in the JSON file `name`."""
        return json.loads(self.read(name))

    def verify(self) -> None:
        """Compares every file's hash."""
        for name in self.files:
            manifest.check(self.path, name, self.files, self.what)
            self._hashed.add(name)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(size for size, _ in self.files.values())

    def _known(self, name: str) -> None:
        if name not in self.files:
            known = ", ".join(sorted(self.files))
            raise StoreMissing.of("KD0909", what=self.what, name=name, known=known)


@dataclass(slots=True)
class Artifact(Folder):
    """Results of a finished phase: `weights-<slot>-<snapshot>.safetensors`, metrics, summary, phase, environment."""

    key: str = ""

    @staticmethod
    def weights_name(slot: int = 0, snapshot: str = "last") -> str:
        """The file that holds the weights of the phase's `trainees[slot]`.

        >>> Artifact.weights_name(1, "epoch=100")
        'weights-1-epoch=100.safetensors'
        """
        return f"weights-{slot}-{snapshot}.safetensors"

    def weights(self, slot: int = 0, snapshot: str = "last") -> bytes:
        """A safetensors file's content, for `safetensors.torch.load` or `safetensors.numpy.load`."""
        return self.read(self.weights_name(slot, snapshot))

    def snapshots(self, slot: int = 0) -> list[str]:
        """The snapshots that are kept of `trainees[slot]`: `last`, `best`, `ema`, `epoch=100` …"""
        head, tail = f"weights-{slot}-", ".safetensors"
        return [n.removeprefix(head).removesuffix(tail) for n in self.files if n.startswith(head) and n.endswith(tail)]

    @property
    def extendable(self) -> bool:
        """Whether it holds the state from which its phase can be trained further."""
        return FINAL in self.files and FINAL_STATE in self.files

    @property
    def summary(self) -> dict[str, Plain]:
        """The phase's results in short."""
        value = self.json("summary.json")
        assert isinstance(value, dict)
        return value

    def metrics(self) -> list[dict[str, Plain]]:
        """The lines of metrics.jsonl."""
        records = [json.loads(line) for line in self.read("metrics.jsonl").splitlines() if line.strip()]
        return [{name: value for name, value in record.items() if name != CHECK} for record in records]

    def phase_key(self) -> PhaseKey:
        """The components of the phase's key, for reporting what has changed since."""
        return phase_key_from_json(self.json("phase.json"))


@dataclass(slots=True)
class Checkpoint(Folder):
    """A state from which a phase resumes."""

    step: int = 0

    @property
    def state(self) -> dict[str, Plain]:
        """The plain values that were saved with the tensors."""
        value = self.json("state.json")
        assert isinstance(value, dict)
        return value


def phase_json(name: str, plan_file: str, key: PhaseKey) -> dict[str, Plain]:
    """The content of phase.json."""
    return {
        "name": name,
        "plan": plan_file,
        "key": key.key,
        "components": _plain(key.components),
        "reads": dict(key.reads),
        "details": _plain(key.details),
    }


def _plain(components: list[Component]) -> list[Plain]:
    return [{"path": c.path, "value": c.value, "at": c.at} for c in components]


def phase_key_from_json(data: dict[str, Plain]) -> PhaseKey:
    """The inverse of `phase_json`, without spans.

    >>> key = PhaseKey("k", [Component("loss/0", "kd", at="a.kd:1:2")], {"t.train": "j"})
    >>> phase_key_from_json(phase_json("kd", "a.kd", key)) == key
    True
    """
    components, details = (
        [Component(c["path"], c["value"], at=c["at"]) for c in data.get(name, [])] for name in ("components", "details")
    )
    return PhaseKey(data["key"], components, dict(data["reads"]), details)

"""How fast devices were: `speeds/<device>/<key of a phase>.json`, one file for each phase that was trained there.

stacks/<device>/<key>.json    the time of a stack of phases, in parts of that of its phases alone
speeds.json    one speed a device, of earlier versions: it counts where nothing newer is known
"""

from __future__ import annotations

import os
import statistics
from contextlib import suppress
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from kdplan.runtime.store.atomic import names_in
from kdplan.runtime.store.processes import is_temporary
from kdplan.runtime.store.sealed import read_sealed, write_sealed_files

NEWEST = 15
"""The speed of a device is the median of so many phases, the newest that were trained there."""


class Speeds:
    """The measured speeds in the store at `root`.

    Examples
    --------
    >>> import tempfile
    >>> speeds = Speeds(Path(tempfile.mkdtemp()))
    >>> for number, speed in enumerate([1e9, 5e9, 2e9]):
    ...     speeds.keep("cpu", f"k{number}", speed)
    >>> speeds.all()
    {'cpu': 2000000000.0}
    """

    def __init__(self, root: Path) -> None:
        self.folder, self.old = root / "speeds", root / "speeds.json"
        self.stacks = root / "stacks"

    def all(self) -> dict[str, float]:
        """Device -> floating-point operations a second, the median of the newest phases."""
        known = {name: float(speed) for name, speed in read_sealed(self.old).items()}
        for folder in self.folders():
            sound = (record for path in _newest_first(folder) if (record := read_sealed(path)))
            records = list(islice(sound, NEWEST))
            if records:
                known[str(records[0]["device"])] = statistics.median(float(r["speed"]) for r in records)
        return known

    def keep(self, device: str, phase: str, speed: float) -> None:
        """Notes how fast the phase with a key was trained on a device, in floating-point operations a second."""
        path = self.folder / quote(device, safe="") / f"{phase}.json"
        write_sealed_files({path: {"device": device, "speed": speed}})

    def stack_ratio(self, device: str, stack: str) -> float | None:
        """The time of a step of a stack, in parts of that of its phases alone; None where that was not measured."""
        known = read_sealed(self.stacks / quote(device, safe="") / f"{stack}.json")
        return float(known["ratio"]) if known else None

    def keep_stack_ratio(self, device: str, stack: str, ratio: float) -> None:
        """Notes what was measured, for a stack with a key."""
        write_sealed_files({self.stacks / quote(device, safe="") / f"{stack}.json": {"device": device, "ratio": ratio}})

    def forget(self, phases: set[str]) -> None:
        """Removes what is of the phases with these keys."""
        for folder in self.folders():
            for phase in phases:
                (folder / f"{phase}.json").unlink(missing_ok=True)

    def folders(self) -> list[Path]:
        """The folder of each device."""
        return [self.folder / name for name in names_in(self.folder) if not is_temporary(name)]


def _newest_first(folder: Path) -> list[Path]:
    times = []
    for name in names_in(folder):
        if not is_temporary(name):
            with suppress(OSError):  # removed meanwhile
                times.append((os.stat(folder / name).st_mtime_ns, folder / name))
    return [path for _, path in sorted(times, reverse=True)]

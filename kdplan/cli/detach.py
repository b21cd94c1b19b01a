"""`kdplan run --detach`: the run goes on in a process of its own, which outlives the terminal."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from kdplan.runtime.store import Store
from kdplan.runtime.store.atomic import make_folder
from kdplan.runtime.store.errors import writing
from kdplan.runtime.worker import command

DETACHED = "KDPLAN_DETACHED"
"""Set for the process that goes on, which has the same arguments."""


def is_detached() -> bool:
    """Whether this process is the one that goes on."""
    return bool(os.environ.get(DETACHED))


def detach(arguments: Sequence[str], store: Store, plan: Path) -> str:
    """Start `kdplan` with the same arguments in the background; what to know of it, in a few lines.

    Its output goes to a file in the folder `runs` of the store.

    Raises
    ------
    StoreUnwritable
    """
    folder = store.root / "runs"
    make_folder(folder)
    log = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}.log"
    with writing(log), log.open("ab") as output:
        process = subprocess.Popen(
            command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {DETACHED: "1"},
            start_new_session=True,  # a terminal that closes does not end it
        )
    return (
        f"process {process.pid} runs {plan}; its output goes to {log}\n"
        f"`kdplan status {plan}` shows the phases; `kill {process.pid}` stops at a checkpoint"
    )

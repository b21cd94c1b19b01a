"""Several runs of one plan at once on one store, started at random moments, some of them killed; round after round.

    python -m tests.faults.together 100

One of them trains a phase, the others wait for it. All end well, each with all artifacts, as a run alone makes them,
and no phase was trained twice.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.sweep import Bench, digests, preload


def round_of(bench: Bench, draw: random.Random) -> list[str]:
    """What is wrong after one round; [] if nothing is."""
    import shutil

    shutil.rmtree(bench.store, ignore_errors=True)
    children = []
    for number in range(draw.randint(2, 8)):
        output = bench.folder / f"output-{number}"
        pid = os.fork()
        if pid == 0:
            bench._run(bench.store, None, output)
        children.append((pid, output))
        time.sleep(draw.random() * 0.2)
    for pid, _ in children:
        if draw.random() < 0.2:
            os.kill(pid, signal.SIGKILL)
    wrong = []
    for pid, output in children:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = output.read_text(errors="replace")
        if code not in (0, -signal.SIGKILL) or "Traceback" in said:
            wrong.append(f"a run ended with {code}: {said[-800:]}")
    wrong += bench.problems()
    if digests(bench.store) != bench.digests:
        wrong.append("other artifacts")
    return wrong


def main(rounds: int, seed: int = 0) -> dict[str, object]:
    """So many rounds: how many runs there were and what was wrong."""
    preload()
    draw, wrong = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), "distil")
        for number in range(rounds):
            found = round_of(bench, draw)
            if found:
                print(number, found, file=sys.stderr, flush=True)
            wrong += [f"round {number}: {text}" for text in found]
    return {"rounds": rounds, "wrong": wrong}


if __name__ == "__main__":
    result = main(int(sys.argv[1]))
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["wrong"]))

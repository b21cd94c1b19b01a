"""Ranks other than the first: they compute their shards, and do what rank 0 orders."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory

from kdplan.diagnostics.boundary import foreign
from kdplan.diagnostics.report import PlanError, error
from kdplan.graph.state import draws_undone
from kdplan.ir.dag import PhaseKey
from kdplan.ir.plan import Plan
from kdplan.runtime.agreed import mark
from kdplan.runtime.interrupt import Interrupt
from kdplan.runtime.job import Job
from kdplan.runtime.loop import Training
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import PhaseRun, begin, in_its_surroundings, make_job
from kdplan.runtime.ranks import Abandoned, Order, Ranks
from kdplan.runtime.store import Store
from kdplan.runtime.versions import SharedSources


class _Back(Exception):
    """Rank 0 has gone back to an earlier state."""


class Following(Training):
    """The training of a job whose store, validation and reports are rank 0's."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.first = None  # rank 0 compares the first shard

    def run(self) -> None:
        """Trains from the state that rank 0 sends to the last step.

        Raises
        ------
        Abandoned
            When rank 0 stops.
        """
        while not self.finished:
            try:
                self.train_epoch()
            except _Back:
                state = self.recovery.back()
                self.load(*state)
                self.job.streams.reseed(self.recovery.seed)

    def restore(self) -> None:
        """Loads the state that rank 0 sends, or stays at the start."""
        self.start(self.job.ranks.share_state(None))

    def after_step(self, epoch: int) -> None:
        """Does what rank 0 orders, up to the next step."""
        ranks = self.job.ranks
        while (order := (received := ranks.receive())["what"]) != "go":
            if order == "epoch":
                self.follow_epoch()
            elif order == "parts" and self.parallel is not None:
                self.parallel.write_parts(self, received["folder"])
            elif order == "collect":
                self.checkpoint(received["optimisers"])
            elif order == "agree":
                ranks.gather_numbers([mark(self)])
            elif order == "back":
                raise _Back

    def follow_epoch(self) -> None:
        """Ends an epoch as rank 0 has ended it, but for what is validated and written."""
        loss = self.watch.means()["loss"]
        self.watch.start_epoch()
        self.optimisers.end_epoch(loss)
        self.recovery.skipped = 0
        if self.recovery.times:
            self.recovery.remember(self.checkpoint())


Compiled = tuple[Plan, dict[str, PhaseKey]]


def follow(
    compiled: Callable[[], Compiled], store: Store, options: RunOptions, report: Callable[[PlanError], None]
) -> int:
    """Trains with rank 0 until it ends the run.

    Parameters
    ----------
    compiled
        Gives the plan with its keys; called when the first phase begins.
    store
        Where frozen values are, if any.
    options
        Their `ranks` are those of this process.
    report
        Shows an error that only this rank has.

    Returns
    -------
    int
        The exit code of rank 0.
    """
    ranks, known = options.ranks, None
    assert ranks is not None
    with Interrupt() as interrupt:
        while True:
            try:
                order = ranks.receive("phase", "end")
                if order["what"] == "end":
                    ranks.leave()
                    return int(order["code"])
                known = known or compiled()
                _train(*known, store, options, ranks, interrupt, order)
            except Abandoned as left:
                if left.problem is not None:
                    report(
                        left.problem if isinstance(left.problem, PlanError) else foreign("KD0016", None, left.problem)
                    )


@draws_undone()
def _train(
    plan: Plan,
    keys: dict[str, PhaseKey],
    store: Store,
    options: RunOptions,
    ranks: Ranks,
    interrupt: Interrupt,
    order: Order,
) -> None:
    """One phase, up to its last step."""
    name = str(order["name"])
    if name not in keys or keys[name].key != order["key"]:
        raise error("KD0955", plan.phases[name].span if name in keys else None, phase=name, rank=ranks.rank)
    phase = plan.phases[name]
    run = PhaseRun(SharedSources(plan, store, keys, ranks), options, interrupt=interrupt, ranks=ranks)
    device = begin(run, phase)
    # What a job writes down besides its orders is of no interest: it goes with the folder.
    with TemporaryDirectory(prefix="kdplan-") as folder, Store(folder).begin(keys[name].key) as work:
        training = Following(make_job(run, phase, keys[name].key, work, device))
        with in_its_surroundings(training):
            training.run()

"""What a phase does about a loss, gradient or weight that is not finite."""

from __future__ import annotations

from kdplan.ir.spec import Param, Spec

POLICIES: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("stop", (), "Fails the phase. Its checkpoints stay, and none of them holds a value that is not finite."),
        Spec(
            "skip",
            (),
            "Leaves a step out whose loss or gradient is not finite: weights, buffers, averages and the optimizer's "
            "state stay as before it. The step counts, and so the schedule goes on. It costs a copy of the buffers and "
            "a look at the gradients in each step.",
        ),
        Spec(
            "rollback",
            (Param("times", "integer", 3, "how often a phase may go back before it fails", low=1),),
            "Goes back to the end of the last epoch, or to the start, and from there takes batches in another order "
            "and other random numbers. Its checkpoints hold that state, too, and are twice as large.",
        ),
    )
}
"""Name -> policy, as the recipe's setting `on_nan` takes it."""

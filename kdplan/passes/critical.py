"""How much work lies between a phase and the end of its plan."""

from __future__ import annotations

from collections.abc import Mapping

from kdplan.ir.dag import Planned


def critical(planned: Mapping[str, Planned]) -> dict[str, float]:
    """Phase name -> the cost of the longest path from its begin to the end of the plan.

    A cost is in predicted seconds, else in predicted floating-point operations, else in phases: the best that is known
    of all phases. Whoever runs the phase with the largest number first keeps the others waiting least.

    Examples
    --------
    >>> steps = {
    ...     "teacher": Planned("teacher", "k1", "run", [], []),
    ...     "alone": Planned("alone", "k2", "run", [], []),
    ...     "kd": Planned("kd", "k3", "run", [], ["teacher"]),
    ... }
    >>> critical(steps)
    {'teacher': 2.0, 'alone': 1.0, 'kd': 1.0}
    """
    own = _costs(planned)
    readers: dict[str, list[str]] = {name: [] for name in planned}
    for name, step in planned.items():
        for need in step.needs:
            readers.setdefault(need, []).append(name)
    paths: dict[str, float] = {}
    for name in reversed(list(planned)):  # every phase comes after those that it needs
        paths[name] = own[name] + max((paths[reader] for reader in readers[name]), default=0.0)
    return {name: paths[name] for name in planned}


def _costs(planned: Mapping[str, Planned]) -> dict[str, float]:
    costs = {name: step.cost for name, step in planned.items() if step.action not in ("cached", "blocked")}
    if costs and all(cost is not None and cost.seconds is not None for cost in costs.values()):
        own = {name: cost.seconds or 0.0 for name, cost in costs.items() if cost is not None}
    elif all(cost is not None for cost in costs.values()):
        own = {name: float(cost.flops_step * cost.steps) for name, cost in costs.items() if cost is not None}
    else:
        own = dict.fromkeys(costs, 1.0)
    return {name: own.get(name, 0.0) for name in planned}

"""The phase DAG: an edge from a phase to every phase that reads weights it made."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.plan import Averaged, Copied, Follows, Merged, Phase, Plan


def phase_dag(plan: Plan) -> nx.DiGraph[str]:
    """The phases in the order of the plan, with edges along which weights flow; an edge's `versions` names them.

    Raises
    ------
    PlanError
        KD0303 if phases wait for each other (a plan built in Python may do so).

    Examples
    --------
    >>> from kdplan.ir.plan import Item, Move, Network, Recipe, View
    >>> recipe = Recipe(Item("sgd"), epochs=1)
    >>> one = ir.Const(1.0)
    >>> a = Phase("a", [Move(ir.Version("n"))], [View("d")], [recipe], one)
    >>> b = Phase("b", [Move(ir.Version("n", "a"))], [View("d")], [recipe], one)
    >>> plan = Plan(networks={"n": Network("n", Item("mlp"))}, phases={"a": a, "b": b})
    >>> list(phase_dag(plan).edges)
    [('a', 'b')]
    """
    dag: nx.DiGraph[str] = nx.DiGraph()
    dag.add_nodes_from(plan.phases)
    for name, phase in plan.phases.items():
        for version in versions_read(phase):
            for made_by in makers(plan, version):
                if dag.has_edge(made_by, name):
                    dag.edges[made_by, name]["versions"].append(str(version))
                else:
                    dag.add_edge(made_by, name, versions=[str(version)])
    if not nx.is_directed_acyclic_graph(dag):
        cycle = [edge[0] for edge in nx.find_cycle(dag)]
        raise error("KD0303", plan.phases[cycle[0]].span, what="Phases", cycle=" → ".join([*cycle, cycle[0]]))
    return dag


def versions_read(phase: Phase) -> Iterator[ir.Version]:
    """Every version that a phase starts from or looks at."""
    for move in phase.moves:
        yield move.base
    for root in (phase.loss, *phase.logged.values()):
        for e in ir.walk(root):
            if isinstance(e, ir.Tap) and isinstance(e.of, ir.Version):
                yield e.of


def makers(plan: Plan, version: ir.Version) -> Iterator[str]:
    """The phases whose weights make up a version: one, or for a network made from networks, those of its parts."""
    if version.phase is not None:
        yield version.phase
        return
    origin = plan.networks[version.network].origin
    if isinstance(origin, Copied):
        yield from makers(plan, origin.version)
    elif isinstance(origin, Merged | Averaged):
        for part in origin.versions:
            yield from makers(plan, part)


def slot_of(plan: Plan, version: ir.Version) -> int:
    """Which of a phase's moves left this version.

    A network that follows another one of the phase stands behind the moves, in the order of the plan's networks.
    """
    assert version.phase is not None, version
    phase = plan.phases[version.phase]
    for slot, move in enumerate(phase.moves):
        if move.base.network == version.network:
            return slot
    followers = follower_names(plan, phase)
    assert version.network in followers, f"{version} is not moved by its phase"
    return len(phase.moves) + followers.index(version.network)


def follower_names(plan: Plan, phase: Phase) -> list[str]:
    """Networks in a phase's loss that follow one of those it moves."""
    used = {e.of.network for r in (phase.loss, *phase.logged.values()) for e in ir.walk(r)
            if isinstance(e, ir.Tap) and isinstance(e.of, ir.Version)}  # fmt: skip
    return [n for n in plan.networks if n in used and isinstance(plan.networks[n].origin, Follows)]


def order(dag: nx.DiGraph[str]) -> list[str]:
    """Phases so that each stands after what it reads; otherwise in the order of the text."""
    position = {name: i for i, name in enumerate(dag.nodes)}
    return list(nx.lexicographical_topological_sort(dag, key=position.__getitem__))

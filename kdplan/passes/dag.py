"""The phase DAG: an edge from a phase to every phase that reads weights it made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdplan.diagnostics.report import error
from kdplan.ir.plan import Plan
from kdplan.ir.versions import makers, versions_of

if TYPE_CHECKING:
    import networkx as nx  # imported where a plan is compiled


def phase_dag(plan: Plan) -> nx.DiGraph[str]:
    """The phases in the order of the plan, with edges along which weights flow; an edge's `versions` names them.

    Raises
    ------
    PlanError
        KD0303 if phases wait for each other (a plan built in Python may do so).

    Examples
    --------
    >>> from kdplan.ir import expr as ir
    >>> from kdplan.ir.plan import Item, Trainee, Network, Phase, Plan, Recipe, View
    >>> recipe = Recipe(Item("sgd"), epochs=1)
    >>> one = ir.Const(1.0)
    >>> a = Phase("a", [Trainee(ir.Version("n"))], [View("d")], [recipe], one)
    >>> b = Phase("b", [Trainee(ir.Version("n", "a"))], [View("d")], [recipe], one)
    >>> plan = Plan(networks={"n": Network("n", Item("mlp"))}, phases={"a": a, "b": b})
    >>> list(phase_dag(plan).edges)
    [('a', 'b')]
    """
    import networkx as nx

    dag: nx.DiGraph[str] = nx.DiGraph()
    dag.add_nodes_from(plan.phases)
    for name, phase in plan.phases.items():
        for version in versions_of(phase):
            for made_by in makers(plan, version):
                if dag.has_edge(made_by, name):
                    dag.edges[made_by, name]["versions"].append(str(version))
                else:
                    dag.add_edge(made_by, name, versions=[str(version)])
    if not nx.is_directed_acyclic_graph(dag):
        edges = nx.find_cycle(dag)
        cycle = [edge[0] for edge in edges]
        network = dag.edges[edges[0]]["versions"][0].partition("@")[0]
        text = " → ".join([*cycle, cycle[0]])
        raise error("KD0303", plan.phases[cycle[0]].span, what="Phases", cycle=text, network=network)
    return dag


def order(dag: nx.DiGraph[str]) -> list[str]:
    """Phases so that each stands after what it reads; otherwise in the order of the text."""
    import networkx as nx

    position = {name: i for i, name in enumerate(dag.nodes)}
    return list(nx.lexicographical_topological_sort(dag, key=position.__getitem__))

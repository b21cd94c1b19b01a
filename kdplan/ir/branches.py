"""Networks with branches: what their architecture is called, and how their parts are named."""

from __future__ import annotations

from kdplan.ir.outputs import canonical
from kdplan.ir.plan import Network

BRANCHED = "kdplan.graph.branched:branched"
"""The architecture of a network with branches: its arguments are those of that function."""
BRANCH = "branch"
"""Where the branches are: `branch.0` is the first, whose weights have the plain network's own names."""
GATE = "gate"
PARTS = ("base", "gate")
"""Its arguments that are architectures themselves, each a name and settings."""
GATED = "gated"


def branches(network: Network) -> int:
    """How many branches a network has; 0 where it is none with branches."""
    item = network.architecture
    return int(item.arguments["count"]) if item.name == BRANCHED else 0


def split(network: Network, path: str) -> tuple[str, str]:
    """A tap of a network as the branch that it is in and its name there.

    Examples
    --------
    >>> from kdplan.ir.plan import Item
    >>> one = Network("one", Item(BRANCHED, {"count": 2}))
    >>> split(one, "branch.1.logits"), split(one, "gated.logits"), split(one, "layer1.0")
    (('branch.1', 'logits'), ('', 'logits'), ('', 'layer1.0'))
    """
    words = path.split(".")
    if not branches(network):
        return "", path
    if words[0] == GATED:
        return "", ".".join(words[1:])
    if words[0] == BRANCH and len(words) > 1:
        return ".".join(words[:2]), ".".join(words[2:])
    return "", path


def tap_name(network: Network, path: str) -> str:
    """A tap of a network by its one name: its output is `logits`.

    >>> from kdplan.ir.plan import Item
    >>> tap_name(Network("small", Item("digits_net")), "output"), tap_name(Network("small", Item("digits_net")), "fc")
    ('logits', 'fc')
    """
    inside, rest = split(network, path)
    return ".".join(p for p in (inside, canonical(rest) or "logits") if p)

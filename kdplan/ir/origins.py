"""Where a network's weights come from: of which versions they are made, what of that enters keys, how a plan says it.

The weights themselves are made in `kdplan.runtime.networks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from kdplan.ir.expr import Location, Version, location, number_text
from kdplan.ir.json_form import ByKind

Content = dict[str, Any]
"""Plain values, as JSON holds them."""
Joined = Literal["probabilities", "logits", "stacked"]


@dataclass(frozen=True, slots=True)
class Spelled:
    """How a plan writes a network that starts from others: a function of plans with its arguments."""

    function: str
    """"" where the network itself stands, without a call."""
    networks: list[Version | str]
    """Versions, or names of networks that stand without a version."""
    settings: Content = field(default_factory=dict)
    path: str = ""
    """The part of the network that is meant."""
    held: bool = False
    """It stands in the call that writes the network's own architecture, as `base`."""


class _Origin:
    """What holds of an origin unless it says otherwise."""

    __slots__ = ()

    def parents(self) -> list[Version]:
        """The versions that the weights are made of."""
        return []

    def file(self) -> str | None:
        """The file that the weights are read from."""
        return None

    def spelled(self) -> Spelled | None:
        """The expression that makes the network; None where it is the architecture alone."""
        return None

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """What decides the weights, as a part of the network's content hash.

        Parameters
        ----------
        seed, arguments
            The network's own seed, and the arguments of its architecture.
        hashed
            The content hash of a version.
        """
        raise NotImplementedError


@dataclass(slots=True)
class Fresh(_Origin):
    """Weights drawn from the network's seed."""

    kind: Literal["fresh"] = "fresh"

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """See `_Origin.content`."""
        return {"seed": seed}


@dataclass(slots=True)
class Part:
    """Which tensors of a weights file a network loads; the others are drawn from its seed."""

    rename: list[list[str]] = field(default_factory=list)
    """Pairs: how names begin in the file, and in the network. Applied in order, once each."""
    only: list[str] = field(default_factory=list)
    """Paths in the network; [] means all."""
    excluded: list[str] = field(default_factory=list)
    """Paths in the network; the plan calls them `except`."""
    entry: str = ""
    """The table of tensors in a file of several: keys with dots between them."""

    def content(self) -> Content:
        """What differs from loading everything, as keys and arguments of architectures hold it."""
        settings = {
            "entry": self.entry,
            "rename": self.rename,
            "only": sorted(self.only),
            "except": sorted(self.excluded),
        }
        return {name: value for name, value in settings.items() if value}


@dataclass(slots=True)
class Loaded(_Origin):
    """Weights from a file of tensors; `fingerprint` is the hash of its content."""

    path: str
    fingerprint: str
    part: Part = field(default_factory=Part)
    kind: Literal["loaded"] = "loaded"
    span: Location = location()

    def file(self) -> str | None:
        """The file that the weights are read from."""
        return self.path

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """See `_Origin.content`."""
        content: Content = {"loaded": self.fingerprint}
        part = self.part.content()
        if part:
            content |= {"part": part}
        if "only" in part or "except" in part:
            content["seed"] = seed
        return content


@dataclass(slots=True)
class Copied(_Origin):
    """Another network's weights, as some phase left them."""

    version: Version
    branch: int | None = None
    """Of a network with branches: those of one branch, by the plain network's names."""
    grown: bool = False
    """The network has more weights than that version, which are drawn from the seed."""
    kind: Literal["copied"] = "copied"

    def parents(self) -> list[Version]:
        """The version that the weights are copied from."""
        return [self.version]

    def spelled(self) -> Spelled | None:
        """The version, or a branch of it."""
        path = "" if self.branch is None else f"branch.{self.branch}"
        return Spelled("", [self.version], path=path, held=self.grown)

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """See `_Origin.content`."""
        content: Content = {"copied": hashed(self.version)}
        if self.branch is not None:
            content["branch"] = self.branch
        if self.grown:
            content["seed"] = seed
        return content


@dataclass(slots=True)
class _OfSeveral(_Origin):
    versions: list[Version]

    def parents(self) -> list[Version]:
        """The versions that the weights are made of."""
        return self.versions


@dataclass(slots=True)
class Merged(_OfSeveral):
    """One network whose parts were trained apart: each parameter from the version that trained it."""

    kind: Literal["merged"] = "merged"

    def spelled(self) -> Spelled | None:
        """`merge(…)`."""
        return Spelled("merge", [*self.versions])

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """See `_Origin.content`."""
        return {"merged": [hashed(v) for v in self.versions]}


@dataclass(slots=True)
class Averaged(_OfSeveral):
    """The mean of several versions' weights."""

    kind: Literal["averaged"] = "averaged"

    def spelled(self) -> Spelled | None:
        """`average(…)`."""
        return Spelled("average", [*self.versions])

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """See `_Origin.content`."""
        return {"averaged": [hashed(v) for v in self.versions]}


@dataclass(slots=True)
class Ensembled(_OfSeveral):
    """The weights of several networks side by side, as members of one whose output is made of theirs."""

    mean: Joined = "probabilities"
    """Of what their mean is taken; or their scores stand side by side."""
    kind: Literal["ensembled"] = "ensembled"

    def spelled(self) -> Spelled | None:
        """`ensemble(…)` with the way in which scores are joined."""
        joined: Content = {"join": "concat"} if self.mean == "stacked" else {"mean": self.mean}
        return Spelled("ensemble", [*self.versions], joined)

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """What decides the weights and the output; the members' architectures are in their own hashes."""
        return {"architecture": [self.mean, arguments["orders"]], "ensembled": [hashed(v) for v in self.versions]}


@dataclass(slots=True)
class Perturbed(_OfSeveral):
    """One version's weights plus a vector of norm `distance` in a random direction that `seed` draws."""

    distance: float
    seed: int = 0
    kind: Literal["displaced"] = "displaced"

    def spelled(self) -> Spelled | None:
        """`perturbed(…)` with distance and seed."""
        return Spelled("perturbed", [*self.versions], {"distance": self.distance, "seed": self.seed})

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """See `_Origin.content`."""
        # keys are older than the word `perturbed`
        return {"displaced": [*(hashed(v) for v in self.versions), number_text(self.distance), self.seed]}


@dataclass(slots=True)
class EmaOf(_Origin):
    """A moving average (`decay`) of a network that the same phase trains: `ema(N, decay = 0.999)`."""

    network: str
    decay: float
    kind: Literal["follows"] = "follows"

    def parents(self) -> list[Version]:
        """The network whose weights it averages, as that network starts."""
        return [Version(self.network)]

    def spelled(self) -> Spelled | None:
        """`ema(…)` of the network, without a version."""
        return Spelled("ema", [self.network], {"decay": self.decay})

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """See `_Origin.content`."""
        return {"follows": [hashed(Version(self.network)), self.decay]}  # keys are older than the word `ema`


Origin = Annotated[Fresh | Loaded | Copied | Merged | Averaged | Ensembled | Perturbed | EmaOf, ByKind()]
ENSEMBLE = "kdplan.nn.ensemble:ensemble"
"""The architecture of a network whose origin is `Ensembled`: its arguments hold those of its members."""

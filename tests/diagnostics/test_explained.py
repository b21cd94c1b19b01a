"""What explanations and helps teach is what the language reads."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import PlanError, table
from kdplan.diagnostics.span import Source
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS
from kdplan.resolve.choices import choices
from kdplan.resolve.picks import SNAPSHOT_AXES
from kdplan.syntax import ast
from kdplan.syntax.parse import parse
from kdplan.syntax.walk import walk

AROUND = (
    "{}",
    "recipe r {{ {} }}",
    "def q = {}",
    "def q(x) = {}",
    "student s = x {{ {} }}",
    "phase p {}",
    "student {}",
    "measure m {}",
    "use {}",
    "def q = f({})",
    "def q = x{}",
)
"""Where a snippet may stand."""
CODE = re.compile(r"[\w\"')\]]\s*[=@\[({~+*/.]|[=@\[({~+*/.]\s*[\w\"(]")
OTHER = re.compile(
    r"^(kdplan|pip|--|KD|\$|\.|_|apt)|^(model|module|_orig_mod)\.$|torch|state_dict|nn\.|\.(py|kd|pth|npz|npy|csv|dot)\b"
)
"""Commands, files, PyTorch and endings."""
OPEN = re.compile(r"[=,({\[@]$|…$")
"""A beginning of an item: what follows it is left out."""


def snippets() -> Iterator[tuple[str, str]]:
    """Code in the explanations, without what is shown as wrong: behind `not` on the same sentence."""
    for code, row in table().items():
        text = re.sub(r"\s+", " ", row["explain"])
        for sentence in re.split(r"(?<=[.:]) (?=[A-Z`])", text):
            for snippet in re.findall(r"`([^`]+)`", re.split(r"\bnot `", sentence)[0]):
                if CODE.search(snippet) and not OTHER.search(snippet) and not OPEN.search(snippet):
                    yield code, snippet.replace("…", "x")


def read(snippet: str) -> ast.File | None:
    """The tree of a snippet where it first can stand."""
    for around in AROUND:
        try:
            return parse(Source("x.kd", around.format(snippet)))
        except PlanError:
            continue
    return None


FOUND = sorted(set(snippets()))


def test_there_are_snippets() -> None:
    assert len(FOUND) > 50


@pytest.mark.parametrize(("code", "snippet"), FOUND)
def test_is_read(code: str, snippet: str) -> None:
    """It parses, its kinds and their settings exist, and so do the functions that it calls."""
    tree = read(snippet)
    assert tree is not None, f"{code} teaches `{snippet}`"
    for node in walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.function, ast.Name) and len(node.function.name) > 1:
            assert node.function.name in known_names(), f"{code} teaches `{node.function.name}(…)`"
        if isinstance(node, ast.Declaration):
            assert node.kind in KINDS, f"{code} teaches the kind `{node.kind}`"
        if isinstance(node, ast.Setting) and len(node.name) > 1 and not node.name.startswith("w"):
            assert node.name in settings(), f"{code} teaches the setting `{node.name}`"


def settings() -> set[str]:
    """The settings of all kinds, and the parameters that a snippet may show by themselves."""
    rows = [*FUNCTIONS.values(), *PLAN_FUNCTIONS.values(), *(spec for t in choices().values() for spec in t.values())]
    named = {s.name for kind in KINDS.values() for s in kind.settings}
    return named | {p.name for spec in rows for p in spec.params} | {*SNAPSHOT_AXES}


def known_names() -> set[str]:
    """Everything that a plan can call, and the networks of the examples."""
    return {
        "small",
        "big",
        "plot",
        *FUNCTIONS,
        *PLAN_FUNCTIONS,
        *(name for rows in choices().values() for name in rows),
    }

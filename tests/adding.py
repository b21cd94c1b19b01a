"""Additions to the language that need changes of the package: each is applied as text to a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.structure import ROOT

Edit = tuple[str, str]
"""What stands in a file, and what replaces it; ("", text) is a new file."""

SOURCE: dict[str, list[Edit]] = {
    "kdplan/data/sources/stripes.py": [("", '''\
"""Stripes that lie or stand: two classes of images that are made, not read."""

from __future__ import annotations

import numpy as np

from kdplan.data.files import Where
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Opened, Part, SourceSpec
from kdplan.ir.spec import Param


def open_stripes(args: Arguments, where: Where) -> Opened:
    """As many images [1, 8, 8] of each split as `count` says."""
    labels = np.arange(args["count"]) % 2
    lying = np.tile(np.arange(8)[:, None] % 2 * 255, (1, 8)).astype(np.uint8)
    images = np.stack([lying.T if label else lying for label in labels])[:, None]
    part = Part(len(labels), lambda: images, lambda: labels)
    return Opened({"train": part, "test": part}, lambda: f"stripes-{args['count']}", ("lying", "standing"), None,
                  (1, 8, 8))


STRIPES = SourceSpec("stripes", (Param("count", "integer", 64, "images of a split", low=1),), "Stripes.",
                     open=open_stripes)
''')],
    "kdplan/data/catalog.py": [
        ("from kdplan.data.sources.svhn import SVHN\n",
         "from kdplan.data.sources.stripes import STRIPES\nfrom kdplan.data.sources.svhn import SVHN\n"),
        ("TEMPLATES, ARRAYS, USER)", "TEMPLATES, ARRAYS, STRIPES, USER)"),
    ],
}  # fmt: skip

CONSTRUCT: dict[str, list[Edit]] = {
    "kdplan/constructs/warmed.py": [("", '''\
"""`warmed`: a network's last layer is trained first, and then all of it.

warmed easy of small on D with R { loss = … }
↓
phase last of small.fc on D with R { loss = … }
phase whole of small@last on D with R { loss = … }
"""

from __future__ import annotations

from kdplan.constructs import tree
from kdplan.constructs.ask import Ask
from kdplan.constructs.construct import Construct
from kdplan.ir.settings import LOSS, RECIPE, SEED
from kdplan.ir.spec import Kind
from kdplan.syntax import ast


def lower(node: ast.Declaration, ask: Ask) -> list[ast.Declaration]:
    """Two phases: the last layer, and then the network."""
    (network,) = [e for c in node.clauses if c.word == "of" for e in c.exprs]
    shared = [c for c in node.clauses if c.word != "of"]
    last = ast.Version(network.span, network, "last", network.span)
    parts = {"last": tree.tap(network, "fc", network.span), "whole": last}
    return [
        tree.phase(name, node.head_span, [tree.clause("of", [part], network.span), *shared], list(node.items or []))
        for name, part in parts.items()
    ]


WARMED = Construct(
    Kind(
        "warmed",
        "Trains a network's last layer, and then all of it.",
        "warmed NAME of NETWORK on DATA with RECIPE { loss = … }",
        "warmed easy of small on digits with quick { loss = cross_entropy(small.logits, labels) }",
        clauses=("of", "on", "with"),
        required=("of", "on", "with"),
        settings=(LOSS, SEED, *RECIPE),
        inner=("def",),
    ),
    phases=lower,
)
''')],
    "kdplan/constructs/table.py": [
        ("from kdplan.constructs.stages import STAGES\n",
         "from kdplan.constructs.stages import STAGES\nfrom kdplan.constructs.warmed import WARMED\n"),
        ("AMALGAMATE, ENSEMBLE)}", "AMALGAMATE, ENSEMBLE, WARMED)}"),
    ],
}  # fmt: skip

DERIVED: dict[str, list[Edit]] = {
    "kdplan/ir/functions.py": [(
        '        Spec("ensemble",\n',
        '''        Spec("scaled", (Param("network", "network"), Param("factor", "number", 0.5, low=0)),
             "A version with all parameters times a factor.", result="network",
             example="scaled(small@alone, factor = 0.5)"),
        Spec("ensemble",
''')],
    "kdplan/resolve/derive/scaled.py": [("", '''\
"""`scaled(…)`: a network whose parameters are those of a version times a factor."""

from __future__ import annotations

from kdplan.ir.origins import Scaled
from kdplan.ir.spec import Spec
from kdplan.resolve.context import Context
from kdplan.resolve.derive.changed import changed
from kdplan.resolve.values import NetValue
from kdplan.syntax import ast


def scaled(spec: Spec, node: ast.Call, ctx: Context) -> NetValue:
    """The network that the call means; errors as in `changed`."""
    return changed(spec, node, ctx, lambda version, given: Scaled([version], given["factor"]))
''')],
    "kdplan/resolve/plan_functions.py": [
        ("from kdplan.resolve.spread import spread\n",
         "from kdplan.resolve.derive.scaled import scaled\nfrom kdplan.resolve.spread import spread\n"),
        ('    "perturbed": perturbed,\n', '    "perturbed": perturbed,\n    "scaled": scaled,\n'),
    ],
}  # fmt: skip
"""Where weights come from is new too: `ORIGIN`."""

ORIGIN: dict[str, list[Edit]] = {
    "kdplan/ir/origins.py": [
        ("@dataclass(slots=True)\nclass EmaOf", '''@dataclass(slots=True)
class Scaled(_OfSeveral):
    """One version's parameters times `factor`."""

    factor: float
    kind: Literal["scaled"] = "scaled"

    def spelled(self) -> Spelled | None:
        """`scaled(…)` with its factor."""
        return Spelled("scaled", [*self.versions], {"factor": self.factor})

    def content(self, seed: int, arguments: Content, hashed: Callable[[Version], str]) -> Content:
        """See `_Origin.content`."""
        return {"scaled": [hashed(self.versions[0]), number_text(self.factor)]}


@dataclass(slots=True)
class EmaOf'''),
        ("| Perturbed |", "| Perturbed | Scaled |"),
    ],
    "kdplan/runtime/networks.py": [
        ("Merged, Perturbed\n", "Merged, Perturbed, Scaled\n"),
        ("        case Ensembled(versions):\n", '''        case Scaled(versions, factor):
            net = materialise(sources, versions[0])
            with torch.no_grad():
                for p in net.parameters():
                    p.mul_(factor)
            return net
        case Ensembled(versions):
'''),
    ],
}  # fmt: skip

CHECK: dict[str, list[Edit]] = {
    "kdplan/diagnostics/errors/08_recipes.toml": [(
        "[KD0853]\n",
        """[KD0899]
title = "a batch of one sample"
message = "Phase `{phase}` has batches of one sample."
help = "Write a larger number, such as `batch = 64`."
explain = "Batch normalisation needs several samples."
[[KD0899.bad]]
plan = '''
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 1 }
student small = digits_net(width = 2)
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
'''
at = "1"

[KD0853]
""")],
    "kdplan/passes/legal.py": [(
        "    for recipe in phase.recipes[:1]:\n",
        """    for recipe in phase.recipes[:1]:
        if recipe.batch == 1:
            reporter.report("KD0899", recipe.spans.get("batch", recipe.span), phase=phase.name)
""")],
}  # fmt: skip

VIEW: dict[str, list[Edit]] = {
    "kdplan/view/outline.py": [("", '''\
"""The phases of a plan as an indented list."""

from __future__ import annotations

from kdplan.ir.plan import Plan
from kdplan.view import words


def outline(plan: Plan) -> str:
    """A line for each phase, and below it one for each network that it trains."""
    lines = []
    for name, phase in plan.phases.items():
        lines.append(f"{name}: {words.recipe(phase.recipes[0])}")
        lines += [f"  {trainee.base}" for trainee in phase.trainees]
    return "\\n".join(lines)
''')],
}  # fmt: skip

COMMAND: dict[str, list[Edit]] = {
    "kdplan/cli/commands.py": [(
        "def graph(arguments: argparse.Namespace) -> int:\n",
        '''def outline(arguments: argparse.Namespace) -> int:
    """`kdplan outline FILE`: print the phases of a plan as an indented list."""
    from kdplan.view.outline import outline as text

    print(text(compile_file(arguments).plan))
    return ExitCode.DONE


def graph(arguments: argparse.Namespace) -> int:
''')],
    "kdplan/cli/parser.py": [(
        '    status = _add(subparsers, "status"',
        '''    outline = _add(subparsers, "outline", commands.outline, "Print the phases as an indented list.")
    _add_plan_options(outline, store=False)
    status = _add(subparsers, "status"''')],
}  # fmt: skip

ADDITIONS = {
    "source": SOURCE,
    "construct": CONSTRUCT,
    "derived": DERIVED,
    "origin": ORIGIN,
    "check": CHECK,
    "view": VIEW,
    "command": COMMAND,
}

PLAN = """\
data lines = stripes(count = 48)
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 16 }
student small = digits_net(width = 2, classes = lines.classes)
warmed easy of small on lines with quick { loss = cross_entropy(small.logits, labels) }
network weak = scaled(small@easy)
network zero = scaled(small@easy, factor = 0)
measure table of small@easy, weak, zero on lines.test { cross_entropy }
export tiny = weak
"""

SCRIPT = """\
import contextlib, io, json
from pathlib import Path

import kdplan
from kdplan.cli import main
from kdplan.compile import check_text, compile_source
from kdplan.diagnostics.report import silenced, table
from kdplan.diagnostics.span import Source
from kdplan.passes.expand import expand
from kdplan.view.examples import examples
from kdplan.view.reference import main as reference

NEW = ("kind warmed", "function scaled", "source stripes")
README = str(Path(kdplan.__file__).parent.parent / "grammar" / "README.md")


def printed(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(arguments) == 0, arguments
    return out.getvalue()


compiled = compile_source(Source("plan.kd", Path("plan.kd").read_text()), Path("."))
expanded = printed("expand", "plan.kd")
bad = table()["KD0899"]["bad"][0]["plan"]
with silenced("KD0899"):
    silent = check_text(bad)
answers = {
    "checked": printed("check", "plan.kd"),
    "phases": list(compiled.plan.phases),
    "keys": sorted(k.key for k in compiled.keys.values()),
    "expanded": expanded,
    "again": expand(compile_source(Source("again.kd", expanded), Path(".")).plan),
    "keys_again": sorted(k.key for k in compile_source(Source("again.kd", expanded), Path(".")).keys.values()),
    "outline": printed("outline", "plan.kd"),
    "run": printed("run", "plan.kd", "--store", "store", "--csv", "csv", "--device", "cpu"),
    "export": printed("export", "plan.kd", "tiny", "--store", "store", "-o", "tiny"),
    "drawn": printed("graph", "plan.kd", "--store", "store", "-o", "plan.mmd"),
    "diagnostics": [[d.code, d.span.text] for d in check_text(bad)],
    "silent": [d.code for d in silent],
    "explained": printed("explain", "KD0899"),
    "examples": {e.of: [d.code for d in check_text(e.plan)] for e in examples() if e.of in NEW},
    "reference": reference([README]),
}
Path("answers.json").write_text(json.dumps(answers))
"""


def copy_package(target: Path) -> None:
    """The package and its grammar, as they stand in a checkout."""
    for name in ("kdplan", "grammar"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))


def apply(addition: dict[str, list[Edit]], target: Path) -> None:
    """Change a copy of the package; what an edit replaces stands there exactly once."""
    for name, edits in addition.items():
        file = target / name
        for old, new in edits:
            text = file.read_text(encoding="utf-8") if old else ""
            assert text.count(old) == 1 if old else not file.exists(), f"{name}: {old}"
            file.write_text(text.replace(old, new) if old else new, encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a copy, apart from what Python compiles."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc"]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def differing(one: dict[str, bytes], two: dict[str, bytes]) -> set[str]:
    """The files that only one of two copies has, or that differ."""
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}

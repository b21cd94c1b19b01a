"""How the source is built, in numbers: `python -m tests.bench.bench_structure`.

Files and lines by folder, import circles, calls and switches between files while the quickstart's one loss is
evaluated, `Any` in signatures, functions without a docstring, identifiers that name no content, and the length of the
documents.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from types import FrameType
from typing import Any

from tests.bench.ratios import Ratios, entry
from tests.structure import ROOT, SOURCES, circles

VAGUE = ("found", "made", "told", "said", "handed", "beside")


def folders() -> dict[str, tuple[int, int]]:
    """Folder → files, lines."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for file in SOURCES:
        folder = str(file.relative_to(ROOT).parent)
        files[folder] += 1
        lines[folder] += len(file.read_text(encoding="utf-8").splitlines())
    return {f: (files[f], lines[f]) for f in sorted(files)}


def functions() -> tuple[int, int, int]:
    """Functions, those without a docstring, and `Any` in signatures."""
    count = bare = loose = 0
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count += 1
                bare += ast.get_docstring(node) is None and not node.name.startswith("_")
                every = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
                every += [a for a in (node.args.vararg, node.args.kwarg) if a]
                notes = [a.annotation for a in every if a.annotation] + ([node.returns] if node.returns else [])
                loose += sum(any(isinstance(n, ast.Name) and n.id == "Any" for n in ast.walk(note)) for note in notes)
    return count, bare, loose


def bindings() -> Counter[str]:
    """How often each vague name is bound."""
    found: Counter[str] = Counter()
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
                found[node.id] += 1
            elif isinstance(node, ast.arg) and node.arg in VAGUE:
                found[node.arg] += 1
    return found


def switches() -> tuple[int, int, int]:
    """Calls, files, and calls that cross files, while the loss of the quickstart's `distil` is evaluated once."""
    from kdplan import compile as pipeline
    from kdplan.diagnostics.span import Source

    calls: list[tuple[str, str]] = []
    depth = 0

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal depth
        file = frame.f_code.co_filename
        own = str(ROOT / "kdplan") in file
        if event not in ("call", "return") or not own:
            return
        at_loss = frame.f_code.co_name == "_loss" and file.endswith("phase.py")
        if event == "call":
            if depth and not frame.f_code.co_name.startswith("<"):
                caller = frame.f_back.f_code.co_filename if frame.f_back else ""
                calls.append((caller, file))
            if at_loss or depth:
                depth += 1
        elif depth:
            depth -= 1

    plan = ROOT / "plans" / "quickstart.kd"
    text = plan.read_text(encoding="utf-8").replace("seed in 0..2", "seed = 0")
    text = re.sub(r"(?s)\nphase alone.*?\n}|\nmeasure[^\n]*|\nexport[^\n]*|\n  phase train[^\n]*", "", text)
    text = text.replace("big.logits", "big@init.logits")
    sys.setprofile(profile)
    try:
        pipeline.compile_source(Source("quickstart.kd", text), plan.parent)
    finally:
        sys.setprofile(None)
    return len(calls), len({file for _, file in calls}), sum(a != b for a, b in calls)


def documents() -> dict[str, tuple[int, int, int]]:
    """Document → words, lines, words of its longest paragraph; tables and code left out."""
    found = {}
    for file in [ROOT / "README.md", ROOT / "grammar" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = re.sub(r"(?s)```.*?```", "", file.read_text(encoding="utf-8"))
        blocks = [b for b in re.split(r"\n\s*\n|\n(?=[-*] )", text) if b and b[0] not in "|<"]
        found[str(file.relative_to(ROOT))] = (len(text.split()), text.count("\n"), max(len(b.split()) for b in blocks))
    return found


def brief() -> Ratios:
    """Counts, not seconds: circles of imports, and how often evaluating a loss changes between files."""
    calls, _, between = switches()
    return {
        "import circles, and 1": 1.0 + len(circles()),
        "switches ÷ calls": between / calls,
        "calls ÷ 1000": calls / 1000,
    }


def main() -> None:
    for folder, (files, lines) in folders().items():
        print(f"{folder:32} {files:4} files {lines:6} lines")
    print("import circles:", len(circles()))
    count, bare, loose = functions()
    print(f"functions: {count}, public without docstring: {bare}, annotations with Any: {loose}")
    print("bindings of vague names:", dict(bindings()))
    calls, files, between = switches()
    print(f"the quickstart's loss: {calls} calls in {files} files, {between} between files")
    for name, (words, lines, longest) in documents().items():
        print(f"{name:32} {words:6} words {lines:5} lines, longest paragraph {longest} words")


if __name__ == "__main__":
    entry(main, brief)

"""Documents and sources keep to the vocabulary of `docs/style.md`.

The words are read from that page's table. What may stay is in `EXCEPTIONS`, each with its reason. `python -m
tests.test_style` lists what is against the rules, file by file.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest

from tests.structure import ROOT, SOURCES

STYLE = (ROOT / "docs" / "style.md").read_text(encoding="utf-8")
EXCEPTIONS = {
    ("kdplan/nn/losses.py", "place"): "a value of `per`, which is in plans and in the keys of phases",
    ("kdplan/nn/heads.py", "pace"): "the layer's name in stored weights",
    ("examples/02_own_network_and_loss/net.py", "same_places"): "a name in the keys of the example's phases",
}
"""(File, word or identifier) → why it stays."""

PAGES = [
    ROOT / "README.md",
    *sorted(p for part in ("grammar", "docs", "examples", "plans") for p in ROOT.glob(f"{part}/**/*.md")),
]
PLANS = sorted(p for part in ("examples", "plans") for p in ROOT.glob(f"{part}/**/*.kd"))
SCRIPTS = sorted(ROOT.glob("examples/*/*.py"))
QUOTING = {ROOT / "kdplan" / "syntax" / "aliases.py"}
"""Files whose subject is old words."""

WORDS = {
    "move": r"mov(e|es|ed|ing)",
    "moving": r"moving",
    "what moves": r"what moves",
    "splice": r"splic(e|es|ed|ing)",
    "live graph": r"live graphs?",
    "live part": r"live parts?",
    "clock": r"clocks?",
    "world": r"worlds?",
    "follower": r"followers?",
    "follows": r"follows",
    "pace": r"paces?",
    "displaced": r"displac(e|es|ed|ing)",
    "place": r"places?",
    "text": r"texts|a text(?! (file|node|editor))",  # the text of a file is a text; a setting's value is a string
    "flag": r"flags?",
    "picture": r"pictur(e|es|ed)",
    "hand out": r"hand(s|ed|ing)?( \w+)? out",
    "mend": r"mend(s|ed|ing)?",
    "tell": r"tell(s|ing)?|told",
}
"""A word of the column *never* → its forms."""

ALLOWED = re.compile(
    r"""moving\ averages?
    | mov(e|es|ed|ing)(\ [\w`]+){0,4}\ (to|onto|off|into)\ (the\ |a\ )?(device|gpu|cpu|host|disk|memory)s?
    | in(\ |-)place(\ of)? | in\ (its|their|his|one's|each\ other's|\w+'s)\ places?
    | out(\ |-)of(\ |-)place | tak(e|es|ing)\ (the\ )?place | took\ (the\ )?place | decimal\ places?
    | clock\ (rate|tick)s? | wall(-|\ )clock | (system|monotonic)\ clock | world\ size | real(-|\ )world
    | (as|what|that)\ follows | follows\ (from|that) | command-line\ flags?
    | (tell|told|tells|telling)(\ [\w`,']+){0,6}\ apart""",
    re.IGNORECASE | re.VERBOSE,
)
"""What the field calls so, or plain English."""


def never() -> list[str]:
    """The words of the column *never*, without quotes and notes."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*) ?\|$", STYLE.partition("## Vocabulary")[2], re.MULTILINE)
    column = [re.sub(r"\(.*?\)|\"", "", words) for term, _, words in rows if term not in ("term", "---", "before")]
    return list(dict.fromkeys(w.strip() for words in column for w in words.split(",") if w.strip()))


def vague() -> set[str]:
    """The identifiers that say how a value came about."""
    return set(re.findall(r"`(\w+)`", re.search(r"Never (`found`[^.]*)\.", STYLE)[1]))  # type: ignore[index]


FORBIDDEN = re.compile(rf"\b({'|'.join(WORDS[w] for w in never())})\b", re.IGNORECASE)
VAGUE = vague()


def hits(text: str) -> list[str]:
    """Forbidden words of a prose text; code, links and what is allowed are left out."""
    words = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\|)", text):  # so that one odd backtick hides nothing further on
        plain = re.sub(r"``.*?``|`[^`]*`|\]\([^)]*\)|https?://\S+", " ", re.sub(r"\s+", " ", paragraph))
        words += [m[0] for m in FORBIDDEN.finditer(ALLOWED.sub(" ", plain))]
    return words


def of_page(text: str) -> str:
    """Prose of a Markdown page: comments only of its code, nothing of what is generated or quoted as bad."""
    text = re.sub(r"(?s)<!-- made: \w+ -->.*?<!-- end -->", "", text)
    text = re.sub(r"(?ms)^```.*?^```$|^(?:    [^\n]*\n)+", lambda block: of_plan(block[0]), text)
    return text


def of_plan(text: str) -> str:
    """The comments of a plan."""
    return "\n".join(re.findall(r"(?<!\S)#\s+(.*)$", text, re.MULTILINE))


def of_source(text: str) -> str:
    """Docstrings, without doctests, and comments of a Python file."""
    strings = [
        n.value.value
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
    ]
    docs = [re.sub(r"(?ms)^\s*>>>.*?(?=^\s*$|\Z)", "", s) for s in strings if isinstance(s, str)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n\n".join([*docs, *(t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT)])


OTHER_MEANINGS = {"text", "flag", "follows"}
"""Words that an identifier may have: a string that is shown, the flags of `os.open`, a token that follows."""


def identifiers(text: str) -> Iterator[str]:
    """Identifiers that a Python file binds and that are vague, or have a word that is not the term."""
    forbidden = re.compile(rf"\b({'|'.join(WORDS[w] for w in never() if w not in OTHER_MEANINGS)})\b", re.IGNORECASE)
    for node in ast.walk(ast.parse(text)):
        name = ""
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        words = re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", name)
        if name in VAGUE or forbidden.search(ALLOWED.sub(" ", words)):
            yield name


def of_sources() -> dict[str, list[str]]:
    """Source → what in it is against the vocabulary; likewise for what sources generate of the reference."""
    results = {}
    for file in [*SOURCES, *SCRIPTS]:
        name, text = str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")
        words = [*([] if file in QUOTING else hits(of_source(text))), *identifiers(text)]
        results[name] = [w for w in words if (name, w.lower()) not in EXCEPTIONS]
    tables = re.findall(
        r"(?s)<!-- made: \w+ -->\n(.*?)<!-- end -->", (ROOT / "grammar" / "README.md").read_text("utf-8")
    )
    results["grammar/README.md, generated"] = hits(of_page("\n".join(tables)))
    return {name: words for name, words in results.items() if words}


def of_pages() -> dict[str, list[str]]:
    """Document → words in it that are not the term."""
    results = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if page.name == "style.md":  # which lists the words, and sentences that have them
            text = re.sub(r"(?m)^(\||> before).*$|Other meanings.*", "", text)
        results[str(page.relative_to(ROOT))] = hits(of_page(text))
    return {name: words for name, words in results.items() if words}


def test_table_is_complete() -> None:
    """Every word of the table has its forms here, and is found."""
    assert set(WORDS) == set(never())
    for word in WORDS:
        assert hits(f"so a {word} is") == [m[0] for m in FORBIDDEN.finditer(f"so a {word} is")] != []
    assert hits("an exponential moving average, in place, at a clock rate; cannot tell the two apart") == []
    assert len(VAGUE) == 6


def test_pages_use_the_vocabulary() -> None:
    assert of_pages() == {}, "see docs/style.md for the words to use"


def test_plans_use_the_vocabulary() -> None:
    words = {str(p.relative_to(ROOT)): hits(of_plan(p.read_text(encoding="utf-8"))) for p in PLANS}
    assert {name: w for name, w in words.items() if w} == {}


def test_sources_use_the_vocabulary() -> None:
    assert of_sources() == {}, "see docs/style.md for the words to use"


@pytest.mark.parametrize(("file", "word"), EXCEPTIONS)
def test_exceptions_are_needed(file: str, word: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert word in {w.lower() for w in (*hits(of_source(text)), *identifiers(text))}


def main() -> None:
    """Print what is against the vocabulary."""
    for name, words in (*of_pages().items(), *of_sources().items()):
        print(f"{name}: {', '.join(words)}")


if __name__ == "__main__":
    main()

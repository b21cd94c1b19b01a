"""Lines that read code or files as other languages do: `from nets import A`, `import torch`, `include "a.kd"`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from kdplan.diagnostics.report import Diagnostic, diagnostic
from kdplan.diagnostics.span import Source, Span

_FROM = r'(?P<{}>"[^"\n]*"|\.*[A-Za-z_][\w.]*|\.+)'
_NAMES = r"(?P<{}>\*|[A-Za-z_]\w*|\([^()]*\)|\{{[^{{}}=]*\}})"
_AS = r"(?:[ \t]+as[ \t]+(?P<{}>\w+))?"
_FORMS = (
    rf"from[ \t]+{_FROM.format('a')}[ \t]+(?:import|use)\b[ \t]*(?:{_NAMES.format('an')})?",
    rf'from[ \t]+(?P<b>"[^"\n]*\.(?:py|kd)"){_AS.format("bs")}',
    rf"(?:import|use)[ \t]+{_NAMES.format('cn')}[^\n#=]*?[ \t]from[ \t]+{_FROM.format('c')}",
    rf"use[ \t]+{_FROM.format('d')}[ \t]+(?:import|use)[ \t]+{_NAMES.format('dn')}",
    rf"import[ \t]+{_FROM.format('e')}{_AS.format('es')}",
    rf'(?:include|load|require)[ \t]+(?P<f>"[^"\n]*"){_AS.format("fs")}',
    rf"use[ \t]+(?P<g>[A-Za-z_]\w*(?:\.(?!py\b|kd\b)\w+)*){_AS.format('gs')}[ \t]*(?=#|\r?$)",
    r'use[ \t]+(?P<hs>\w+)[ \t]*=[ \t]*(?P<h>"[^"\n]*")',
)
_LINE = re.compile(rf"^[ \t]*(?P<all>(?:{'|'.join(_FORMS)})[^\n#]*)", re.MULTILINE)
_PACKAGES = frozenset({"torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "pandas", "PIL", "transformers"})
NETWORK_LIBRARIES = ("torchvision", "timm")
"""Libraries whose networks a plan names by a function of their own."""


def without_imports(source: Source) -> tuple[str, list[Diagnostic]]:
    """The text with spaces in place of such lines, and KD0128 for each of them.

    >>> text, (problem,) = without_imports(Source("a.kd", 'from "nets.py" import A\\nparam w = 1'))
    >>> text.split()[0], problem.help
    ('param', 'Write `use "nets.py" as my`, then `my.A(…)`.')
    """
    if not any(word in source.text for word in ("import", "use", "include", "load", "require", "from")):
        return source.text, []
    problems: list[Diagnostic] = []
    text, end = "", 0
    for at in _LINE.finditer(source.text):
        start, stop = at.start("all"), at.start("all") + len(at["all"].rstrip())
        problems.append(diagnostic("KD0128", Span(source, start, stop), help=_help(at)))
        text += source.text[end:start] + re.sub(r"[^\n]", " ", source.text[start:stop])
        end = stop
    return text + source.text[end:], problems


def names_in(text: str) -> Iterator[str]:
    """The words of such lines: names that the rest of the file may mean to have from there."""
    for at in _LINE.finditer(text):
        yield from re.findall(r"\w+", at["all"])


def _help(at: re.Match[str]) -> str:
    """What the language writes in place of the line."""

    def part(groups: str) -> str:
        return next((at[g] for g in groups.split() if at[g]), "")

    where = part("a b c d e f g h")
    names = re.findall(r"\w+", part("an cn dn"))
    name, alias = (names or ["NAME"])[0], part("bs es fs gs hs") or "my"
    file = where[1:-1] if where[0] == '"' else _file(where)
    package = file.partition("/")[0].removesuffix(".py") if where[0] not in '".' else ""
    if package in NETWORK_LIBRARIES and "transforms" not in where:
        return f'Write `{package}("{name if names else "resnet18"}")` as the architecture of a network.'
    if package in _PACKAGES or package in sys.stdlib_module_names:
        return 'Write this import into a Python file, then `use "net.py" as my` and `my.net(…)` in the plan.'
    if file.endswith(".kd"):
        known = f" as {alias}`, then `{alias}.{name}" if alias != "my" else f"`, then `{name}" if names else ""
        return f'Write `use "{file}"{known}`.'
    return f'Write `use "{file}" as {alias}`, then `{alias}.{name}(…)`.'


def _file(module: str) -> str:
    """The file of a module as Python names it."""
    path = module.lstrip(".") or "nets"
    return path if path.endswith((".py", ".kd")) else f"{path.replace('.', '/')}.py"

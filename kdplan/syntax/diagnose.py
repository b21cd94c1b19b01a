"""Why a token cannot come next: from the parser's state to one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdplan.diagnostics.report import Diagnostic, diagnostic
from kdplan.diagnostics.span import Source, Span
from kdplan.syntax import ast
from kdplan.syntax.build import FOREIGN, FOREIGN_HELPS, NAMES_FIRST, Stuck, Values
from kdplan.syntax.grammar import BRACKETS, END, ENDS_VALUE, RESERVED, STRAY
from kdplan.syntax.lexer import Token

FOLLOWS_NAME = {"NAME", "EQUAL", "LBRACE", "STRING", "PREP", "TILDE"}
AFTER_KIND = {"NAME", "STRING", "PREP"}
"""What follows the first word of a declaration, besides brackets."""
BEGINS_VALUE = {"NAME", "NUMBER", "STRING", "LPAR", "LSQB"}
NAME_LIKE = {"NAME", "NUMBER", "DOT", "MINUS", "SLASH"}
NONE = Token(END, "", 0, 0)

# names of kinds of tokens, for the help of a mistake that no rule below explains
SHOWN = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a string",
    "PLUS": "an operator",
    "COMMA": "`,`",
    "EQUAL": "`=`",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "PREP": "a preposition",
    "IN": "`in`",
    "TILDE": "`~`",
}


BRACES = "Write `{{` in place of {}, and `}}` after the last item."
"""The help of KD0127 where something else begins the body."""


@dataclass
class Mistake:
    """A mistake: the token `t` that cannot come next, its neighbours, and the item that is being parsed."""

    source: Source
    tokens: Sequence[Token]  # of this piece, with `$END`
    at: int
    stuck: Stuck
    short: bool = False  # whether the body around it may begin with names alone

    def __post_init__(self) -> None:
        self.t = self.tokens[self.at]
        self.before = self.tokens[self.at - 1] if self.at else NONE
        self.after = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else NONE
        expected = self.stuck.expected
        self.wants_value = {"NUMBER", "STRING"} <= expected
        self.wants_operator = "PLUS" in self.stuck.arrived
        self.bracket, item_start = _open_item(self.stuck.values)
        self.item = next((i for i in range(self.at + 1) if self.tokens[i].start >= item_start), self.at)

    def span(self, *around: Token) -> Span:
        """The span from the first of some tokens to the last."""
        return Span(self.source, around[0].start, around[-1].end)

    def starts_line(self, t: Token) -> bool:
        """Whether only spaces stand before a token on its line."""
        return not self.source.text[self.source.text.rfind("\n", 0, t.start) + 1 : t.start].strip()

    def same_line(self, a: Token, b: Token) -> bool:
        """Whether no line ends between two tokens."""
        return "\n" not in self.source.text[a.end : b.start]

    def line_start(self, i: int) -> int:
        """The index of the first token on the line of the `i`-th."""
        while i and self.same_line(self.tokens[i - 1], self.tokens[i]):
            i -= 1
        return i

    def in_item(self, i: int) -> Token:
        """The `i`-th token of the item that is being parsed."""
        return self.tokens[self.item + i] if self.item + i < len(self.tokens) else NONE


def diagnose(source: Source, tokens: Sequence[Token], at: int, stuck: Stuck, short: bool = False) -> Diagnostic:
    """The message for `tokens[at]`, at which the parser stopped; `short` where names alone may begin the body."""
    mistake = Mistake(source, tokens, at, stuck, short)
    if stuck.too_deep:
        return diagnostic("KD0114", mistake.t.span(source))
    for rule in RULES:
        answer = rule(mistake)
        if answer is not None:
            return answer
    return _unexpected(mistake)


def _open_item(values: Values) -> tuple[str, int]:
    """The innermost open bracket, and the start of the item that is being parsed, from the parser's stack."""
    bracket = ""
    start = -1
    for value in reversed(values):
        if type(value) is Token and value.kind in BRACKETS:
            bracket = bracket or value.text
            if value.text == "{":
                break
        elif type(value) is list and value and isinstance(value[0], ast.Declaration | ast.Setting | ast.Pair):
            break
        elif type(value) is Token:
            start = value.start
        elif isinstance(value, ast.Node):
            start = value.span.start
        elif type(value) is not list:
            start = value.start
    return (bracket or "{"), start if start >= 0 else 1 << 60


def _stray_character(s: Mistake) -> Diagnostic | None:
    t = s.t
    if t.kind != STRAY:
        return None
    if t.text[0] == "'":
        return diagnostic("KD0107", s.span(t), text=t.text.strip("'") if "\\" not in t.text else None)
    if t.text[0] == '"':
        return diagnostic("KD0112", s.span(t))
    if t.text == ":" and s.bracket == "[":
        return _range_error(s, t, s.before, s.after)
    if t.text == ":":
        line = s.tokens[s.line_start(s.at) : s.at]
        first = next((t for t in line if t.text == "lambda" and t.kind == "NAME"), None)
        if first is not None:
            return _foreign(s, first)
        if line and line[0].text == "def":
            return diagnostic("KD0101", s.span(t), help="Write a function as `def f(x) = …`, on one line.")
        if _ends_a_head(s):
            return diagnostic("KD0127", s.span(s.in_item(0), s.before), help=BRACES.format(f"the `{t.text}`"))
        plain = s.before.kind == "NAME" and s.after.kind in BEGINS_VALUE
        value = s.after.text if s.after.kind in ("NUMBER", "STRING", "NAME") else "…"
        return diagnostic("KD0101", s.span(t), fix=f"{s.before.text} = {value}" if plain else None)
    if t.text[0].isdigit():
        return _no_number(s, s.span(t))
    helps = {
        ";": "Delete it: items need no separator.",
        "&": "Multiply masks to join conditions: `(a) * (b)`.",
        "|": "Add masks to join conditions.",
        "!": "Write `a != b`.",
        "^": "Write powers as `a ** b`.",
        "%": f"Write `{float(s.before.text) / 100:g}`." if s.before.kind == "NUMBER" else None,
    }
    shown = t.text if t.text.isprintable() else f"U+{ord(t.text[0]):04X}"
    return diagnostic("KD0113", s.span(t), character=shown, help=helps.get(t.text[0]))


def _no_number(s: Mistake, span: Span) -> Diagnostic:
    text = span.text
    plain = text.replace("_", "")
    help = None
    if plain.replace(".", "", 1).isdigit():
        help = f"Write `{plain}`."
    elif s.wants_value or s.t.kind == "DOT":
        help = "Write the number alone, without a unit, in decimal digits."
    return diagnostic("KD0123", span, text=_short(text), help=help)


def _number_without_digit(s: Mistake) -> Diagnostic | None:
    t, before, after = s.t, s.before, s.after
    if t.kind == "DOT" and before.kind == "NUMBER" and after.kind == STRAY and after.text[0].isdigit():
        return _no_number(s, s.span(before, after))  # `0.1s`
    if t.kind == "DOT" and before.kind == "NUMBER" and before.end == t.start:
        return diagnostic("KD0108", s.span(before, t), fix=f"{before.text}.0" if "." not in before.text else None)
    if t.kind == "DOT" and after.kind == "NUMBER" and after.start == t.end and before.kind != "RANGE":
        return diagnostic("KD0108", s.span(t, after), fix=f"0.{after.text}")
    return None


def _foreign_notation(s: Mistake) -> Diagnostic | None:
    """Comments, names, file names and indices as other languages write them."""
    t, before, after = s.t, s.before, s.after
    if t.kind == "SLASH" and after.kind in ("SLASH", "STAR") and t.end == after.start:
        return diagnostic("KD0124", s.span(t, after))
    if before.kind == "SLASH" and t.kind in ("SLASH", "STAR", "POWER") and before.end == t.start:
        return diagnostic("KD0124", s.span(before, t))
    if s.at == s.item + 2 and before.kind == "NAME" and t.kind in ("DOT", "MINUS", "SLASH") and before.end == t.start:
        end = s.at
        while s.tokens[end + 1].start == s.tokens[end].end and s.tokens[end + 1].kind in (*NAME_LIKE, *RESERVED):
            end += 1
        whole = s.span(before, s.tokens[end])
        if s.in_item(0).text == "use":
            return diagnostic("KD0107", whole, text=whole.text)
        fixed = "".join("_" if c in "-./" else c for c in whole.text)
        return diagnostic("KD0125", whole, fix=fixed if fixed.isidentifier() else None)
    named = s.in_item(0).kind == s.in_item(1).kind == "NAME"
    if named and s.in_item(2).kind == "LSQB" and s.at in (s.item + 3, s.item + 4) and s.bracket == "[":
        return diagnostic("KD0126", s.span(t), name=s.in_item(1).text)
    return None


def _foreign_range(s: Mistake) -> Diagnostic | None:
    if s.before.kind == "RANGE" and s.t.kind in ("DOT", "EQUAL", "COMP") and s.before.end == s.t.start:
        low = s.tokens[s.at - 2] if s.at > 1 else NONE
        return _range_error(s, s.t, low, s.after, first=s.before)
    if s.t.text == "to" and s.before.kind in ("NUMBER", "NAME") and s.wants_operator:
        return _range_error(s, s.t, s.before, s.after)
    return None


def _range_error(s: Mistake, t: Token, low: Token, high: Token, first: Token | None = None) -> Diagnostic:
    plain = ("NUMBER", "NAME")
    fix = f"{low.text}..{high.text}" if low.kind in plain and high.kind in plain else None
    return diagnostic("KD0110", s.span(first or t, t), fix=fix)


def _foreign_word(s: Mistake) -> Diagnostic | None:
    for t in (s.t, s.before):
        if t.kind == "NAME" and t.text in FOREIGN and (t is s.before or s.wants_operator):
            return _foreign(s, t)
    for i in range(max(s.item, 1), s.at):  # `a if epoch > 3` stops at the second operator
        if s.tokens[i].text in FOREIGN and s.tokens[i].kind == "NAME" and s.tokens[i - 1].kind in ENDS_VALUE:
            return _foreign(s, s.tokens[i])
    if s.t.text == "for" and s.starts_line(s.t):
        return _foreign(s, s.t)
    return None


def _foreign(s: Mistake, t: Token) -> Diagnostic:
    return diagnostic("KD0111", s.span(t), word=t.text, help=FOREIGN_HELPS.get(t.text))


def _foreign_value(s: Mistake) -> Diagnostic | None:
    """What Python writes where a value is wanted: an unpacked list, a dictionary."""
    if not s.wants_value or s.before.kind not in ("LPAR", "LSQB", "COMMA", "EQUAL"):
        return None
    help = None
    if s.t.kind in ("STAR", "POWER") and s.after.kind in BEGINS_VALUE:
        help = "Write the arguments one by one, all of a family as `f(big[*].logits)`, or others as a comprehension."
    elif s.t.kind == "LBRACE" and s.bracket != "{":
        help = "Write a list `[…]`, or values with names as `case(a = 1, b = 2)`."
    return diagnostic("KD0106", s.span(s.t), found=s.t.text, help=help) if help else None


def _preposition_as_name(s: Mistake) -> Diagnostic | None:
    t, before = s.t, s.before
    named = s.at == s.item + 2 and t.kind in ("EQUAL", "LBRACE", *RESERVED)
    if named and before.kind in RESERVED and s.wants_value:
        return diagnostic("KD0109", s.span(before), word=before.text)
    if t.kind not in RESERVED:
        return None
    name_here = "NAME" in s.stuck.expected and not s.wants_operator
    goes_on = before.kind == "COMMA" and s.bracket == "{"  # `of a, on b`: a value was forgotten, not misnamed
    as_value = s.after.kind not in BEGINS_VALUE or s.after.kind == "LPAR"
    if name_here and not goes_on and as_value:
        return diagnostic("KD0109", s.span(t), word=t.text)
    return None


def _misplaced_comma(s: Mistake) -> Diagnostic | None:
    if s.t.kind != "COMMA" or s.bracket != "{" or s.wants_value or s.before.kind not in (*ENDS_VALUE, "RBRACE"):
        return None
    if _is_lone_name(s, s.at + 1):
        return diagnostic("KD0103", s.span(s.t), help=NAMES_FIRST)
    item_follows = s.after.kind == "NAME" and s.at + 2 < len(s.tokens) and s.tokens[s.at + 2].kind in FOLLOWS_NAME
    if s.before.kind == "RBRACE" or item_follows or s.after.kind in ("RBRACE", END) or s.starts_line(s.after):
        return diagnostic("KD0103", s.span(s.t))
    return diagnostic("KD0122", s.span(s.t))


def _body_on_the_line(s: Mistake) -> Diagnostic | None:
    """`measure m of small on d.test top1`: the body without braces, behind a head."""
    if not 0 < s.item < len(s.tokens) or not s.same_line(s.tokens[s.item - 1], s.tokens[s.item]):
        return None
    first = s.line_start(s.item)
    head = s.tokens[first : s.item]
    if len(head) < 4 or (head[0].kind, head[1].kind) != ("NAME", "NAME") or head[2].kind not in (*RESERVED, "PREP"):
        return None
    if head[-1].kind not in ENDS_VALUE or any(t.kind in ("LBRACE", "EQUAL") for t in head):
        return None
    last = s.item
    while s.tokens[last + 1].kind not in (END, "LBRACE", "RBRACE") and s.same_line(s.tokens[last], s.tokens[last + 1]):
        last += 1
    body = s.span(s.tokens[s.item], s.tokens[last]).text
    return diagnostic("KD0127", s.span(head[0], head[-1]), help=f"Write `{{ {_short(body)} }}`.")


def _is_lone_name(s: Mistake, i: int) -> bool:
    """Whether a name stands alone behind the settings of a body that may begin with such names."""
    here = [t.kind for t in s.tokens[i : i + 2]]
    return s.short and here in (["NAME", "COMMA"], ["NAME", "RBRACE"], ["NAME", END], ["NAME", "NAME"])


def _lone_value(s: Mistake) -> Diagnostic | None:
    """An item that is only a value, such as `epochs 240`, `kl(a, b)` or `small.layer1`."""
    first, second = s.in_item(0), s.in_item(1)
    if first.kind != "NAME":
        return None
    value = second.text if second.kind in ("NUMBER", "NAME") else "…"
    if second.kind == "NAME" and s.in_item(2).kind == "LPAR" and first.text != "def" and s.at > s.item + 2:
        return diagnostic("KD0102", s.span(first), name=first.text, value=f"{second.text}(…)")
    if s.at == s.item + 1 and second.kind in ("NUMBER", "MINUS"):
        return diagnostic("KD0102", s.span(first), name=first.text, value=value)
    path = "TILDE" in s.stuck.expected or (s.at == s.item + 1 and second.kind not in RESERVED)
    if not path or s.wants_value:
        return None
    previous = s.tokens[s.item - 1] if s.item else NONE
    if previous.text in FOREIGN:
        return _foreign(s, previous)
    if s.item and _is_lone_name(s, s.item):
        return diagnostic("KD0119", s.span(first), found=first.text, help=NAMES_FIRST)
    if previous.kind in ENDS_VALUE and s.same_line(previous, first):
        return diagnostic("KD0105", s.span(first), fix=_product(previous, first))
    if second.kind == "LSQB" and second.start > first.end:
        return diagnostic("KD0102", s.span(first), name=first.text, value="[…]")
    if s.at == s.item + 1 and second.kind in ("NAME", "STRING", "EQUAL", "LBRACE"):
        return None
    lone = s.span(first, s.before) if s.at > s.item else s.span(first)
    return diagnostic("KD0119", lone, found=lone.text if len(lone.text) <= 40 else first.text)


def _product(left: Token, right: Token) -> str | None:
    return f"{left.text} * {right.text}" if left.kind == "NUMBER" and right.kind in ("NUMBER", "NAME") else None


def _side_by_side(s: Mistake) -> Diagnostic | None:
    if not s.wants_operator and s.t.kind == "LPAR" and s.before.kind == "RPAR":
        s.wants_operator = True  # after a call only `.`, `@` and `[` are left of the expression, and never `(`
    if s.t.kind in BEGINS_VALUE and s.wants_operator and s.before.kind in ENDS_VALUE:
        # a value that starts its line is rarely the wrong one: something is missing at the end of the line before
        blamed = s.before if s.starts_line(s.t) else s.t
        if s.bracket == "{":
            return diagnostic("KD0105", s.span(blamed), fix=_product(s.before, s.t))
        return diagnostic("KD0105", s.span(blamed), help="Put a comma or an operator between them.")
    return None


def _value_on_next_line(s: Mistake) -> Diagnostic | None:
    """`a = 1 +` whose next line `b = 2` was taken for the value."""
    if s.t.kind != "EQUAL" or s.before.kind != "NAME" or s.at < 2 or not s.starts_line(s.before):
        return None
    sign = s.tokens[s.at - 2]
    if sign.kind in ENDS_VALUE or sign.kind in ("LBRACE", "RBRACE"):
        return None
    return diagnostic("KD0118", s.span(sign), after=sign.text)


def _ends_a_head(s: Mistake) -> bool:
    """Whether what stands before is the head of a declaration, whose body comes next."""
    words = s.in_item(0).kind == "NAME" and s.in_item(1).kind in AFTER_KIND
    item = s.after.kind == "NAME" and [t.kind for t in s.tokens[s.at + 2 : s.at + 3]] == ["EQUAL"]
    return words and item and s.at > s.item + 1 and s.before.kind in ENDS_VALUE and "LBRACE" in s.stuck.expected


def _missing_value(s: Mistake) -> Diagnostic | None:
    if s.wants_value and s.t.kind == "LBRACE" and s.before.kind == "EQUAL" and s.in_item(1).kind in AFTER_KIND:
        return diagnostic("KD0118", s.span(s.before), after=s.before.text, help="Delete `=`.")
    if s.wants_value and s.before is not NONE:
        return diagnostic("KD0118", s.span(s.before), after=s.before.text)
    return None


def _unexpected(s: Mistake) -> Diagnostic:
    t = s.t
    possible = [shown for kind, shown in SHOWN.items() if kind in s.stuck.expected]
    help = f"Write one of: {', '.join(possible[:6])}." if possible else None
    if t.kind == "EQUAL" and s.wants_operator:
        help = "Write `==` for equality."
    elif t.text == "==" and s.at - s.item <= 2 and s.before.kind == "NAME":
        help = "Write `=`."
    elif t.kind == "COMP":
        help = "Compare two values at a time: `(a < b) * (b < c)`."
    if t.kind == END or (s.starts_line(t) and s.before is not NONE):
        return diagnostic("KD0121", s.span(s.before), after=_short(s.before.text), help=help)
    return diagnostic("KD0106", s.span(t), found=_short(t.text), help=help)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}…"


# in this order: the more special before the more general
RULES = (
    _stray_character,
    _number_without_digit,
    _foreign_notation,
    _foreign_range,
    _foreign_word,
    _preposition_as_name,
    _body_on_the_line,
    _misplaced_comma,
    _lone_value,
    _side_by_side,
    _value_on_next_line,
    _foreign_value,
    _missing_value,
)

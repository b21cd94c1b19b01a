"""Which question the running Python code asks of a traced value's class, read from its byte code.

A traced value answers `isinstance(x, Tensor)` with True. C and C++ code asks the same question, and then reads memory
that only a real tensor has: the process dies. Custom autograd functions, checkpointing, scripted functions, vmap and
extension modules do so. They are recognised before they get an answer: the instruction that runs is then a call of
something else than `isinstance`.
"""

from __future__ import annotations

import dis
from functools import lru_cache
from types import CodeType, FrameType

_ASKING = ("isinstance", "__instancecheck__", "_abc_instancecheck", "issubclass", "getattr", "hasattr")
_LEGACY = ("Tensor", "Storage")  # ends of names of torch's old tensor types, whose `isinstance` reads memory too


class Untraceable(RuntimeError):
    """Compiled code is called with a traced value."""


def check_caller(frame: FrameType) -> None:
    """Raise where the instruction that `frame` runs hands a traced tensor to compiled code.

    Raises
    ------
    Untraceable
    """
    if frame.f_lasti in _other_calls(frame.f_code):
        raise Untraceable(f"`{frame.f_code.co_name}` calls compiled code, which cannot be traced")


@lru_cache(maxsize=4096)
def _other_calls(code: CodeType) -> frozenset[int]:
    """The bytes at which calls stand that are not Python's own questions for a class.

    >>> def asks(x): return isinstance(x, int) or x.size(0)
    >>> len({i.argval for i in dis.get_instructions(asks) if i.offset in _other_calls(asks.__code__)})
    1
    """
    legacy = any(name.endswith(_LEGACY) and name not in ("Tensor", "FakeTensor") for name in code.co_names)
    asking = [name for name in _ASKING if not (legacy and name == "isinstance")]
    starts = set()
    others = set()
    for i in dis.get_instructions(code):
        start = (i.positions.lineno, i.positions.col_offset) if i.positions is not None else None
        if i.opname.startswith("LOAD_") and i.argval in asking:
            starts.add(start)
        elif i.opname.startswith(("CALL", "PRECALL")) and not i.opname.startswith("CALL_INTRINSIC"):
            if start not in starts:
                others.add(i.offset)
            elif i.opname.startswith("CALL"):
                starts.remove(start)  # `getattr(x, "f")(y)` are two calls that start at one character
    return frozenset(others)

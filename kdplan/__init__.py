"""kdplan: a declarative graph-compiler for teacher-student training plans."""

__version__ = "0.1.0"

"""Passes from the AST to the planned DAG: pure functions, one file each, none of which needs torch."""

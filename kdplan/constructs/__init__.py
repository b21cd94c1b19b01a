"""Constructs: one file each, from a declaration to declarations of the core."""

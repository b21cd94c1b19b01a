"""Readers of data sets, one file a layout; none imports torch."""

"""Engines: where the phases of a run are trained. One module an engine, imported only where it is asked for."""

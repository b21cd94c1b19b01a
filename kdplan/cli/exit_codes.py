"""Exit codes of commands. Errors of the store and of interrupted runs have their own, `exit_code`."""

from __future__ import annotations

FINE, WRONG, TO_DO = 0, 2, 10

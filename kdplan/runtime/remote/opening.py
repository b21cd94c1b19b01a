"""The store that a name means, wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdplan.diagnostics.report import Diagnostic
from kdplan.runtime.remote.address import Address
from kdplan.runtime.store import Store
from kdplan.runtime.store.atomic import make_folder


def opened(where: Address | str, report: Callable[[Diagnostic], None]) -> Store:
    """The store in a folder or at an address, as `located` gives them; `report` receives warnings of the latter.

    Drivers are imported only for an address.

    Raises
    ------
    StoreUnwritable
        If an address's cache cannot be made.

    Examples
    --------
    >>> opened("runs", print)
    Store('runs')
    """
    if isinstance(where, str):
        return Store(Path(where).expanduser())
    from kdplan.runtime.remote.store import RemoteStore

    make_folder(where.cache)
    return RemoteStore(where.cache, where, report)

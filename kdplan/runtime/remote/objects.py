"""The objects of a store in the cloud, through fsspec: reads, writes that create only, and errors with a code.

Drivers send a request again that failed for a passing reason, with growing pauses: for S3 four times in all.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from kdplan.diagnostics.report import Diagnostic, diagnostic
from kdplan.runtime.remote.address import Address
from kdplan.runtime.store.atomic import make_folder
from kdplan.runtime.store.errors import StoreError, StoreUnwritable
from kdplan.runtime.store.sealed import read_sealed, write_sealed

SETTLE = 2.0
"""Seconds after which an object is read back, where the service has no conditional writes."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "retries": {"mode": "standard", "total_max_attempts": 4},
            "connect_timeout": 5,
            "read_timeout": 20,
        },
    },
}
"""Options of drivers. A listing is never remembered: other machines write, too."""
_TRIES = 2
"""How often s3fs starts anew where an answer breaks off, besides the client's own attempts."""
_LONG = 10.0
"""Seconds of waiting in vain after which a service is not asked again for as long as that took, or for `_LONGEST`."""
_LONGEST = 120.0
_CONFLICTS = 5
"""How often an object is created anew where another request for it is under way, and one is to ask again."""
_PAUSE = 0.5

_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Errors of the local disk."""
_RIGHTS = ("Credential", "Token", "Profile", "Auth")
"""Parts of the names of libraries' errors that are about who may do what."""


class StoreRefused(StoreError):
    """The service does not let this user do it, or there is no such bucket: trying again does not help."""

    exit_code = 2


class StoreUnreachable(StoreError):
    """The service does not answer, or fails."""

    exit_code = 1


class AlteredOnTheWay(StoreUnreachable):
    """What arrived does not fit the checksum that the service sent with it."""


class Objects:
    """The objects under an address; names are relative to it.

    Raises
    ------
    StoreRefused
        From every method: KD0942 if there is no such bucket, KD0943 without credentials or permission.
    StoreUnreachable
        From every method: KD0944 if the service cannot be reached, or fails.

    Examples
    --------
    >>> objects = Objects(Address("memory", "lab", "doctest"))
    >>> objects.create("a", b"1")
    >>> objects.read("a"), objects.read("b"), objects.listed("")
    (b'1', None, {'a': 1})
    >>> objects.create("a", b"2")
    Traceback (most recent call last):
    FileExistsError: a
    """

    def __init__(
        self, address: Address, report: Callable[[Diagnostic], None] = lambda _: None, memo: Path | None = None
    ) -> None:
        self.address = address
        self.report = report
        self._again: tuple[float, StoreUnreachable] | None = None
        self.memo = memo
        """The file that keeps what was tried of the service."""

    @cached_property
    def _driver(self) -> Any:
        import fsspec

        with self._asking():
            options = dict(_OPTIONS.get(self.address.scheme, {}))
            options |= {"skip_instance_cache": True, "use_listings_cache": False}
            driver = fsspec.filesystem(self.address.scheme, **options)
            if self.address.scheme == "s3":
                driver.retries = _TRIES  # five would be twenty attempts of twenty seconds each
            return driver

    def _path(self, name: str) -> str:
        return f"{self.address.path}/{name}".rstrip("/")

    def _name(self, path: str) -> str:
        """The inverse of `_path`, for a path as a driver writes it."""
        return path.lstrip("/")[len(self.address.path) + 1 :]

    # ---- reading

    def listed(self, folder: str) -> dict[str, int]:
        """The names below `folder` with their sizes in bytes; {} where there are none."""
        with self._asking(of_bucket=True):
            below = self._driver.find(self._path(folder), detail=True)
        return {self._name(path): int(about["size"]) for path, about in below.items() if about["type"] == "file"}

    def read(self, name: str) -> bytes | None:
        """An object's content, or None where there is none."""
        try:
            return self._read(name)
        except AlteredOnTheWay:
            return self._read(name)

    def _read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError), self._asking():
            return cast(bytes, self._driver.cat_file(self._path(name)))
        return None

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Name -> content of small objects, read at once; those that are not there are left out."""
        paths = [self._path(name) for name in names]
        if not paths:
            return {}
        with self._asking():
            contents: dict[str, bytes | Exception] = self._driver.cat(paths, on_error="return")
            for content in contents.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        return {self._name(path): content for path, content in contents.items() if isinstance(content, bytes)}

    def download(self, name: str, path: Path) -> None:
        """Writes an object's content to the file `path`.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        AlteredOnTheWay
        OSError
            If the disk takes no more.
        """
        with self._asking():
            self._driver.get_file(self._path(name), os.fspath(path))

    # ---- writing

    def replace(self, contents: Mapping[str, bytes]) -> None:
        """Writes small objects at once, or replaces them."""
        with self._asking(of_bucket=True):
            self._driver.pipe({self._path(name): content for name, content in contents.items()})

    def upload(self, path: Path, name: str) -> None:
        """Writes or replaces an object with the content of the file `path`: as a whole or not at all."""
        with self._asking(of_bucket=True):
            self._driver.put_file(os.fspath(path), self._path(name))

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects, whether they are there or not."""
        for name in names:
            with suppress(FileNotFoundError), self._asking():
                self._driver.rm_file(self._path(name))

    def create(self, name: str, content: bytes) -> None:
        """Writes a small object unless there is one: of several writers at once, one succeeds.

        Give each writer a content of its own.

        Raises
        ------
        FileExistsError
            If there is such an object with another content.
        """
        if not self.conditional:
            self._create_slowly(name, content)
            return
        for last in (*[False] * _CONFLICTS, True):
            try:
                self._create(name, content)
                return
            except (FileExistsError, StoreUnreachable) as refusal:
                # A request that was sent twice, since its answer was lost, meets its own object. Some services name the
                # refusal in words of their own.
                there = self.read(name)
                if there == content:
                    return
                if there is not None or isinstance(refusal, FileExistsError):
                    raise FileExistsError(name) from None
                if last or not _is_conflict(refusal):
                    raise
                time.sleep(_PAUSE)

    def _create(self, name: str, content: bytes) -> None:
        with self._asking(of_bucket=True):
            self._driver.pipe_file(self._path(name), content, mode="create")

    def _create_slowly(self, name: str, content: bytes) -> None:
        """`create` where the service ignores conditions: whoever wrote last wins, if all wrote within `SETTLE`."""
        if self.read(name) is not None:
            raise FileExistsError(name)
        self.replace({name: content})
        time.sleep(SETTLE)
        if self.read(name) != content:
            raise FileExistsError(name)

    @cached_property
    def conditional(self) -> bool:
        """Whether the service refuses to create an object twice; tried once, and then remembered in `memo`.

        A service that does not is tried again by each command that writes, which reports it.
        """
        if self.memo is not None and read_sealed(self.memo).get("conditional") is True:
            return True
        name = f"probes/{uuid.uuid4().hex}"
        try:
            self._create(name, b"1")
            try:
                self._create(name, b"2")
            except (FileExistsError, StoreUnreachable):
                # Under any name, the refusal counts only if the first content is still there.
                refused = self.read(name) == b"1"
            else:
                refused = False
        finally:
            self.delete([name])
        if not refused:
            self.report(diagnostic("KD0948", None, address=self.address))
            return False
        with suppress(StoreUnwritable):
            if self.memo is not None:
                make_folder(self.memo.parent)
                write_sealed(self.memo, {"address": str(self.address), "conditional": True})
        return True

    # ---- errors

    @contextmanager
    def _asking(self, of_bucket: bool = False) -> Iterator[None]:
        """Inside, what a driver raises becomes an error with a code.

        With `of_bucket` nothing but the bucket can be missing; else a missing object stays a `FileNotFoundError`.
        A service that does not answer for minutes is asked half of the time only, so that a run without it goes on.
        """
        began = time.monotonic()
        if self._again is not None and began < self._again[0]:
            raise StoreUnreachable(self._again[1].diagnostics[0])
        try:
            yield
        except (StoreError, FileExistsError):
            raise
        except Exception as problem:
            reason = " ".join(str(problem).split()).rstrip(".") or type(problem).__name__
            if isinstance(problem, FileNotFoundError):
                if not of_bucket and type(problem.__cause__).__name__ != "NoSuchBucket":
                    raise
                raise StoreRefused.of("KD0942", address=self.address, bucket=self.address.bucket) from problem
            if isinstance(problem, OSError) and problem.errno in _OURS:
                raise
            forbidden = isinstance(problem, PermissionError) or reason.startswith("Forbidden")  # as gcsfs says it
            if forbidden or any(word in type(problem).__name__ for word in _RIGHTS):
                raise StoreRefused.of("KD0943", address=self.address, reason=reason) from problem
            kind = AlteredOnTheWay if "Checksum" in type(problem).__name__ else StoreUnreachable
            failure = kind.of("KD0944", address=self.address, reason=reason)
            took = time.monotonic() - began
            if took > _LONG:
                self._again = (time.monotonic() + min(took, _LONGEST), failure)
            raise failure from problem


def _is_conflict(failure: StoreUnreachable) -> bool:
    """Whether S3 refused a request since another one for the same object was under way."""
    client = getattr(failure.__cause__, "__cause__", None)
    answer = getattr(client, "response", {})
    return "Conflict" in str(answer.get("Error", {}).get("Code", ""))

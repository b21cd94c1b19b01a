"""Names of stores: folders, and addresses such as `s3://bucket/folder`."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from kdplan.diagnostics.report import error
from kdplan.runtime.options import cache_folder


@dataclass(frozen=True, slots=True)
class Driver:
    """The package with which fsspec reads a scheme, and the extra of kdplan that installs it; "" where none does."""

    package: str = ""
    extra: str = ""


DRIVERS = {"s3": Driver("s3fs", "s3"), "gs": Driver("gcsfs", "gs"), "memory": Driver()}
"""Scheme -> its driver. `memory` lives in one process: it is for tests."""

_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST")
"""Variables that say which service a bucket's name is of."""


@dataclass(frozen=True, slots=True)
class Address:
    """A folder in a bucket.

    >>> str(Address("s3", "lab", "kd/runs")), str(Address("s3", "lab", ""))
    ('s3://lab/kd/runs', 's3://lab')
    """

    scheme: str
    bucket: str
    folder: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def path(self) -> str:
        """Bucket and folder, as fsspec takes them."""
        return f"{self.bucket}/{self.folder}".rstrip("/")

    @property
    def cache(self) -> Path:
        """The folder of the local cache: in `KDPLAN_CACHE`, else in `~/.cache/kdplan`.

        Its name is a hash of the address, and of the service that the environment names.
        """
        service = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        name = hashlib.sha256(f"{self} {service}".encode()).hexdigest()[:16]
        return cache_folder() / name


def located(option: str, name: str) -> Address | str:
    """The address that `name` is, or else the name of a folder.

    Parameters
    ----------
    option
        Where the name was given, for messages: `--store`, `KDPLAN_STORE`.
    name
        `s3://bucket/folder`, `gs://bucket/folder`, `file:///folder`, or the name of a folder.

    Raises
    ------
    PlanError
        KD0940 if it is an address of nothing, KD0941 if its driver is not installed.

    Examples
    --------
    >>> located("--store", "memory://lab//kd/")
    Address(scheme='memory', bucket='lab', folder='kd')
    >>> located("--store", "file:///tmp/my%20runs"), located("--store", "runs")
    ('/tmp/my runs', 'runs')
    """
    parts = _SCHEME.fullmatch(name)
    if parts is None:
        return name
    scheme, slashes, rest = parts[1].lower(), parts[2], parts[3]
    scheme = _ALIASES.get(scheme, scheme)
    if not slashes and scheme not in {*DRIVERS, "file"}:
        return name  # a folder whose name has a colon
    if not slashes:
        raise _invalid(option, name, "two slashes are missing", f"{scheme}://{rest.lstrip('/')}")
    if scheme == "file":
        if not rest.startswith(("/", "localhost/")):
            raise _invalid(option, name, "a folder's address has three slashes", f"file:///{rest}")
        return unquote(rest.removeprefix("localhost"))
    if scheme not in DRIVERS:
        raise error("KD0940", None, option=option, name=name, problem=f"the scheme `{scheme}` is unknown")
    bucket, *folders = rest.split("/")
    if "@" in bucket:
        name = name.replace(bucket.rpartition("@")[0], "…", 1)
        raise error("KD0940", None, option=option, name=name, problem="credentials do not belong into an address")
    if not _BUCKET.fullmatch(bucket):
        raise error("KD0940", None, option=option, name=name, problem=f"`{bucket}` is no name of a bucket")
    if not {".", ".."}.isdisjoint(folders) or set(rest) & set("?#*[]\\"):
        problem = "its folder's name has a part `.` or `..`, or one of `? # * [ ] \\`"
        raise error("KD0940", None, option=option, name=name, problem=problem)
    driver = DRIVERS[scheme]
    if driver.package and find_spec(driver.package) is None:
        raise error("KD0941", None, address=name, package=driver.package, extra=driver.extra)
    return Address(scheme, bucket, "/".join(f for f in folders if f))


def _invalid(option: str, name: str, problem: str, instead: str) -> Exception:
    return error("KD0940", None, option=option, name=name, problem=problem, help=f"Write `{instead}`.")

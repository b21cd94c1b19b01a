"""Names of stores: folders and addresses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from kdplan.diagnostics.report import PlanError
from kdplan.runtime.remote.address import Address, located
from tests.cli.conftest import Kdplan, folder, kdplan

__all__ = ["folder", "kdplan"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("s3://lab", Address("s3", "lab", "")),
        ("S3://lab/a//b/", Address("s3", "lab", "a/b")),
        ("s3a://lab/a", Address("s3", "lab", "a")),
        ("memory://lab.b-c_d/a b", Address("memory", "lab.b-c_d", "a b")),
        ("file:///tmp/a%20b", "/tmp/a b"),
        ("file://localhost/tmp/a", "/tmp/a"),
        ("runs", "runs"),
        ("run:1", "run:1"),
        ("./s3:/x", "./s3:/x"),
        ("~/runs", "~/runs"),
    ],
)
def test_meaning(name: str, meant: object) -> None:
    assert located("--store", name) == meant


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("s4://lab/a", "the scheme `s4` is unknown"),
        ("https://lab/a", "the scheme `https` is unknown"),
        ("s3:/lab/a", "Write `s3://lab/a`"),
        ("s3:lab", "Write `s3://lab`"),
        ("file:/tmp/a", "Write `file://tmp/a`"),
        ("file://tmp/a", "Write `file:///tmp/a`"),
        ("s3://", "no name of a bucket"),
        ("s3:///a", "no name of a bucket"),
        ("s3://key:secret@lab/a", "credentials do not belong"),
        ("s3://lab/../a", "`..`"),
        ("s3://lab/a*", "`? # * [ ] \\`"),
        ("s3://lab/a?b", "`? # * [ ] \\`"),
    ],
)
def test_refused(name: str, words: str, kdplan: Kdplan, folder: Path) -> None:
    ran = kdplan("plan", "a.kd", "--store", name)
    assert ran.code == 2 and "KD0940" in ran.err and words in " ".join(ran.err.split()), ran.err
    assert {p.name for p in folder.iterdir()} == {"a.kd"}


def test_the_variable_is_refused_likewise(kdplan: Kdplan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDPLAN_STORE", "s5://lab/a")
    ran = kdplan("status", "a.kd")
    assert ran.code == 2 and "`KDPLAN_STORE s5://lab/a` cannot be used" in ran.err


def test_a_driver_that_is_not_installed(kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = ("s3fs", "gcsfs")
    monkeypatch.setattr("kdplan.runtime.remote.address.find_spec", lambda n: None if n in hidden else find(n))
    for name, extra in (("s3://lab/a", "s3"), ("gs://lab/a", "gs"), ("gcs://lab/a", "gs")):
        ran = kdplan("run", "a.kd", "--store", name)
        assert ran.code == 2 and "KD0941" in ran.err and f"pip install 'kdplan[{extra}]'" in ran.err
    assert {p.name for p in folder.iterdir()} == {"a.kd"}


def test_a_folder_as_an_address(kdplan: Kdplan, folder: Path) -> None:
    assert kdplan("store", "ls", "--store", f"file://{folder}/runs%201").code == 0
    ran = kdplan("run", "a.kd", "--only", "big@train", "--store", f"file://{folder}/runs%201")
    assert ran.code == 0 and len(list((folder / "runs 1" / "phases").iterdir())) == 1


def test_other_options_take_no_addresses(kdplan: Kdplan) -> None:
    ran = kdplan("run", "a.kd", "--csv", "s3://lab/a")
    assert ran.code == 2 and "KD0017" in ran.err


def test_each_address_and_service_has_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDPLAN_CACHE", str(tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    one = Address("s3", "lab", "a").cache
    assert one == Address("s3", "lab", "a").cache and one.parent == tmp_path
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    others = {Address("s3", "lab", "a").cache, Address("s3", "lab", "b").cache}
    assert len(others | {one}) == 3
    monkeypatch.delenv("KDPLAN_CACHE")
    assert Address("s3", "lab", "a").cache.parent == Path.home() / ".cache" / "kdplan"


def test_a_cache_that_cannot_be_made(kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("KDPLAN_CACHE", str(folder / "file"))
    ran = kdplan("plan", "a.kd", "--store", "memory://lab/a")
    assert ran.code == 2 and "KD0017" in ran.err and "KDPLAN_CACHE" in ran.err, ran.err


def test_an_error_names_no_secret() -> None:
    with pytest.raises(PlanError) as caught:
        located("--store", "s3://AKIA:secret@lab/a")
    assert "secret" not in str(caught.value)

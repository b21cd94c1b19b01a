"""`kdplan store push` and `pull`, and how often commands ask the service."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.runtime.remote.address import Address
from kdplan.runtime.store import Store
from tests.cli.conftest import PLAN, Kdplan, folder, kdplan
from tests.scale.service import Service

__all__ = ["folder", "kdplan"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in a folder in which the plan has run once."""
    here = tmp_path_factory.mktemp("trained")
    (here / "a.kd").write_text(PLAN)
    assert main(["run", str(here / "a.kd"), "--store", str(here / "runs")]) == 0
    return here / "runs"


def content(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.glob("phases/*/*")}


def test_all_of_a_store(
    trained: Path, address: Address, kdplan: Kdplan, folder: Path, service: Service, bucket: str
) -> None:
    pushed = kdplan("store", "push", "--store", str(trained), str(address))
    assert pushed.code == 0 and "pushed big@train (" in pushed.out and "copied 2 results" in pushed.out, pushed.err
    again = kdplan("store", "push", str(address), "--store", str(trained))
    assert again.code == 0 and "copied 0 results" in again.out and "2 there before" in again.out
    pulled = kdplan("store", "pull", str(address), "--store", "copy")
    assert pulled.code == 0 and "pulled kd (" in pulled.out and "copied 2 results" in pulled.out
    assert content(folder / "copy") == content(trained)
    ran = kdplan("run", "a.kd", "--store", "copy")
    assert ran.code == 0 and "2 cached" in ran.out
    service.asked.clear()
    ran = kdplan("run", "a.kd", "--store", str(address))
    assert ran.code == 0 and "2 cached" in ran.out and "table on" in ran.out
    # Numbers came along, so that no network is needed.
    assert not [path for _, path in service.asked if "/files/" in path]


@pytest.mark.parametrize(
    ("what", "names"),
    [(["big@train"], ["big@train"]), (["kd"], ["kd"]), (["a.kd"], ["big@train", "kd"]), ([], ["big@train", "kd"])],
)
def test_a_part_of_a_store(
    what: list[str], names: list[str], trained: Path, address: Address, kdplan: Kdplan, folder: Path
) -> None:
    pushed = kdplan("store", "push", "--json", "--store", str(trained), str(address), *what).json
    assert sorted(e["name"] for e in pushed["entries"]) == names
    kdplan("store", "push", "--store", str(trained), str(address))
    pulled = kdplan("store", "pull", "--json", "--store", "copy", str(address), *what).json
    assert sorted(e["name"] for e in pulled["entries"]) == names
    assert {e["outcome"] for e in pulled["entries"]} == {"pulled"}
    assert sorted(p.name for p in (folder / "copy" / "phases").iterdir()) == sorted(e["key"] for e in pulled["entries"])


def test_a_key(trained: Path, address: Address, kdplan: Kdplan, folder: Path) -> None:
    key = next((trained / "phases").iterdir()).name
    assert [e["key"] for e in kdplan("store", "push", "--json", "--store", str(trained), str(address), key[:8]).json[
        "entries"
    ]] == [key]  # fmt: skip
    pulled = kdplan("store", "pull", "--json", "--store", "copy", str(address), key[:8]).json
    assert [(e["key"], e["outcome"]) for e in pulled["entries"]] == [(key, "pulled")]


def test_words_that_mean_nothing(trained: Path, address: Address, kdplan: Kdplan) -> None:
    for command in ("push", "pull"):
        ran = kdplan("store", command, "--store", str(trained), str(address), "nothing")
        assert ran.code == 2 and "KD0919" in ran.err, ran.err


def test_both_sides_are_of_their_kind(
    address: Address, kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in (["copy", "--store", "runs"], [str(address), "--store", "s3://lab/other"]):
        for command in ("push", "pull"):
            ran = kdplan("store", command, *given)
            assert ran.code == 2 and "KD0940" in ran.err, ran.err
    monkeypatch.setenv("KDPLAN_STORE", str(address))
    assert kdplan("store", "push", str(address)).code == 2
    assert {p.name for p in folder.iterdir()} == {"a.kd"}


def test_damage_on_both_sides(
    trained: Path, address: Address, kdplan: Kdplan, folder: Path, service: Service, bucket: str
) -> None:
    """What is intact is copied, and the exit code says that not all was."""
    kdplan("store", "push", "--store", str(trained), str(address))
    kdplan("store", "pull", "--store", "copy", str(address))
    some = next((folder / "copy" / "phases").glob("*/weights-0-last.safetensors"))
    whole = some.read_bytes()
    some.write_bytes(whole[:-1])
    ran = kdplan("store", "push", "--store", "copy", f"{address}/other")
    assert ran.code == 4 and "KD0903" in ran.err and "copied 1 result," in ran.out, ran.out + ran.err
    ran = kdplan("store", "pull", "--store", "copy", str(address))
    assert ran.code == 0 and some.read_bytes() == whole
    name = next(n for n in service.names(bucket, f"kd/files/{some.parent.name}/"))
    service.client().put_object(Bucket=bucket, Key=name, Body=b"altered")
    ran = kdplan("store", "pull", "--store", "third", str(address))
    assert ran.code == 4 and "KD0946" in ran.err and "copied 1 result," in ran.out, ran.out + ran.err
    assert len(content(folder / "third")) == len(content(trained)) // 2
    # A push of the same artifact sees the size that is wrong.
    assert kdplan("store", "push", "--store", "copy", str(address)).code == 0
    assert kdplan("store", "pull", "--store", "third", str(address)).code == 0
    assert content(folder / "third") == content(trained)


def test_the_service_is_not_reached(
    trained: Path, address: Address, kdplan: Kdplan, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    monkeypatch.setattr("kdplan.runtime.remote.objects._OPTIONS", {"s3": options})
    service.stop()
    for command in ("push", "pull"):
        ran = kdplan("store", command, "--store", str(trained), str(address))
        assert ran.code == 1 and "KD0944" in ran.err and "Traceback" not in ran.err


MANY = PLAN.replace("student small = digits_net(width = 2)", "param s in 0..39\nstudent small = digits_net(width = 2)")
MANY = MANY.replace("temperature = 4", "temperature = 4 + s").replace("small@kd\n", "small@kd[s = 0]\n")


def test_one_listing_a_command(address: Address, kdplan: Kdplan, folder: Path, service: Service) -> None:
    """However many phases a plan has, looking at it asks the service once."""
    assert kdplan("run", "a.kd", "--store", str(address)).code == 0
    (folder / "many.kd").write_text(MANY)
    for command in (["plan", "many.kd", "--no-cost"], ["status", "many.kd"], ["why", "many.kd", "big@train"]):
        service.asked.clear()
        ran = kdplan(*command, "--store", str(address))
        assert ran.code == 0, ran.err
        assert len([path for _, path in service.asked if "prefix=kd%2Findex" in path]) == 1
        leases = [path for _, path in service.asked if "leases" in path]  # a driver looks thrice at an empty folder
        assert len(service.asked) == 1 + len(leases) and len(leases) == (3 if command[0] == "status" else 0)


def test_numbers_are_computed_once(
    trained: Path, address: Address, kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kdplan("run", "a.kd", "--store", str(address)).code == 0
    monkeypatch.setenv("KDPLAN_CACHE", str(folder / "another"))
    monkeypatch.setattr("kdplan.runtime.measures.compute.compute", None, raising=False)
    ran = kdplan("plan", "a.kd", "--store", str(address))
    assert ran.code == 0
    (cache,) = (folder / "another").iterdir()
    assert len(list((cache / "costs").iterdir())) == 2
    ran = kdplan("run", "a.kd", "--store", str(address))
    assert ran.code == 0 and "table on" in ran.out
    assert Store(cache).root.is_dir() and not (cache / "phases").exists()
    assert len(list((cache / "measures").iterdir())) == 2


def test_the_commands_of_the_documents(kdplan: Kdplan, folder: Path, service: Service) -> None:
    """Every `kdplan` line of docs/scaling.md about a bucket, on a short plan, in its order."""
    if "bucket" not in {b["Name"] for b in service.client().list_buckets()["Buckets"]}:
        service.client().create_bucket(Bucket="bucket")
    (folder / "plans").mkdir()
    shutil.copy(folder / "a.kd", folder / "plans" / "quickstart.kd")
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    section = text.partition("## A store in the cloud")[2].partition("\n## ")[0]
    commands = [line.removeprefix("kdplan ") for line in section.splitlines() if line.startswith("kdplan ")]
    assert len(commands) == 3
    for command in commands:
        ran = kdplan(*shlex.split(command))
        assert ran.code == 0, (command, ran.err)
    assert len(list((folder / ".kdplan" / "phases").iterdir())) == 2

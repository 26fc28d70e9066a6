"""The local Hub speaks the protocol well enough for the real clients, and fails where it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.conftest import ROOT
from tests.hub.faults import STEPS
from tests.hub.server import Hub, User

CARD = """---
license: mit
configs:
- config_name: ratings
  data_files: "ratings/*.parquet"
- config_name: withdrawals
  data_files: "withdrawals/*.parquet"
---
# A card
"""


@pytest.fixture
def api(hub: Hub) -> HfApi:
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("extes/tried")
    return api


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def status_of(error: pytest.ExceptionInfo) -> int:
    return int(error.value.response.status_code)


# what works


def test_a_folder_of_small_and_large_files_comes_back_as_it_was(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "notes é.txt").write_text("hello")
    (folder / "model.safetensors").write_bytes(os.urandom(300_000))
    api.upload_folder(repo_id="extes/tried", folder_path=folder)
    assert set(api.list_repo_files("extes/tried")) == {".gitattributes", "deep/notes é.txt", "model.safetensors"}
    for path in ("deep/notes é.txt", "model.safetensors"):
        local = hf_hub_download("extes/tried", path, endpoint=hub.url, token=hub.token, cache_dir=tmp_path / "cache")
        assert Path(local).read_bytes() == (folder / path).read_bytes()
    kinds = {file.path: bool(file.lfs) for file in api.get_paths_info("extes/tried", ["model.safetensors"])}
    assert kinds == {"model.safetensors": True} and hub.received("lfs_upload") == 300_000


def test_large_files_go_up_in_parts_where_the_server_says_so(tmp_path: Path) -> None:
    content = os.urandom(250_000)
    with Hub(part_size=100_000) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("extes/tried")
        api.upload_file(path_or_fileobj=content, path_in_repo="w.bin", repo_id="extes/tried")
        assert hub.count("lfs_part") == 3 and hub.files("extes/tried")["w.bin"] == content


def test_what_is_there_is_not_sent_again(hub: Hub, api: HfApi) -> None:
    content = os.urandom(50_000)
    api.create_commit("extes/tried", [add("w.bin", content), add("a.txt", b"a")], commit_message="one")
    sent, commits = hub.received("lfs_upload"), len(hub.repo("extes/tried").history())
    api.create_commit("extes/tried", [add("w.bin", content), add("a.txt", b"a")], commit_message="again")
    assert (hub.received("lfs_upload"), len(hub.repo("extes/tried").history())) == (sent, commits)


def test_history_keeps_parents_and_old_revisions_can_be_read(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    first = api.create_commit("extes/tried", [add("a.txt", b"1"), add("d/b.txt", b"1")], commit_message="one")
    api.create_commit("extes/tried", [add("a.txt", b"2")], commit_message="two")
    api.create_commit("extes/tried", [CommitOperationDelete("d/")], commit_message="three")
    titles = [commit.title for commit in api.list_repo_commits("extes/tried")]
    assert titles == ["three", "two", "one", "initial commit"]
    history = hub.repo("extes/tried").history()
    assert [commit.parent for commit in history] == [commit.oid for commit in history[1:]] + [None]
    assert hub.files("extes/tried", revision=first.oid)["a.txt"] == b"1"
    assert "d/b.txt" not in hub.files("extes/tried")
    old = hf_hub_download("extes/tried", "a.txt", revision=first.oid, endpoint=hub.url, cache_dir=tmp_path / "c")
    assert Path(old).read_bytes() == b"1"


def test_long_listings_are_paged() -> None:
    with Hub(page=7) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("extes/many", repo_type="dataset")
        names = {f"shards/{n:03}.txt" for n in range(40)}
        adds = [add(name, name.encode()) for name in names]
        api.create_commit("extes/many", adds, repo_type="dataset", commit_message="many")
        assert set(api.list_repo_files("extes/many", repo_type="dataset")) == names | {".gitattributes"}
        assert hub.count("tree") > 5


def test_datasets_opens_the_configs_of_the_card(hub: Hub) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    def parquet(rows: list[dict]) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()

    api = HfApi()  # the fixture points the library here: no endpoint, no token given
    api.create_repo("extes/rated", repo_type="dataset", private=True)
    operations = [
        add("README.md", CARD.encode()),
        add("ratings/0-1.parquet", parquet([{"id": 0}, {"id": 1}])),
        add("ratings/2-2.parquet", parquet([{"id": 2}])),
        add("withdrawals/0-0.parquet", parquet([{"receipt": "x"}])),
    ]
    api.create_commit("extes/rated", operations, repo_type="dataset", commit_message="shards")
    assert datasets.load_dataset("extes/rated", "ratings", split="train")["id"] == [0, 1, 2]
    assert datasets.load_dataset("extes/rated", "withdrawals", split="train")["receipt"] == ["x"]


def test_a_pull_request_leaves_main_alone(hub: Hub, api: HfApi) -> None:
    done = api.create_commit("extes/tried", [add("a.txt", b"a")], commit_message="proposed", create_pr=True)
    assert done.pr_num == 1 and "a.txt" not in hub.files("extes/tried")
    assert hub.files("extes/tried", revision="refs/pr/1")["a.txt"] == b"a"


def test_parts_of_a_file_can_be_asked_for(hub: Hub, api: HfApi) -> None:
    api.create_commit("extes/tried", [add("a.txt", b"0123456789")], commit_message="digits")
    url = f"{hub.url}/extes/tried/resolve/main/a.txt"
    answer = httpx2.get(url, headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"234")
    assert httpx2.get(url, headers={"Range": "bytes=7-"}).content == b"789"
    assert httpx2.get(url, headers={"Range": "bytes=20-30"}).status_code == 416


# who may


def test_private_repositories_are_hidden_from_others(tmp_path: Path, hub: Hub) -> None:
    hub.allow("hf_other", User("other"))
    HfApi(endpoint=hub.url, token=hub.token).create_repo("extes/secret", private=True)
    for token, status in ((False, 401), ("hf_other", 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            HfApi(endpoint=hub.url, token=token).model_info("extes/secret")
        assert status_of(error) == status
    assert HfApi(endpoint=hub.url, token=hub.token).model_info("extes/secret").private


def test_roles_and_namespaces_are_kept_apart(hub: Hub, api: HfApi) -> None:
    hub.allow("hf_reader", User("extes", role="read"))
    hub.allow("hf_lab", User("ann", orgs=("lab",)))
    for token, repo in (("hf_reader", "extes/new"), (hub.token, "lab/new")):
        with pytest.raises(HfHubHTTPError) as error:
            HfApi(endpoint=hub.url, token=token).create_repo(repo)
        assert status_of(error) == 403
    HfApi(endpoint=hub.url, token="hf_lab").create_repo("lab/new")
    reader = HfApi(endpoint=hub.url, token="hf_reader")
    assert reader.model_info("extes/tried").sha
    with pytest.raises(HfHubHTTPError) as error:
        reader.create_commit("extes/tried", [add("a.txt", b"a")], commit_message="no")
    assert status_of(error) == 403


def test_a_revoked_token_is_refused_everywhere(hub: Hub, api: HfApi) -> None:
    hub.revoke(hub.token)
    for call in (api.whoami, lambda: api.model_info("extes/tried"), lambda: api.create_repo("extes/other")):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert status_of(error) == 401


def test_creating_twice_is_a_conflict_unless_allowed(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("extes/tried")
    assert status_of(error) == 409
    assert api.create_repo("extes/tried", exist_ok=True).repo_id == "extes/tried"


def test_missing_things_are_told_apart(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("extes/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("extes/tried", revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("extes/tried", "none.txt", endpoint=hub.url, cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        api.create_commit("extes/tried", [CommitOperationDelete("none.txt")], commit_message="no")


def test_information_can_be_asked_for_in_part(api: HfApi) -> None:
    part = api.model_info("extes/tried", expand=["private"])
    assert part.private is False and part.sha is None and part.siblings is None
    assert api.model_info("extes/tried").siblings


def test_a_card_with_broken_metadata_is_refused(api: HfApi) -> None:
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.create_commit("extes/tried", [add("README.md", b"---\na: [\n---\n")], commit_message="no")


# concurrency


def test_a_commit_on_an_old_parent_is_refused(hub: Hub, api: HfApi) -> None:
    parent = api.model_info("extes/tried").sha
    api.create_commit("extes/tried", [add("a.txt", b"a")], commit_message="one", parent_commit=parent)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit("extes/tried", [add("b.txt", b"b")], commit_message="two", parent_commit=parent)
    assert status_of(error) == 412 and "b.txt" not in hub.files("extes/tried")


def test_commits_at_once_are_put_one_after_the_other(hub: Hub, api: HfApi) -> None:
    def one(n: int) -> None:
        api.create_commit("extes/tried", [add(f"{n}.txt", b"x")], commit_message=str(n))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, range(24)))
    assert len(hub.files("extes/tried")) == 25 and len(hub.repo("extes/tried").history()) == 25


# failing on command


@pytest.mark.parametrize("how", [401, 403, 404, 409, 412, 429, 500, 503])
@pytest.mark.parametrize("step", ["whoami", "create", "info", "commit"])
def test_a_step_answers_with_the_status_it_was_told(hub: Hub, api: HfApi, step: str, how: int) -> None:
    calls = {
        "whoami": api.whoami,
        "create": lambda: api.create_repo("extes/another"),
        "info": lambda: api.model_info("extes/tried"),
        "commit": lambda: api.create_commit("extes/tried", [add("a.txt", b"a")], commit_message="x"),
    }
    hub.fail(step, how)
    with pytest.raises(HfHubHTTPError) as error:
        calls[step]()
    assert status_of(error) == how
    calls[step]()  # once means once
    assert "a.txt" in hub.files("extes/tried") or step != "commit"


@pytest.mark.parametrize("step", ["preupload", "lfs_batch", "lfs_upload", "lfs_verify", "tree"])
@pytest.mark.parametrize("how", [429, 500, 503, "cut", "cut-after"])
def test_the_client_outlives_a_short_failure_of_steps_it_retries(
    hub: Hub, api: HfApi, no_waiting: None, step: str, how: int | str
) -> None:
    hub.fail(step, how, times=2)
    api.create_commit("extes/tried", [add("w.bin", b"\0" * 5000)], commit_message="x")
    assert "w.bin" in api.list_repo_files("extes/tried")
    assert [request.fault for request in hub.requests].count(str(how)) == 2


@pytest.mark.parametrize("how", ["cut", "cut-before", "cut-after"])
def test_a_cut_commit_took_effect_only_where_it_should(hub: Hub, api: HfApi, how: str) -> None:
    hub.fail("commit", how)
    with pytest.raises(httpx2.TransportError):
        api.create_commit("extes/tried", [add("a.txt", b"a" * 9000)], commit_message="x")
    assert ("a.txt" in hub.files("extes/tried")) is (how == "cut-after")


def test_a_download_cut_in_the_middle_is_begun_again(hub: Hub, api: HfApi, no_waiting: None, tmp_path: Path) -> None:
    content = os.urandom(200_000)
    api.create_commit("extes/tried", [add("w.bin", content)], commit_message="x")
    hub.fail("resolve", "cut-after", after=1)  # the HEAD passes, the GET breaks
    path = hf_hub_download("extes/tried", "w.bin", endpoint=hub.url, cache_dir=tmp_path)
    assert Path(path).read_bytes() == content
    assert [request.sent for request in hub.requests if request.step == "resolve"] == [0, 100_000, 200_000]


def test_retry_after_is_said(hub: Hub) -> None:
    hub.fail("whoami", 429, retry_after=17)
    assert httpx2.get(f"{hub.url}/api/whoami-v2").headers["Retry-After"] == "17"


def test_slow_is_late_but_right(hub: Hub, api: HfApi) -> None:
    hub.fail("info", "slow", seconds=0.3)
    began = time.monotonic()
    assert api.model_info("extes/tried").id == "extes/tried" and time.monotonic() - began >= 0.3


def test_failures_wait_for_their_turn_their_repository_and_end(hub: Hub, api: HfApi) -> None:
    api.create_repo("extes/spared")
    fault = hub.fail("info", 500, times=None, after=1, repo="extes/tried")
    api.model_info("extes/tried")
    for _ in range(3):
        with pytest.raises(HfHubHTTPError):
            api.model_info("extes/tried")
        api.model_info("extes/spared")
    hub.heal()
    api.model_info("extes/tried")
    assert fault.met == 3


def test_unknown_steps_and_ways_are_refused_at_once(hub: Hub) -> None:
    with pytest.raises(ValueError, match="unknown step"):
        hub.fail("comit", 500)
    with pytest.raises(ValueError, match="unknown way"):
        hub.fail("commit", "explode")


def test_an_outage_ends_with_everything_as_it_was(hub: Hub, api: HfApi) -> None:
    hub.stop()
    with pytest.raises(httpx2.TransportError):
        api.model_info("extes/tried")
    hub.start()
    assert api.model_info("extes/tried").id == "extes/tried"


# staying


def test_a_folder_outlives_the_server(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.hub.server", "--folder", str(tmp_path / "hub")]

    def start() -> tuple[subprocess.Popen[str], HfApi]:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        url, token = process.stdout.readline().split()
        return process, HfApi(endpoint=url, token=token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        process, api = start()
        api.create_repo("extes/kept", private=True)
        api.create_commit("extes/kept", [add("w.bin", b"\0" * 100), add("a.txt", b"a")], commit_message="one")
        process.kill()
        process.wait()
        process, api = start()
        assert set(api.list_repo_files("extes/kept")) == {".gitattributes", "a.txt", "w.bin"}
        assert api.model_info("extes/kept").private and len(api.list_repo_commits("extes/kept")) == 2
        process.terminate()
        assert process.wait(timeout=10) == 0


def test_every_step_of_the_protocol_can_be_failed() -> None:
    with Hub() as hub:
        reachable = {step for _, _, step, _ in hub.protocol.routes}
    assert reachable == set(STEPS)

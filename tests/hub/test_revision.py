"""A rating names the commits that its reply came from, the adapter's too."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from extes.arms.local import Engine
from tests.hub.server import Hub
from tests.training import tiny
from training.tune import tune


def test_a_revision_names_the_commits_on_the_hub_that_were_loaded(hub: Hub, weights: Path) -> None:
    api = HfApi(token=hub.token)
    commits = {}
    for repo, folder in (("extes/base", "base"), ("extes/tuned", "lora"), ("extes/other", "lora")):
        api.create_repo(repo)
        commits[repo] = api.upload_folder(repo_id=repo, folder_path=weights / folder).oid
    engine = Engine("extes/base", {"one": "extes/tuned", "two": "extes/other", "three": str(weights / "lora")})
    engine.load()
    base = engine.revisions[""]
    assert base == f"extes/base@{commits['extes/base']}"
    assert engine.revisions["one"] == f"{base}+extes/tuned@{commits['extes/tuned']}"
    assert engine.revisions["two"] == f"{base}+extes/other@{commits['extes/other']}"
    assert "@" not in engine.revisions["three"].removeprefix(base)


def test_a_run_on_a_base_from_the_hub_records_the_commit_that_it_began_with(hub: Hub, tmp_path: Path) -> None:
    api = HfApi(token=hub.token)
    api.create_repo("extes/tiny")
    commit = api.upload_folder(repo_id="extes/tiny", folder_path=tiny.write_base(tmp_path / "base")).oid
    made = tiny.write_dialogues(tmp_path / "made.jsonl")
    for revision in ("", "main"):
        recipe = tiny.small("lora", "extes/tiny", made, f"base_revision={revision}")
        done = tune(recipe, tmp_path / f"run{revision}", say=None)
        assert done.record["base_revision"] == commit

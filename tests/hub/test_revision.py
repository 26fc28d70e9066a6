"""A rating names the commits that its reply came from, the adapter's too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from extes.arms.local import Engine
from extes.errors import Problem
from extes.hub.merge import merge
from extes.hub.run import read_run
from tests.hub.server import Hub
from tests.training import tiny
from tests.training.test_resume import Stopped, stop_at
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


def test_a_base_that_moved_on_the_hub_is_not_merged_into_nor_trained_on(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = HfApi(token=hub.token)
    api.create_repo("extes/tiny")
    base = tiny.write_base(tmp_path / "base")
    api.upload_folder(repo_id="extes/tiny", folder_path=base)
    recipe = tiny.small("lora", "extes/tiny", tiny.write_dialogues(tmp_path / "made.jsonl"))
    whole = tune(recipe, tmp_path / "whole", say=None)
    with monkeypatch.context() as patched:
        stop_at(4, patched)
        with pytest.raises(Stopped):
            tune(recipe, tmp_path / "broken", say=None)

    weights = load_file(base / "model.safetensors")
    before = weights["model.embed_tokens.weight"].clone()
    save_file({name: w * 0 for name, w in weights.items()}, base / "model.safetensors", {"format": "pt"})
    api.upload_folder(repo_id="extes/tiny", folder_path=base)
    merge(read_run(whole.folder), tmp_path / "merged")
    after = load_file(tmp_path / "merged" / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(after, before)
    with pytest.raises(Problem, match="the base extes/tiny is at another commit"):
        tune(recipe, tmp_path / "broken", say=None)

"""``extes push model``: the real command and client against the local Hub, failures at every step included."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, hf_hub_download

from extes.cli import main, parser
from extes.hub import send
from extes.hub.merge import merge
from extes.hub.run import read_run
from tests.conftest import ROOT
from tests.hub.server import Hub, User

MakeRun = Callable[..., Path]
STEPS = ("info", "create", "tree", "yaml", "preupload", "lfs_batch", "lfs_upload", "lfs_verify", "commit")
FOR_GOOD = (401, 403, 404)
PASSING = (409, 429, 500, "cut", "cut-after")
EFFECTIVE = {("commit", "cut-after"), ("create", "cut-after"), ("lfs_upload", "cut-after")}


@pytest.fixture(autouse=True)
def hub(hub: Hub, no_waiting: None, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(send, "WAIT", 0.01)
    hub.allow("hf_ann", User("ann"))
    for base, token in (("extes/base", hub.token), ("ann/base-7b", "hf_ann")):
        HfApi(token=token).create_repo(base)
    hub.requests.clear()
    return hub


def push(run: Path, repo: str, *more: str) -> int:
    return main(["push", "model", str(run), repo, "--base", "extes/base", *more])


def lfs_bytes(hub: Hub, repo: str) -> int:
    state = hub.repo(repo)
    return sum(file.size for file in state.tree(state.refs["refs/heads/main"]).values() if file.lfs)


# what arrives


def test_the_adapter_arrives_with_all_that_belongs_to_it(hub: Hub, make_run: MakeRun, weights: Path) -> None:
    assert push(make_run(), "extes/tuned") == 0
    files = hub.files("extes/tuned")
    assert set(files) == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
        "tokenizer.json", "tokenizer_config.json", "recipe.toml", "run.json", "metrics.json", "log.jsonl", "curves.png",
    }  # fmt: skip
    assert files["adapter_model.safetensors"] == (weights / "lora" / "adapter_model.safetensors").read_bytes()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "extes/base"
    assert hub.repo("extes/tuned").history()[0].title == "Push adapter (lora) for extes/base"


def test_the_card_carries_licence_lineage_metrics_use_and_limits(hub: Hub, make_run: MakeRun) -> None:
    push(make_run(), "extes/tuned")
    card = ModelCard(hub.files("extes/tuned")["README.md"].decode())
    assert (card.data.license, card.data.base_model, card.data.library_name) == ("cc-by-nc-4.0", "extes/base", "peft")
    assert card.data["base_model_relation"] == "adapter"
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("perplexity", 12.3457, "seeds")
    for heading in ("## Data", "## Intended use and limits", "## Licence", "## How to use"):
        assert heading in card.text


def test_a_card_without_these_parts_gets_them_from_the_run(hub: Hub, make_run: MakeRun) -> None:
    run = make_run()
    (run / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nWords of my own.\n")
    push(run, "extes/tuned")
    text = hub.files("extes/tuned")["README.md"].decode()
    assert "Words of my own." in text and "esconv:esconv.jsonl.gz" in text and "ab" * 32 in text
    assert "## Intended use and limits" in text and "blinded studies" in text


def test_no_folder_of_this_machine_is_told(hub: Hub, make_run: MakeRun) -> None:
    run = make_run()
    push(run, "extes/tuned")
    push(run, "extes/merged", "--merged")
    for repo in ("extes/tuned", "extes/merged"):
        for path, content in hub.files(repo).items():
            assert b"ann-example" not in content and str(run.parent).encode() not in content, path


def test_what_was_pushed_loads_and_answers_as_the_card_says(
    hub: Hub, make_run: MakeRun, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    HfApi().upload_folder(repo_id="extes/base", folder_path=weights / "base")
    run = make_run()
    assert push(run, "extes/tuned") == push(run, "extes/merged", "--merged") == 0
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    base = AutoModelForCausalLM.from_pretrained(weights / "base")
    with torch.no_grad():
        plain = base(ids).logits
        here = peft.PeftModel.from_pretrained(base, run / "adapter").eval()(ids).logits
        for repo in ("extes/tuned", "extes/merged"):
            card = ModelCard(hub.files(repo)["README.md"].decode())
            [code] = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
            names: dict = {}
            capsys.readouterr()
            exec(code, names)
            there = names["model"].eval()(ids).logits
            assert torch.allclose(there, here, atol=1e-5) and not torch.allclose(there, plain, atol=1e-3)
            assert isinstance(names["reply"], torch.Tensor) and capsys.readouterr().out


def test_whole_weights_need_no_base(hub: Hub, make_run: MakeRun) -> None:
    assert main(["push", "model", str(make_run("full")), "extes/full"]) == 0
    card = ModelCard(hub.files("extes/full")["README.md"].decode())
    assert card.data.library_name == "transformers" and card.data.base_model is None
    assert "merged" not in card.text
    assert "model.safetensors" in hub.files("extes/full")


def test_an_adapter_on_a_hub_base_names_its_commit(hub: Hub, make_run: MakeRun) -> None:
    assert main(["push", "model", str(make_run(base="ann/base-7b")), "extes/tuned"]) == 0
    config = json.loads(hub.files("extes/tuned")["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("ann/base-7b", "a" * 40)


def test_pickles_stay_here(hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    (run / "adapter" / "training_args.bin").write_bytes(b"pickle")
    assert push(run, "extes/tuned") == 0
    assert "training_args.bin" not in hub.files("extes/tuned") and "training_args.bin" in capsys.readouterr().err


# dry run


@pytest.mark.parametrize("more", [(), ("--merged",)])
def test_a_dry_run_shows_what_a_push_sends_and_touches_nothing(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    run = make_run()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    capsys.readouterr()
    assert push(run, "extes/tuned", "--dry-run", *more) == 0
    shown = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert not [request for request in hub.requests if request.step]
    push(run, "extes/tuned", *more)
    files = {path: content for path, content in hub.files("extes/tuned").items() if path != ".gitattributes"}
    listed = {
        path: int(size.replace(",", "")) for size, path in re.findall(r"^ +([\d,]+)  (\S+)$", shown, re.MULTILINE)
    }
    assert listed == {path: len(content) for path, content in files.items()}
    assert all(line.strip() in shown for line in files["README.md"].decode().splitlines())


# again


def test_a_finished_push_repeated_does_nothing_and_says_so(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    push(run, "extes/tuned")
    asked, commits = hub.count(), len(hub.repo("extes/tuned").history())
    capsys.readouterr()
    assert push(run, "extes/tuned") == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert [request.method for request in hub.requests[asked:]] == ["GET", "GET", "GET"]
    assert len(hub.repo("extes/tuned").history()) == commits


def test_only_what_changed_is_sent(hub: Hub, make_run: MakeRun) -> None:
    run = make_run()
    push(run, "extes/tuned")
    sent = hub.received("lfs_upload")
    (run / "README.md").write_text((run / "README.md").read_text() + "\n## Thanks\n\nTo Ann.\n")
    push(run, "extes/tuned")
    assert list(hub.repo("extes/tuned").history()[0].changes) == ["README.md"]
    assert hub.received("lfs_upload") == sent and b"To Ann." in hub.files("extes/tuned")["README.md"]


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_that_stays_is_told_and_the_next_call_sends_only_the_rest(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    run = make_run()
    for how in (*FOR_GOOD, *PASSING):
        repo = f"extes/{step}-{how}"
        asked = hub.received("lfs_upload")
        hub.fail(step, how, times=None)
        capsys.readouterr()
        done = push(run, repo)
        shown = capsys.readouterr()
        if done == 0:  # what it asked for took effect: the next attempt finds it there
            assert (step, how) in EFFECTIVE or step == "lfs_verify", how
        else:
            assert done == 2
            [told] = [line for line in shown.err.splitlines() if line.startswith("extes: ")]
            assert len(told) > 60 and "Traceback" not in shown.err and "HTTPStatus" not in told
        hub.heal()
        assert push(run, repo) == 0
        assert len(hub.files(repo)) == 12
        if step not in ("lfs_upload", "lfs_batch"):
            assert hub.received("lfs_upload") - asked == lfs_bytes(hub, repo), (step, how)


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_that_passes_is_waited_out(hub: Hub, make_run: MakeRun, step: str) -> None:
    run = make_run()
    for how in PASSING:
        repo = f"extes/{step}-{how}"
        hub.fail(step, how)
        assert push(run, repo) == 0, (step, how)
        assert len(hub.repo(repo).history()) == 2, (step, how)  # the first, and one with everything


def test_a_killed_push_is_taken_up_again(hub: Hub, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    env = os.environ | hub.env(tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "extes.cli", "push", "model", str(run), "extes/tuned", "--base", "extes/base"]
    hub.fail("commit", "slow", seconds=20)
    first = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not hub.received("lfs_upload") or hub.count("lfs_verify") < 2:
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    sent = hub.received("lfs_upload")
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and "Pushed 11 files" in done.stdout, done
    assert hub.received("lfs_upload") == sent == lfs_bytes(hub, "extes/tuned")


def test_someone_elses_commit_in_between_is_kept(hub: Hub, make_run: MakeRun) -> None:
    run = make_run()
    push(run, "extes/tuned")
    (run / "README.md").write_text((run / "README.md").read_text() + "\nMore.\n")
    fault = hub.fail("commit", "slow", seconds=0.5)
    import threading

    pushing = threading.Thread(target=push, args=(run, "extes/tuned"))
    pushing.start()
    while not fault.met:
        time.sleep(0.01)
    HfApi().upload_file(repo_id="extes/tuned", path_or_fileobj=b"theirs", path_in_repo="theirs.txt")
    pushing.join()
    files = hub.files("extes/tuned")
    assert files["theirs.txt"] == b"theirs" and b"More." in files["README.md"]


# what is refused


def refused(run: Path, repo: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    capsys.readouterr()
    assert main(["push", "model", str(run), repo, *more]) == 2
    told = capsys.readouterr().err
    assert told.startswith("extes: ") and "Traceback" not in told
    return told


def test_each_status_says_what_to_do_next(hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    for how, words in {
        401: "HF_TOKEN", 403: "write permission", 404: "spelling", 412: "someone else", 429: "in some minutes",
        500: "Give the same command again", 418: "refused (418)",
    }.items():  # fmt: skip
        hub.fail("commit", how, times=None)
        assert words in refused(run, "extes/tuned", capsys, "--base", "extes/base"), how
        hub.heal()


def test_a_long_wait_is_told_and_not_sat_out(hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fail("commit", 429, times=None, retry_after=3600)
    assert "in 3600 s" in refused(make_run(), "extes/tuned", capsys, "--base", "extes/base")
    assert hub.count("commit") == 1


def test_missing_revoked_and_foreign_tokens(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    hub.allow("hf_reader", User("extes", role="read"))
    for token, words in (("", "there is no Hub token"), ("hf_gone", "(401)"), ("hf_reader", "(403)")):
        monkeypatch.setenv("HF_TOKEN", token)
        assert words in refused(run, "extes/tuned", capsys, "--base", "extes/base")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "'lab' is your account" in refused(run, "lab/tuned", capsys, "--base", "extes/base")


def test_no_network_is_told_with_the_address(hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run, url = make_run(), hub.url
    hub.stop()
    assert url in refused(run, "extes/tuned", capsys, "--base", "extes/base")


def test_a_failure_of_xet_is_told_with_the_way_around_it(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)  # the local Hub has no Xet
    run = make_run()
    assert "HF_HUB_DISABLE_XET=1" in refused(run, "extes/tuned", capsys, "--base", "extes/base")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    assert push(run, "extes/tuned") == 0


def test_offline_mode_is_told(make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(make_run(), "extes/tuned", capsys, "--base", "extes/base")


@pytest.mark.parametrize("repo", ["tuned", "a/b/c", "extes/", "extes/-x", "extes/a b", "http://x/y", ""])
def test_a_malformed_name_is_refused_before_anything(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str], repo: str
) -> None:
    assert "OWNER/NAME" in refused(make_run(), repo, capsys, "--base", "extes/base")
    assert not [request for request in hub.requests if request.step]


def test_private_means_private(hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    assert push(run, "extes/hidden", "--private") == 0 and hub.repo("extes/hidden").private
    assert push(run, "extes/hidden", "--private") == 0
    push(run, "extes/shown")
    assert "is public" in refused(run, "extes/shown", capsys, "--base", "extes/base", "--private")


def test_an_adapter_and_whole_weights_are_never_mixed(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    push(run, "extes/tuned")
    assert "adapter_config.json" in refused(run, "extes/tuned", capsys, "--merged")
    push(run, "extes/merged", "--merged")
    assert "mixture" in refused(run, "extes/merged", capsys, "--base", "extes/base")


def test_weights_in_other_pieces_are_never_left_beside_whole_ones(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers would load the old ``model.safetensors`` and never look at the new pieces."""
    run = make_run("full")
    assert push(run, "extes/full") == 0
    whole = run / "model" / "model.safetensors"
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (run / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    whole.rename(run / "model" / "model-00001-of-00001.safetensors")
    assert "holds model.safetensors, which" in refused(run, "extes/full", capsys)


def test_an_adapter_whose_base_nobody_has_is_refused(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(make_run(), "extes/tuned", capsys)
    assert "--base OWNER/NAME" in told and "--merged" in told


def test_a_base_that_is_not_on_the_hub_is_refused(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "extes/bsae is not on the Hub" in refused(make_run(), "extes/tuned", capsys, "--base", "extes/bsae")
    assert hub.count("create") == 0


@pytest.mark.parametrize(
    ("name", "record", "words"),
    [
        ("prompt", {"cannot_merge": None}, "not a change of weights"),
        ("lora", {"cannot_merge": "it adds a gate"}, "it adds a gate"),
        ("full", {}, "nothing to merge"),
    ],
)
def test_what_cannot_be_merged_says_why(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], name: str, record: dict, words: str
) -> None:
    assert words in refused(make_run(name, record=record), "extes/tuned", capsys, "--merged")


def test_a_quantised_run_is_merged_into_the_whole_base(hub: Hub, make_run: MakeRun) -> None:
    run = make_run(record={"cannot_merge": "its base is quantised; load the base in full precision"})
    assert push(run, "extes/merged", "--merged") == 0
    card = ModelCard(hub.files("extes/merged")["README.md"].decode())
    assert "(lora)\n\nThese are whole weights" in card.text
    assert (card.data.base_model, card.data["base_model_relation"]) == ("extes/base", "finetune")


def broken(run: Path, how: str) -> Path:
    match how:
        case "no folder":
            return run / "nowhere"
        case "not finished":
            (run / "adapter").rename(run / "adapter.tmp")
        case "no weights":
            (run / "adapter" / "adapter_model.safetensors").unlink()
        case "no template":
            (run / "adapter" / "chat_template.jinja").unlink()
        case "no tokenizer":
            (run / "adapter" / "tokenizer.json").unlink()
        case "no record":
            (run / "run.json").unlink()
        case "bad record":
            (run / "run.json").write_text('{"strategy": 3}')
        case "bad recipe":
            (run / "recipe.toml").write_text("a = [")
        case "no card":
            (run / "README.md").unlink()
        case "bad card":
            (run / "README.md").write_text("---\na: [\n---\n")
        case "no licence":
            (run / "README.md").write_text("---\nlicense: other\n---\n# A card\n")
    return run


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no folder", "is no run folder"), ("not finished", "is not finished"), ("no weights", "adapter_model"),
        ("no template", "chat_template.jinja"), ("no tokenizer", "tokenizer.json"), ("no record", "run.json"),
        ("bad record", "run.json"), ("bad recipe", "recipe.toml"), ("no card", "model card"),
        ("bad card", "metadata"), ("no licence", "--licence"),
    ],
)  # fmt: skip
def test_a_run_that_is_not_whole_is_refused(
    hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str], how: str, words: str
) -> None:
    assert words in refused(broken(make_run(), how), "extes/tuned", capsys, "--base", "extes/base")
    assert not [request for request in hub.requests if request.step]


def test_a_licence_can_be_said_with_the_command(hub: Hub, make_run: MakeRun) -> None:
    assert push(broken(make_run(), "no licence"), "extes/tuned", "--licence", "mit") == 0
    card = ModelCard(hub.files("extes/tuned")["README.md"].decode())
    assert card.data.license == "mit" and "## Licence\n\n`mit`." in card.text


def test_an_empty_licence_is_none(hub: Hub, make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell leaves it where a variable is not set."""
    run = broken(make_run(), "no licence")
    assert "states no licence" in refused(run, "extes/tuned", capsys, "--base", "extes/base", "--licence", "")


def test_a_missing_shard_is_told(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("full")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (run / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.move(run / "model" / "model.safetensors", run / "model" / "model-00001-of-00002.safetensors")
    assert "lacks model-00002-of-00002.safetensors" in refused(run, "extes/full", capsys)


def test_merged_weights_stop_where_the_template_ends_a_turn(make_run: MakeRun, weights: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    base = shutil.copytree(weights / "base", tmp_path / "base")
    # As LLaMA-3's base, which ends texts and turns unlike, and as Vicuna's settings, which do not hold together
    settings = {"eos_token_id": 1, "temperature": 0.9, "top_p": 0.6}
    (base / "generation_config.json").write_text(json.dumps(settings))
    run = make_run(base=str(base))
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    tokenizer.eos_token = "<|user|>"
    tokenizer.save_pretrained(run / "adapter")
    merge(read_run(run), tmp_path / "merged")
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == tokenizer.eos_token_id == 2


def test_a_home_at_the_root_does_not_spoil_every_slash(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert "/" not in read_run(make_run()).local_names


def test_a_missing_base_stops_a_merge(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(base="/nowhere/base")
    assert "merging needs it" in refused(run, "extes/merged", capsys, "--merged")
    assert not (run / "merged").exists()


def test_the_commands_of_the_page_on_publishing_are_understood() -> None:
    page = (ROOT / "extes" / "hub" / "README.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("extes ")]
    assert len(commands) == 4
    for command in commands:
        parser().parse_args(shlex.split(command)[1:])


def test_downloads_name_the_same_bytes(hub: Hub, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    push(run, "extes/tuned")
    path = hf_hub_download("extes/tuned", "metrics.json", cache_dir=tmp_path / "c")
    assert Path(path).read_bytes() == (run / "metrics.json").read_bytes()

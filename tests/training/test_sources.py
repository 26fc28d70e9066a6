"""Every form of training data is read, mended or refused with a reason, and counted."""

import dataclasses
import gzip
import json

import pytest
from huggingface_hub import HfApi

from extes import cli, seeds, wild
from extes.dialogue import Dialogue, DialogueError, Turn, write_jsonl
from extes.errors import Problem
from extes.generation.pool import Pool
from tests.generation.server import Behaviour, running
from training import corpora
from training.sources import content_sha256, read, row_dialogue

TURNS = [
    {"speaker": "supporter", "text": "hello how are you?", "strategy": "Questions"},
    {"speaker": "seeker", "text": "im sad", "strategy": None},
    {"speaker": "seeker", "text": "my job is gone", "strategy": None},
    {"speaker": "supporter", "text": "oh no", "strategy": "Other"},
    {"speaker": "supporter", "text": "oh no", "strategy": "Other"},
    {"speaker": "supporter", "text": "what happened?", "strategy": "Question"},
    {"speaker": "seeker", "text": "  "},
]
JOINED = (
    Turn("supporter", "Hello how are you?", "Question"),
    Turn("seeker", "Im sad. My job is gone."),
    Turn("supporter", "Oh no. What happened?", "Others"),
)


def esconv(path, *items):
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items)
    return f"esconv:{path}"


def test_esconv_is_cleaned_joined_and_its_labels_are_spelt_alike(tmp_path):
    source = read(esconv(tmp_path / "esconv-part.jsonl.gz", {"id": "e1", "turns": TURNS}))
    assert source.label == "esconv-part" and source.dialogues[0].turns == JOINED
    assert source.report.repairs == {
        "strategy_mapped": 3,
        "consecutive_turns_joined": 2,
        "doubled_turn": 1,
        "empty_text": 1,
    }
    (plain,) = corpora.read(tmp_path, "esconv-part")
    assert [text for _, text in plain.turns] == [t.text for t in JOINED], "pre-training reads the same words"


def test_esconv_as_published_gives_the_same_dialogue(tmp_path):
    dialog = [
        {"speaker": t["speaker"], "content": t["text"], "annotation": {"strategy": t.get("strategy")}} for t in TURNS
    ]
    path = tmp_path / "ESConv.json"
    path.write_text(json.dumps([{"problem_type": "job crisis", "dialog": dialog}]))
    assert read(f"esconv:{path}").dialogues[0].turns == JOINED


def test_a_bad_item_is_refused_with_a_code_and_the_rest_is_kept(tmp_path):
    good = {"id": "e1", "turns": TURNS}
    bad = ["{", "[]", {"id": "x"}, {"id": "y", "turns": TURNS[:1]}, {"id": "z", "turns": [{"speaker": "me"}]}, good]
    source = read(esconv(tmp_path / "a.jsonl.gz", good, *bad))
    assert len(source.dialogues) == 1 and source.report.items == 7
    assert source.report.rejections == {
        "bad_json": 1,
        "not_an_object": 1,
        "no_turns": 1,
        "one_speaker_only": 1,
        "bad_turn": 1,
        "duplicate_id": 1,
    }


def test_a_turn_may_be_marked_as_context_in_every_form(tmp_path):
    marked = [TURNS[0] | {"train": False}, *TURNS[1:]]
    first = read(esconv(tmp_path / "a.jsonl.gz", {"id": "e1", "turns": marked})).dialogues[0]
    assert [t.train for t in first.turns] == [False, True, True]

    write_jsonl(
        [Dialogue("d", None, "", (Turn("seeker", "Hi."), Turn("supporter", "Bye.", train=False)))], tmp_path / "d"
    )
    assert [t.train for t in read(f"pool:{tmp_path / 'd'}").dialogues[0].turns] == [True, False]

    chat = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Bye.", "train": False}]}
    assert [t.train for t in row_dialogue(chat, "r", []).turns] == [True, False]


def test_extes_is_read_with_its_defects_counted(tmp_path):
    content = [{"User": "Hi."}, {"AI Strategy": "Offer Hope", "AI": "Hello."}]
    items = [{"scene": "Academic Stress", "description": "x", "content": content}, {"content": []}]
    path = tmp_path / "ExTES.json"
    path.write_text(json.dumps(items))
    source = read(f"extes:{path}")
    assert source.label == "ExTES" and source.dialogues[0].turns[1].strategy == "Offer Hope"
    assert source.report.rejections == {"no_content": 1}


def test_of_a_pool_the_accepted_dialogues_are_taken(tmp_path):
    """A pool as ``extes generate`` makes it, against a local server."""
    folder = tmp_path / "pool"
    with running(Behaviour()) as server:
        command = ["generate", "--base-url", server.url, "--model", "m", "--pool", str(folder), "--target", "6"]
        assert cli.main(command) == 0
    with Pool(folder, write=True) as pool:
        made = [id for id, entry in pool.state.entries.items() if entry.state == "candidate"]
        for id, verdict in zip(made[:3], ("accepted", "accepted", "rejected"), strict=True):
            pool.append({"event": "decision", "id": id, "state": verdict, "reviewer": "r1"})
    source = read(f"pool:{folder}")
    assert [d.id for d in source.dialogues] == made[:2] and source.label == "pool"
    assert all(d.provenance["exemplars"] for d in source.dialogues)
    assert source.report.rejections == {"state_seed": 108, "state_candidate": 3, "state_rejected": 1}


def publish(hub, name, rows):
    api = HfApi()
    api.create_repo(f"extes/{name}", repo_type="dataset")
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    commit = api.upload_file(
        path_or_fileobj=body, path_in_repo="train.jsonl", repo_id=f"extes/{name}", repo_type="dataset"
    )
    return commit.oid


def test_what_extes_push_published_is_read_back(hub, tmp_path):
    found = seeds.load()[0]
    marked = tuple(dataclasses.replace(t, train=t.strategy != "Others") for t in found[0].turns)
    found[0] = dataclasses.replace(found[0], turns=marked)
    write_jsonl(found, tmp_path / "seeds.jsonl")
    command = ["push", "dataset", str(tmp_path / "seeds.jsonl"), "extes/seeds", "--licence", "cc-by-4.0"]
    assert cli.main(command) == 0
    source = read("hub:extes/seeds")
    assert source.dialogues == tuple(found) and source.label == "extes/seeds"
    assert source.sha256 == content_sha256(found) and source.report.clean == 108


def test_a_hub_dataset_is_read_in_each_of_its_forms(hub, tmp_path):
    found = seeds.load()[0][:3]
    wild.write_extes_json(found, tmp_path / "extes.json")
    publish(hub, "made", json.loads((tmp_path / "extes.json").read_text()))
    assert [d.turns for d in read("hub:extes/made:train").dialogues] == [d.turns for d in found]

    chat = {"messages": [{"role": "system", "content": "Be kind."}, *found[0].messages()]}
    silent = {"messages": [{"role": "user", "content": "Hi."}]}
    first = publish(hub, "chat", [chat, silent])
    source = read("hub:extes/chat")
    assert [t.text for t in source.dialogues[0].turns] == [t.text for t in found[0].turns]
    assert source.report.repairs == {"system_message_left_out": 1}
    assert source.report.rejections == {"no_supporter_turn": 1}

    publish(hub, "other", [{"text": "no dialogue"}])
    assert read("hub:extes/other").report.rejections == {"unknown_form": 1}

    HfApi().upload_file(
        path_or_fileobj=json.dumps({"text": "gone"}).encode(),
        path_in_repo="train.jsonl",
        repo_id="extes/chat",
        repo_type="dataset",
    )
    assert not read("hub:extes/chat").dialogues and read(f"hub:extes/chat@{first}").dialogues == source.dialogues


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"turns": TURNS, "provenance": "reddit"}, "bad_provenance"),
        ({"content": ["Hello", "Hi"]}, "bad_turn"),
        ({"messages": [{"role": "assistant", "content": "Hello", "strategy": ["Question"]}]}, "bad_message"),
    ],
)
def test_a_row_of_almost_a_known_form_is_refused_with_a_code(row, code):
    with pytest.raises(DialogueError) as refused:
        row_dialogue(row, "x/1", [])
    assert refused.value.code == code


def test_a_hub_dataset_that_cannot_be_had_is_an_error(hub):
    publish(hub, "chat", [{"text": "no dialogue"}])
    for spec in ("hub:extes/chat:tset", "hub:extes/none", "hub:extes/chat@v9"):
        with pytest.raises(Problem, match=rf"{spec.partition(':t')[0]}.*cannot be loaded.*split"):
            read(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sead", "unknown; a source is one of: seeds, exchanges"),
        ("esconv:", "unknown"),
        ("exchanges:many", "unknown"),
        ("esconv:/no/such/file", "there is no /no/such/file"),
        ("extes:{tmp}", "is a folder; name the file"),
        ("esconv:{tmp}/broken.jsonl.gz", "cannot be read as ESConv"),
        ("esconv:{tmp}/broken.json", "is not whole JSON"),
        ("pool:{tmp}", "no pool here"),
    ],
)
def test_a_source_that_is_not_there_or_not_that_is_an_error(tmp_path, spec, message):
    (tmp_path / "broken.jsonl.gz").write_bytes(b"\x1f\x8b\x08 not gzip")
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(Problem, match=message):
        read(spec.format(tmp=tmp_path))


def test_the_digest_is_of_the_bytes(tmp_path):
    one, two = ({"id": "e1", "turns": TURNS[n:]} for n in (0, 1))
    digests = {read(esconv(tmp_path / f"{n}.jsonl.gz", item)).sha256 for n, item in enumerate((one, two))}
    assert len(digests) == 2 and read("seeds").sha256 == read("seeds").sha256

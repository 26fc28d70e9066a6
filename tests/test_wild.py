"""ExTES.json with every defect that was seen in it."""

import json
import random

import pytest

from extes import wild
from extes.dialogue import DialogueError

GOOD = [{"User": "I failed."}, {"AI Strategy": "Clarification", "AI": "Which exam was it?"}]


def item(content=None, **more):
    return {"scene": "Academic Stress", "description": "An exam.", "content": content or GOOD} | more


def read(tmp_path, items, raw=None):
    path = tmp_path / "ExTES.json"
    path.write_bytes(raw if raw is not None else json.dumps(items).encode())
    dialogues, report = wild.read_extes_json(path)
    assert report.items == report.clean + report.repaired + report.rejected
    assert len(dialogues) == report.clean + report.repaired
    return dialogues, report


@pytest.mark.parametrize(
    ("defective", "code"),
    [
        (item([{"User": "a", "AI Strategy": "Clarification", "AI": "b"}]), "user_and_ai_in_one_object"),
        (item([*GOOD, {"User": None}, {"AI": "Go on.", "AI Strategy": ""}]), "null_text"),
        (item([{"User": "a"}, {"AI Strategy": "", "AI": {"Response": "b"}}]), "response_in_dict"),
        (item([{"User": "a"}, {"AI Strategy": "", "AI": ["b", "c"]}]), "text_in_list"),
        (item([{"User": "a"}, {"AI Strategy": "Magic", "AI": "b"}]), "strategy_unknown"),
        (item([{"User": "a"}, {"AI Strategy": "clarifications", "AI": "b"}]), "strategy_mapped"),
        (item([{"AI Strategy": "", "AI": "Hello"}, *GOOD]), "ai_first"),
        (item([*GOOD, {"User": "Bye"}]), "user_last"),
        (item([{"User A": "a"}, {"AI Strategy": "", "AI": "b"}]), "odd_key"),
        (item([{"User": "a"}, {"AI_strategy": "Clarification", "AI": "b"}]), "odd_key"),
        (item([{"User": "a"}, {"AI Strategies": "Clarification", "AI": "b"}]), "odd_key"),
        (item(id=7), "extra_top_level_key"),
        (item(scene="Academic stress"), "scene_mapped"),
        (item(scene="Something else"), "scene_unknown"),
        ({"description": "x", "content": GOOD}, "scene_missing"),
        ({"scene": "Academic Stress", "content": GOOD}, "description_missing"),
        (item([{"User": "a"}, {"User": "b"}, *GOOD[1:]]), "consecutive_turns_joined"),
        (item(["words", *GOOD]), "not_a_turn"),
        (item([{"User": "a", "mood": 3}, *GOOD[1:]]), "extra_turn_key"),
    ],
)
def test_a_known_defect_is_repaired_under_its_code(tmp_path, defective, code):
    dialogues, report = read(tmp_path, [defective])
    assert len(dialogues) == 1
    assert code in report.repairs
    assert {t.speaker for t in dialogues[0].turns} == {"seeker", "supporter"}
    assert all(t.text for t in dialogues[0].turns)


@pytest.mark.parametrize(
    ("beyond_repair", "code"),
    [
        ("words", "not_an_object"),
        ({"scene": "x"}, "no_content"),
        (item([{"User": "a"}]), "no_supporter_turn"),
        (item([{"AI": "a", "AI Strategy": ""}]), "no_seeker_turn"),
    ],
)
def test_what_is_beyond_repair_is_rejected_under_its_code(tmp_path, beyond_repair, code):
    dialogues, report = read(tmp_path, [item(), beyond_repair])
    assert len(dialogues) == 1
    assert report.rejections == {code: 1}


def test_the_same_dialogue_twice_is_kept_once(tmp_path):
    _, report = read(tmp_path, [item(), item()])
    assert report.rejections == {"duplicate": 1}


def test_an_empty_strategy_is_how_greetings_look_and_no_defect(tmp_path):
    dialogues, report = read(tmp_path, [item([{"User": "Hi"}, {"AI Strategy": "", "AI": "Hello"}])])
    assert report.clean == 1
    assert dialogues[0].turns[1].strategy is None


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.99])
def test_a_file_cut_short_yields_what_is_whole(tmp_path, cut):
    items = [item([{"User": f"message {n}"}, *GOOD[1:]]) for n in range(50)]
    raw = json.dumps(items).encode()
    dialogues, report = read(tmp_path, None, raw[: int(len(raw) * cut)])
    assert len(dialogues) >= int(50 * cut) - 1
    assert report.rejections == {"file_truncated": 1}


def test_unknown_bytes_are_replaced_and_counted(tmp_path):
    raw = json.dumps([item()]).encode().replace(b"failed", b"fa\xff\xfeled")
    dialogues, report = read(tmp_path, None, raw)
    assert len(dialogues) == 1
    assert report.repairs["invalid_utf8"] == 1


def test_half_a_character_is_replaced_and_counted(tmp_path):
    raw = b'[{"scene": "Academic Stress", "description": "x", "content": [{"User": "oh \\ud83d"}, {"AI": "yes"}]}]'
    dialogues, report = read(tmp_path, None, raw)
    assert report.repairs["lone_surrogate"] == 1
    wild.write_extes_json(dialogues, tmp_path / "again.json")


def test_a_number_too_long_to_be_one_is_rejected(tmp_path):
    _, report = read(tmp_path, None, b"[" + b"9" * 5000 + b"]")
    assert report.rejections == {"bad_json": 1}


def test_a_key_that_only_mentions_a_speaker_is_no_turn(tmp_path):
    odd = [{"User": "a", "AI Emotion": "sad"}, {"AI Strategy": "", "AI": "b"}]
    dialogues, report = read(tmp_path, [item(odd)])
    assert [t.text for t in dialogues[0].turns] == ["a", "b"]
    assert report.repairs == {"extra_turn_key": 1}


@pytest.mark.parametrize(
    "raw", [b"", b"  \n", b",,,", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00\x01\x02" * 100, b"hello", b"\x89PNG\r\n"]
)
def test_what_is_no_extes_file_is_a_clear_error(tmp_path, raw):
    path = tmp_path / "ExTES.json"
    path.write_bytes(raw)
    with pytest.raises(DialogueError, match=r"ExTES.json"):
        wild.read_extes_json(path)


def test_noise_never_gives_anything_but_a_report_or_a_clear_error(tmp_path):
    rng = random.Random(0)
    whole = json.dumps([item([{"User": f"m{n}"}, *GOOD[1:]]) for n in range(20)]).encode()
    path = tmp_path / "noise.json"
    for _ in range(200):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        path.write_bytes(raw)
        try:
            dialogues, report = wild.read_extes_json(path)
            assert len(dialogues) == report.clean + report.repaired
        except DialogueError:
            pass


def test_fifty_megabytes_are_read(tmp_path):
    long = "x" * 4000
    items = [item([{"User": f"{n} {long}"}, *GOOD[1:]]) for n in range(12_500)]
    raw = json.dumps(items).encode()
    assert len(raw) > 50e6
    dialogues, _ = read(tmp_path, None, raw)
    assert len(dialogues) == 12_500


def test_nesting_that_can_be_read_but_not_written_again_is_rejected(tmp_path):
    """A few depths lie between the two limits of the json module; where, depends on the stack."""
    for depth in range(850, 1000):
        nested = "[" * depth + "]" * depth
        raw = f'[{json.dumps(item())[:-1]}, "x": {nested}}}]'
        _, report = read(tmp_path, None, raw.encode())
        assert report.items == 1

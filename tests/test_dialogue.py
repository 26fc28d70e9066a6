import json

import pytest

from extes import dialogue, transcript, wild
from extes.dialogue import Dialogue, DialogueError, Turn


def make(id: str = "d1") -> Dialogue:
    turns = (Turn("seeker", "I can't sleep."), Turn("supporter", "Since when?", "Clarification"))
    return Dialogue(id, "Anxiety and Panic", "Nights.", turns, {"source": "test"})


def test_canonical_lines_read_back_as_written(tmp_path):
    path = tmp_path / "d.jsonl"
    dialogue.write_jsonl([make("a"), make("b")], path)
    read, report = dialogue.read_jsonl(path)
    assert read == [make("a"), make("b")]
    assert (report.items, report.clean, report.rejected) == (2, 2, 0)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "bad_json"),
        ("[]", "not_an_object"),
        ('{"id": "x"}', "bad_description"),
        (json.dumps(dialogue.to_json(make()) | {"scenario": "Weather"}), "unknown_scenario"),
        (json.dumps(dialogue.to_json(make()) | {"turns": []}), "no_turns"),
        (json.dumps(dialogue.to_json(make()) | {"turns": [{"speaker": "x", "text": "y"}]}), "bad_speaker"),
        (json.dumps(dialogue.to_json(make()) | {"turns": [{"speaker": "seeker", "text": " "}]}), "empty_text"),
        (
            json.dumps(
                dialogue.to_json(make()) | {"turns": [{"speaker": "supporter", "text": "y", "strategy": "Magic"}]}
            ),
            "unknown_strategy",
        ),
        (json.dumps(dialogue.to_json(make("good"))), "duplicate_id"),
        ("[" * 100_000, "bad_json"),
        ("9" * 5000, "bad_json"),
        (json.dumps(dialogue.to_json(make()) | {"scenario": []}), "unknown_scenario"),
        (
            json.dumps(
                dialogue.to_json(make()) | {"turns": [{"speaker": "supporter", "text": "y", "strategy": ["Others"]}]}
            ),
            "unknown_strategy",
        ),
    ],
)
def test_a_bad_line_is_rejected_with_its_code_and_the_rest_is_kept(tmp_path, line, code):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(dialogue.to_json(make("good"))) + "\n" + line + "\n")
    read, report = dialogue.read_jsonl(path)
    assert [d.id for d in read] == ["good"]
    assert report.rejections == {code: 1}
    assert report.items == report.clean + report.repaired + report.rejected == 2


def test_a_missing_or_empty_file_is_a_clear_error(tmp_path):
    with pytest.raises(DialogueError, match="cannot be read"):
        dialogue.read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DialogueError, match="empty"):
        dialogue.read_jsonl(tmp_path / "empty.jsonl")


def test_the_transcript_form_reads_back_as_written():
    text = transcript.format(make())
    assert transcript.parse(text, "d1").turns == make().turns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenario: Weather\ndescription: x\n\nSeeker: hi", "not one of the 36"),
        ("scenario: Academic Stres\ndescription: x\n\nSeeker: hi", "did you mean 'Academic Stress'"),
        ("scenario: Academic Stress\ndescription: x\n\nSupporter: hi", "line 4: a supporter turn needs a strategy"),
        ("scenario: Academic Stress\ndescription: x\n\nSupporter [Clarificaton]: hi", "did you mean 'Clarification'"),
        ("scenario: Academic Stress\ndescription: x\n\nSeeker: hi\nand more", "line 5"),
        ("description: x\n\nSeeker: hi", 'no "scenario:" line'),
        ("scenario: Academic Stress\ndescription: x\n", "no turns"),
    ],
)
def test_a_malformed_transcript_names_the_line_and_the_remedy(text, message):
    with pytest.raises(DialogueError, match=message.replace("(", r"\(")):
        transcript.parse(text, "x")


def test_seeds_survive_the_journey_through_the_form_of_extes(tmp_path):
    from extes import seeds

    dialogues, _ = seeds.load()
    wild.write_extes_json(dialogues, tmp_path / "e.json")
    read, report = wild.read_extes_json(tmp_path / "e.json")
    assert [d.turns for d in read] == [d.turns for d in dialogues]
    assert [d.scenario for d in read] == [d.scenario for d in dialogues]
    assert set(report.repairs) <= {"ai_first", "user_last"} and not report.rejections

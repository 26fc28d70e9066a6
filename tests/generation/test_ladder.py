"""The output ladder: forms read, rungs chosen, and every kind of server climbed down to valid dialogues."""

import json

import pytest

from extes import taxonomy
from extes.generation import ladder
from extes.generation.ladder import Unparsable, first_rung, parse

DIALOGUE = {
    "description": "A nurse. She is tired.",
    "turns": [
        {"speaker": "seeker", "strategy": None, "text": "I can\u2019t sleep."},
        {"speaker": "supporter", "strategy": "Clarification", "text": "Since when?"},
    ],
}


def test_reads_json_bare_fenced_and_surrounded_by_prose():
    bare = json.dumps(DIALOGUE)
    for content, repairs in ((bare, ()), (f"```json\n{bare}\n```", ()), (f"Sure!\n{bare}\nBye", ("text_around_json",))):
        parsed = parse(content, "json_schema")
        assert [t.label for t in parsed.turns] == [None, "Clarification"]
        assert parsed.turns[0].text == "I can't sleep."
        assert parsed.repairs == repairs


@pytest.mark.parametrize(
    "content",
    [
        "",
        "Sure, here it is.",
        '{"turns": []}',
        '{"turns": [{"speaker": "seeker"}]}',
        '{"turns": [{"speaker"',
        "[" * 9999,
    ],
)
def test_json_that_is_no_dialogue_is_unparsable(content):
    with pytest.raises(Unparsable):
        parse(content, "json_object")


@pytest.mark.parametrize(
    "line",
    [
        "Supporter [Clarification]: Since when?",
        "**Supporter [Clarification]:** Since when?",
        "Supporter: [Clarification] Since when?",
        "Supporter (Clarification): Since when?",
        "AI [Clarification]: Since when?",
    ],
)
def test_reads_the_text_form_as_models_vary_it(line):
    parsed = parse(f"description: A nurse.\nSeeker: I can't sleep.\n{line}", "text")
    assert [(t.speaker, t.label, t.text) for t in parsed.turns] == [
        ("seeker", None, "I can't sleep."),
        ("supporter", "Clarification", "Since when?"),
    ]
    assert parsed.description == "A nurse." and parsed.repairs == ()


def test_text_wrapped_over_lines_is_joined_and_talk_around_is_named():
    parsed = parse("Here you go.\n\nSeeker: one\ntwo\nSupporter [Others]: three\n\nI hope this helps!", "text")
    assert [t.text for t in parsed.turns] == ["one two", "three"]
    assert parsed.repairs == ("description_missing", "text_around_dialogue")


def test_schema_is_strict_and_its_strategies_are_the_closed_set():
    asked = ladder.response_format("json_schema")["response_format"]["json_schema"]
    turn = asked["schema"]["properties"]["turns"]["items"]
    assert asked["strict"] and not turn["additionalProperties"]
    assert set(turn["required"]) == set(turn["properties"])
    assert set(turn["properties"]["strategy"]["anyOf"][0]["enum"]) == set(taxonomy.STRATEGY)


def test_first_rung_follows_what_the_endpoint_did():
    assert first_rung({}, {}, {}) == "json_schema"
    assert first_rung({"json_object": 4}, {"json_object": 4}, {"json_schema": 4}) == "json_object"
    assert first_rung({"json_schema": 4, "json_object": 4}, {}, {}) == "text"
    assert first_rung({"json_schema": 50}, {"json_schema": 48}, {}) == "json_schema"
    assert first_rung({}, {}, {"json_schema": 4}) == "json_schema", "refused with nothing answered below: not the form"


@pytest.mark.parametrize(
    ("form", "rung", "stepped_down"),
    [
        ("strict", "json_schema", {}),
        ("json_object", "json_object", {"format_refused": 4}),
        ("text", "text", {"format_refused": 8}),
        ("prose", "text", {"unparsable": 8}),
    ],
)
def test_every_kind_of_server_gives_valid_dialogues_and_the_rung_is_remembered(work, serve, form, rung, stepped_down):
    server = serve(form=form)
    assert work.generate(server.url).status == 0
    # Only the probing round of four steps down; every later request starts on the rung that worked.
    assert work.outcomes() == {"accepted": 24} | stepped_down
    kept = [e["dialogue"] for e in work.events(kind="slot") if e["dialogue"]]
    assert {d["provenance"]["rung"] for d in kept} == {rung}
    assert [p["rung"] for p in work.events(kind="plan")][1:] == [rung] * (len(work.events(kind="plan")) - 1)


def test_answers_cut_at_the_limit_are_rejected_and_the_limit_is_named(work, serve):
    server = serve(truncate_at=900)
    run = work.generate(server.url, "--give-up", "10")
    assert run.status == 1
    assert set(work.outcomes()) == {"truncated"}
    assert "--max-tokens" in run.err and "nothing of the last" in run.err


def test_one_answer_of_prose_steps_down_that_request_alone(work, serve):
    from tests.generation.server import write_dialogue

    calls = []

    def sometimes(prompt, rng):
        calls.append(1)
        return {"description": "", "turns": []} if len(calls) == 2 else write_dialogue(prompt, rng)

    server = serve(write=sometimes)
    assert work.generate(server.url).status == 0
    assert work.outcomes() == {"accepted": 24, "unparsable": 1}
    rungs = [e["dialogue"]["provenance"]["rung"] for e in work.events(kind="slot") if e["dialogue"]]
    assert rungs.count("json_object") == 1 and rungs.count("json_schema") == 23

"""The loop as a whole: counts that add up, the target mix, lineage, candidates and what a person's verdict does."""

import re
from collections import Counter

import pytest

from extes import seeds, taxonomy
from extes.dialogue import from_json
from extes.generation import quota
from extes.generation.pool import Pool
from tests.generation.server import as_text, write_dialogue


def troubled(prompt, rng):
    """A server that errs in many ways, as models do."""
    dialogue = write_dialogue(prompt, rng)
    turns = dialogue["turns"]
    match rng.randrange(8):
        case 0:
            turns[1]["text"] = "As an AI language model I am here for you."
        case 1:
            turns[2]["text"] = "Write to me at someone@mail.com when you can."
        case 2:
            turns.insert(3, dict(turns[2]))
        case 3:
            turns[1]["strategy"] = "Clarificaton"
        case 4:
            example = re.search(r'"text": "((?:\w+[ ,.\'-]+){14})', prompt)
            if example:
                turns[2]["text"] = example[1]
    return dialogue


def test_every_request_ends_kept_or_rejected_with_a_code_and_the_counts_add_up(work, serve):
    server = serve(write=troubled)
    assert work.generate(server.url, "--round", "16", target=40).status == 0
    outcomes = work.outcomes()
    assert outcomes["accepted"] == 40
    assert {"meta_talk", "personal_data", "role_order", "copied_from_exemplar"} <= set(outcomes)
    assert sum(outcomes.values()) == server.statuses[200] == server.requests
    for event in work.events(kind="slot"):
        for request in event["requests"]:
            assert (request["state"] == "rejected") == bool(request.get("code") and request.get("detail"))
    stats = work.extes("pool", "stats", str(work.pool())).out
    assert f"{server.requests} requests = 40 accepted + {server.requests - 40} rejected" in stats
    for code, n in outcomes.items():
        if code != "accepted":
            assert re.search(rf"rejected +{n}  {code}  \(first: ", stats)
    assert "strategy_mapped" in stats


def test_the_mix_of_scenarios_is_the_papers_to_the_dialogue(work, serve):
    server = serve(write=troubled)
    work.generate(server.url, target=100)
    kept = Counter(e["dialogue"]["scenario"] for e in work.events(kind="slot") if e["dialogue"])
    wanted = quota.scenarios(100, quota.weights("paper"))
    assert kept == Counter({name: n for name, n in wanted.items() if n})


def test_strategies_that_lack_are_asked_for_until_they_do_not(work, serve):
    """The server alone draws strategies alike; what is asked for pulls the mix towards the paper's."""
    server = serve()
    work.generate(server.url, "--round", "24", target=120)
    used = Counter(t["strategy"] for e in work.events(kind="slot") for t in e["dialogue"]["turns"] if t.get("strategy"))
    flat, wanted = 1 / len(taxonomy.STRATEGIES), quota.STRATEGY_SHARE
    distance = sum(abs(used[s] / used.total() - share) for s, share in wanted.items())
    assert distance < 0.75 * sum(abs(flat - share) for share in wanted.values())


def test_dialogues_hold_their_exemplars_and_lineage_leads_to_the_seeds(work, serve):
    server = serve()
    work.generate(server.url, "--round", "8", "--policy", "uniform", target=80)
    kept = [e["dialogue"] for e in work.events(kind="slot") if e["dialogue"]]
    ids = {s.id for s in seeds.load(work.seeds)[0]} | {d["id"] for d in kept}
    for dialogue in kept:
        from_json(dialogue)
        assert len(dialogue["provenance"]["exemplars"]) == 3 and set(dialogue["provenance"]["exemplars"]) <= ids
    deepest = max(kept, key=lambda d: d["provenance"]["depth"])
    assert deepest["provenance"]["depth"] >= 2
    lineage = work.extes("pool", "lineage", str(work.pool()), deepest["id"]).out.splitlines()
    assert lineage[0].startswith(deepest["id"])
    deepest_indent = max((len(line) - len(line.lstrip())) // 2 for line in lineage)
    assert deepest_indent >= deepest["provenance"]["depth"]
    assert all("(seed," in line or "(accepted," in line for line in lineage)
    assert [line for line in lineage if line.startswith(" ") and "seed/" in line]
    wrong = work.extes("pool", "lineage", str(work.pool()), deepest["id"][4:10])
    assert wrong.status == 2 and deepest["id"] in wrong.err


def test_what_is_sent_shows_the_exemplars_that_are_recorded(work, serve):
    server = serve(form="text")
    work.generate(server.url, target=12)
    by_id = {s.id: s for s in seeds.load(work.seeds)[0]}
    sent = [p["messages"][-1]["content"] for p in server.payloads]
    for event in work.events(kind="slot"):
        shown = [by_id[id] for id in event["dialogue"]["provenance"]["exemplars"] if id in by_id]
        assert any(all(d.turns[0].text in text for d in shown) for text in sent)


def test_without_auto_accept_dialogues_wait_as_candidates_and_are_no_exemplars(work, serve):
    server = serve()
    assert work.generate(server.url, "--round", "8", "--policy", "uniform", accept=False, target=60).status == 0
    assert work.outcomes() == {"candidate": 60}
    assert all(id.startswith("seed/") for p in work.events(kind="plan") for s in p["slots"] for id in s["exemplars"])


def test_accepted_candidates_become_exemplars_and_refused_ones_are_replaced(work, serve):
    server = serve()
    work.generate(server.url, "--policy", "uniform", accept=False, target=40)
    candidates = [e["dialogue"]["id"] for e in work.events(kind="slot")]
    with Pool(work.pool(), write=True) as pool:
        for n, id in enumerate(candidates):
            verdict = {"event": "decision", "id": id, "state": "accepted" if n % 4 else "rejected", "reviewer": "r1"}
            pool.append(verdict)
        assert pool.state.kept.total() == 30
    assert work.generate(server.url, "--policy", "uniform", accept=False, target=40).status == 0
    plans = [p for p in work.events(kind="plan")][-1]
    shown = {id for s in plans["slots"] for id in s["exemplars"]}
    assert shown & set(candidates) and not shown & set(candidates[::4])
    assert "10 candidate, 30 accepted, 10 rejected" in work.extes("pool", "stats", str(work.pool())).out


def test_a_server_that_repeats_itself_is_caught_and_the_neighbour_named(work, serve):
    same = write_dialogue("", __import__("random").Random(0))
    server = serve(form="prose", say=as_text(same))
    run = work.generate(server.url, "--give-up", "12")
    assert run.status == 1
    first = next(e["dialogue"]["id"] for e in work.events(kind="slot") if e["dialogue"])
    assert work.outcomes()["near_duplicate"] >= 12
    assert f"near_duplicate  (first: {first}, Jaccard 1.00)" in run.err


def test_narrowing_text_pulls_the_brake_and_the_pool_goes_on_from_the_seeds(work, serve):
    server = serve(write=collapsing)
    options = ("--round", "16", "--policy", "uniform")
    assert work.generate(server.url, *options, pool="brake", target=130).status == 0
    (brake,) = work.events("brake", "brake")
    assert "Distinct" in " ".join(brake["reasons"])
    events = work.events("brake")
    after = [p for p in events[events.index(brake) :] if p["event"] == "plan"]
    assert after and all(id.startswith("seed/") for p in after for s in p["slots"] for id in s["exemplars"])
    stats = work.extes("pool", "stats", str(work.pool("brake"))).out
    assert "past a bound: depth" in stats and "brake: seeds only, since" in stats
    run = work.generate(server.url, *options, "--on-drift", "stop", pool="stop", target=130)
    assert run.status == 1 and "drift: depth" in run.err and "--on-drift seeds-only" in run.err
    kept = len(work.events("stop", "slot"))
    assert work.generate(server.url, *options, "--on-drift", "stop", pool="stop", target=130).status == 1
    assert len(work.events("stop", "slot")) == kept, "run again it stops at once"
    assert work.generate(server.url, *options, "--on-drift", "report", pool="on", target=130).status == 0


def collapsing(prompt, rng):
    """Rich text from seeds alone; few words over and over once the server's own text is among the examples."""
    dialogue = write_dialogue(prompt, rng)
    if not re.search(r'"description": "[A-Z]?[a-z ]{20,}[.?]"', prompt):
        return dialogue
    few = [
        "I",
        "feel",
        "so",
        "very",
        "down",
        "and",
        "it",
        "hurts",
        "me",
        "all",
        "day",
        "long",
        "you",
        "know",
        "why",
        "too",
    ]
    for turn in dialogue["turns"]:
        turn["text"] = " ".join(rng.choices(few, k=16)).capitalize() + "."
    return dialogue


def test_pool_commands_say_where_there_is_no_pool(work):
    for verb in (("stats",), ("lineage",)):
        run = work.extes("pool", *verb, str(work.folder), *(["x"] if verb == ("lineage",) else []))
        assert run.status == 2 and "no pool here" in run.err


def test_accepted_dialogues_are_exported_as_canonical_json_lines(work, serve, tmp_path):
    from extes.dialogue import read_jsonl

    work.generate(serve().url)
    out = tmp_path / "out.jsonl"
    assert work.extes("pool", "export", str(work.pool()), "--out", str(out)).status == 0
    dialogues, report = read_jsonl(out)
    assert len(dialogues) == report.clean == 24


@pytest.mark.parametrize("name", ["model", "base_url"])
def test_another_endpoint_starts_at_the_top_of_the_ladder_again(work, serve, name):
    one, two = serve(form="text"), serve(form="strict")
    work.generate(one.url, target=12)
    if name == "base_url":
        work.generate(two.url, target=24)
    else:
        one.behaviour.form = "strict"
        work.extes(*[a if a != "m" else "other" for a in work.arguments(one.url, target=24)])
    assert work.events(kind="slot")[-1]["dialogue"]["provenance"]["rung"] == "json_schema"


def test_seeds_that_changed_are_taken_anew_and_seeds_taken_away_are_retired(work, serve, tmp_path):
    import shutil

    server = serve(form="text")
    own = tmp_path / "own"
    shutil.copytree(work.seeds, own)
    work.seeds = own
    work.generate(server.url, "--policy", "uniform", target=24)
    changed, gone = sorted(own.glob("*/1.txt"))[:2]
    changed.write_text(changed.read_text().replace("Seeker: ", "Seeker: Listen. ", 1), encoding="utf-8")
    gone.unlink()
    asked = len(server.payloads)
    assert work.generate(server.url, "--policy", "uniform", "--exemplars", "8", target=48).status == 0
    later = [p["messages"][-1]["content"] for p in server.payloads[asked:]]
    assert any("Seeker: Listen. " in text for text in later)
    retired = f"seed/{gone.parent.name}/1"
    assert work.events(kind="retire") == [{"event": "retire", "id": retired}]
    last = work.events()[work.events().index({"event": "retire", "id": retired}) :]
    assert not any(retired in s["exemplars"] for e in last if e["event"] == "plan" for s in e["slots"])
    assert (
        "35 seed, 0 candidate, 48 accepted, 0 rejected, 1 retired" in work.extes("pool", "stats", str(work.pool())).out
    )

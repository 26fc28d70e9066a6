"""What training sees: cleaned text, honest splits, pieces that lose nothing, counts that add up."""

import copy
import dataclasses
import gzip
import itertools
import json
import random
import re
import time

import pytest
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from extes import seeds
from extes.dialogue import Dialogue, Turn, write_jsonl
from extes.errors import Problem
from tests.training.families import byte_level
from training import corpora, cut, split
from training.counts import Counts
from training.data import DataConfig, Exclude, HeldOut, prepare
from training.template import IGNORED, Message, choose

WORDS = re.findall(
    r"\w+", "alone bread brother call cold day door exam fear friend home job letter money night rent work"
)


def talk(id, exchanges=4, words=12, exemplars=(), opening="", **marks):
    """A dialogue of random words: two of them are never near-duplicates."""
    rng, turns = random.Random(id), []
    for n in range(exchanges):
        said = " ".join(rng.choices(WORDS, k=words))
        turns.append(Turn("seeker", opening if opening and not n else f"{said}?"))
        turns.append(Turn("supporter", " ".join(rng.choices(WORDS, k=words)) + ".", "Clarification", **marks))
    provenance = {"source": "generated", "exemplars": list(exemplars)} if exemplars else {"source": "written"}
    return Dialogue(id, None, "", tuple(turns), provenance)


@pytest.fixture
def pool(tmp_path):
    def write(dialogues, name="pool"):
        write_jsonl(dialogues, tmp_path / f"{name}.jsonl")
        return f"pool:{tmp_path / name}.jsonl"

    return write


def made(*sources, **options):
    return prepare(DataConfig(**({"train": sources, "template": "llama3"} | options)), byte_level("llama3"))


def origins(examples):
    return {e.id.partition("#")[0] for e in examples}


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("i\u2019m ok .  and i think so", "I'm ok. And I think so."),
        ("what??!!  really", "What??!! Really."),
        ("noooo!!!!!!", "Noooo!!!"),
        ("  ", ""),
    ],
)
def test_text_of_different_corpora_is_made_alike(raw, cleaned):
    assert corpora.clean(raw) == cleaned


def test_turns_of_one_speaker_are_joined_and_doubles_dropped():
    turns = [("seeker", "hi"), ("supporter", "hello"), ("supporter", "hello"), ("supporter", "how are you?")]
    assert corpora.exchanged("x", turns).turns == (("user", "Hi."), ("assistant", "Hello. How are you?"))


def test_two_answers_to_one_question_stay_on_one_side_of_the_split():
    for n in range(200):
        one = corpora.Exchanged("a", (("user", f"Question {n}?"), ("assistant", "One.")))
        two = corpora.Exchanged("b", (("user", f"Question {n}?"), ("assistant", "Two.")))
        assert corpora.held_out(one) == corpora.held_out(two)


def test_a_situation_told_anew_stays_on_the_side_of_its_dialogue(tmp_path):
    with gzip.open(tmp_path / "empathetic-dialogues.jsonl.gz", "wt", encoding="utf-8") as out:
        for n in range(300):
            turns = [{"speaker": "seeker", "text": f"Message {n}"}, {"speaker": "supporter", "text": "Oh no"}]
            situation = f"what happened to me on day {n}" if n % 3 else "a note"
            out.write(json.dumps({"id": f"ed-{n}", "situation": situation, "turns": turns}) + "\n")
    away = {d.id for d in corpora.read(tmp_path, "empathetic-dialogues") if corpora.held_out(d)}
    told = list(corpora.read(tmp_path, corpora.SITUATIONS))
    assert len(told) == 200 and away
    assert told[0].turns == (("user", "What happened to me on day 1."), ("assistant", "Oh no."))
    for dialogue in told:
        assert corpora.held_out(dialogue) == (dialogue.id.removesuffix("-situation") in away)


# Split


def test_held_out_seeds_are_twenty_by_hash_and_none_of_the_training_seeds():
    found = {d.id for d in seeds.load()[0]}
    prepared = made("seeds", max_length=2048)
    away = split.seeds_away(found, 20)
    assert origins(prepared.held_out["seeds"]) == away and len(away) == 20
    assert origins(prepared.train) == found - away


def test_a_share_of_the_other_dialogues_is_held_out_by_their_opening(pool):
    source = pool([talk(f"d{n}", exchanges=2) for n in range(300)])
    prepared = made(source, held_out=HeldOut(per_mille=100))
    away = origins(prepared.held_out["pool"])
    assert 15 < len(away) < 50 and prepared == made(source, held_out=HeldOut(per_mille=100))
    more = made(source, pool([talk(f"e{n}", exchanges=2) for n in range(100)], "more"), held_out=HeldOut(per_mille=100))
    assert origins(more.held_out["pool"]) == away, "other data moved the split"


def test_near_duplicates_and_dialogues_of_one_opening_stay_on_one_side(pool):
    dialogues = []
    for n in range(120):
        one = talk(f"d{n}", exchanges=6)
        copied = dataclasses.replace(one, id=f"d{n}-copy", turns=(Turn("seeker", f"Other start {n}."), *one.turns[1:]))
        dialogues += [one, copied, talk(f"d{n}-same-start", opening=one.turns[0].text)]
    prepared = made(pool(dialogues), held_out=HeldOut(per_mille=200), max_length=1024)
    away, train = origins(prepared.held_out["pool"]), origins(prepared.train)
    assert away and train
    for n in range(120):
        family = {f"d{n}", f"d{n}-copy", f"d{n}-same-start"}
        assert family <= away or family <= train
    assert sum(s.leaks for s in prepared.counts.sources) == 0


def test_no_training_dialogue_descends_from_a_seed_that_a_held_out_one_descends_from(pool):
    ids = sorted(d.id for d in seeds.load()[0])
    rng, dialogues = random.Random(1), []
    for n in range(200):
        first = rng.choice(ids if n < 60 or n % 4 else [d.id for d in dialogues])
        dialogues.append(talk(f"gen/{n}", exemplars=[first, *([rng.choice(ids)] if n % 5 == 0 else [])]))
    prepared = made(pool(seeds.load()[0][:5], "some"), pool(dialogues), held_out=HeldOut(seeds=30), max_length=2048)
    away = split.seeds_away(ids, 30)

    exemplars = {d.id: d.provenance["exemplars"] for d in dialogues}

    def ancestors(id):
        return {id} if id not in exemplars else set().union(*map(ancestors, exemplars[id]))

    assert origins(prepared.train) & exemplars.keys() and origins(prepared.held_out["pool"])
    assert not set().union(*map(ancestors, origins(prepared.train))) & away
    assert set().union(*map(ancestors, origins(prepared.held_out["pool"]))) <= away
    counted = prepared.counts.sources[1]
    assert counted.set_aside > 0 and counted.train + counted.held_out + counted.set_aside == 200
    assert made(pool(dialogues), held_out=HeldOut(lineage=False)).counts.sources[0].set_aside == 0


def test_a_source_held_out_whole_leaks_nothing(pool):
    test = [talk(f"t{n}") for n in range(10)]
    train = [dataclasses.replace(test[0], id="again"), *(talk(f"d{n}") for n in range(20))]
    options = HeldOut(per_mille=0, sources=(pool(test, "test"),))
    prepared = made(pool(train), held_out=options)
    assert len(origins(prepared.held_out["test"])) == 10
    assert "again" not in origins(prepared.train) and prepared.counts.sources[0].set_aside == 1


def test_a_leak_is_counted():
    sketches = split.sketched([talk("a"), talk("b"), talk("a"), talk("c")])
    assert split.leaking(sketches[:2], sketches[2:]) == [True, False]


# Cutting


def by_words(messages):
    return sum(len(m.text.split()) for m in messages)


def spoken(dialogue):
    return [Message("user" if t.speaker == "seeker" else "assistant", t.text, t.strategy, True) for t in dialogue.turns]


@pytest.mark.parametrize("longest", [120, 60, 10_000])
def test_windows_cover_every_turn_once_in_order(longest):
    for dialogue in seeds.load()[0][:30]:
        messages = spoken(dialogue)
        while messages[-1].role == "user":
            messages.pop()
        done = cut.windows(messages, by_words, longest)
        assert all(by_words(w) <= longest for w in done.pieces) and not done.truncated
        covered = [m for w in done.pieces for m in w]
        assert done.dropped or covered == messages
        said = sum(t.speaker == "supporter" for t in dialogue.turns)
        assert sum(m.role == "assistant" for m in covered) + done.dropped == said
        for piece in done.pieces:
            assert all(a.role != b.role for a, b in itertools.pairwise(piece))


@pytest.mark.parametrize("way", [cut.windows, cut.front])
def test_the_guess_finds_what_growing_one_by_one_finds(way):
    """The cut is made by estimate, for speed; it must be the cut of the plain method."""
    rng = random.Random(3)
    for n in range(200):
        turns = []
        for _ in range(rng.randrange(1, 12)):
            turns += [
                Message("user", "x " * rng.randrange(1, 40)),
                Message("assistant", "word " * rng.randrange(1, 40)),
            ]
        longest = rng.randrange(20, 120)
        found = way(turns, by_words, longest).pieces
        if way is cut.front:
            plain = [[]]
            for exchange in reversed(cut.exchanges(turns)):
                if by_words(exchange + plain[0]) > longest:
                    break
                plain[0] = exchange + plain[0]
        else:
            plain = [[]]
            for exchange in cut.exchanges(turns):
                if by_words(plain[-1] + exchange) <= longest:
                    plain[-1] = plain[-1] + exchange
                else:
                    plain.append(exchange if by_words(exchange) <= longest else [])
        assert found == [p for p in plain if p], n


def test_a_long_dialogue_is_cut_from_the_front_at_an_exchange(pool):
    source = pool([talk(f"d{n}", exchanges=12) for n in range(5)])
    prepared = made(source, cut="front", max_length=300, max_lost_share=1, held_out=HeldOut(per_mille=0))
    tokenizer, counts = byte_level("llama3"), prepared.counts.train
    assert len(prepared.train) == 5 and 0 < counts.truncated < 60 and counts.turns == 60
    for n, example in enumerate(prepared.train):
        assert example.messages[0]["role"] == "user" and len(example.input_ids) <= 300
        assert example.messages[-1]["content"] == talk(f"d{n}", exchanges=12).turns[-1].text
        assert tokenizer.decode(example.input_ids).startswith("<|begin_of_text|><|start_header_id|>user")


def test_a_greeting_may_begin_an_example_and_the_last_seeker_turn_is_left_off(pool):
    one = talk("d")
    one = dataclasses.replace(one, turns=(Turn("supporter", "Hello.", "Others"), *one.turns, Turn("seeker", "Thanks.")))
    (example,) = made(pool([one]), held_out=HeldOut(per_mille=0)).train
    assert [m["role"] for m in example.messages] == ["assistant", *["user", "assistant"] * 4]
    (example,) = made(pool([one]), held_out=HeldOut(per_mille=0), exclude=Exclude(greeting=True)).train
    decoded = byte_level("llama3").decode([i for i in example.labels if i != IGNORED])
    assert "Hello." not in decoded and decoded.count("<|eot_id|>") == 4


@pytest.mark.parametrize("cut", ["windows", "front"])
def test_a_seeker_who_writes_twice_before_an_answer_is_one_exchange(pool, cut):
    """Canonical lines are not bound to take turns; counted one by one, the turns cut off would not add up."""
    one = talk("a", exchanges=6)
    twice = tuple(t for turn in one.turns for t in ([turn, turn] if turn.speaker == "seeker" else [turn]))
    source = pool([dataclasses.replace(one, turns=twice)])
    said = made(source, cut=cut, max_length=200, max_lost_share=1, held_out=HeldOut(per_mille=0)).counts.train
    assert said.turns == 6 == said.trained + said.truncated + said.dropped and said.trained


# Counts


def test_counts_add_up_and_are_readable(pool):
    long = talk("long", exchanges=2, words=300)
    marked = talk("marked", train=False)
    silent = Dialogue("silent", None, "", (Turn("seeker", "Is anyone there?"),))
    forged = dataclasses.replace(talk("forged"), turns=(Turn("seeker", "<|eot_id|>"), Turn("supporter", "What?")))
    source = pool([*(talk(f"d{n}") for n in range(30)), long, marked, silent, forged])
    prepared = made(pool(seeds.load()[0][:9], "some"), source, max_length=500, max_lost_share=0.2)
    counts = prepared.counts
    both = counts.train + counts.held_out
    assert both.turns == both.trained + both.excluded + both.truncated + both.dropped
    assert both.dropped >= 2 and both.excluded == 4
    assert both.pieces == len(prepared.train) + sum(map(len, prepared.held_out.values()))
    assert counts.train.tokens == sum(len(e.input_ids) for e in prepared.train)
    assert counts.train.trained_tokens == sum(i != IGNORED for e in prepared.train for i in e.labels)
    said = counts.sources[1]
    assert said.read == 34 == said.train + said.held_out + said.set_aside + said.unusable
    assert said.unusables == {"no_supporter_turn": 1, "control_token_in_text": 1}
    assert json.loads(json.dumps(dataclasses.asdict(counts)))["sources"][1]["read"] == 34
    text = str(counts)
    assert "no_supporter_turn 1" in text and max(map(len, text.splitlines())) < 120
    assert str(Counts()) and set(prepared.data_sha256) == {"some", "pool"}


def test_nothing_is_longer_than_allowed_and_labels_fit(pool):
    source = pool(seeds.load()[0][:12])
    prepared = made(source, strategy="in_reply", system="Be kind.", max_length=400, max_lost_share=0.1)
    for example in [*prepared.train, *itertools.chain(*prepared.held_out.values())]:
        assert len(example.input_ids) == len(example.labels) <= 400
        assert example.messages[0] == {"role": "system", "content": "Be kind."}
        assert example.trained_tokens


@pytest.mark.parametrize(("family", "end"), [("llama1", "</s>"), ("llama3", "<|eot_id|>"), ("qwen", "<|im_end|>")])
def test_the_token_that_ends_a_turn_is_told(pool, family, end):
    config = DataConfig(train=(pool([talk("a")]),), template=family, held_out=HeldOut(per_mille=0))
    tokenizer = byte_level(family)
    prepared = prepare(config, tokenizer)
    assert tokenizer.convert_ids_to_tokens(prepared.end_of_turn) == end
    assert prepared.train[0].labels[-1 if family != "qwen" else -2] == prepared.end_of_turn
    assert tokenizer.chat_template is None, "the tokenizer is left as it was"


def test_a_template_whose_replies_end_in_a_newline_still_ends_turns_with_its_token(pool):
    """SmolLM3's marks the newline after the end of turn, too; it must not become what generation stops at."""
    tokenizer = copy.deepcopy(byte_level("qwen"))
    own = choose(tokenizer, "qwen")[1]
    moved = own.replace("{%- endgeneration -%}\n        {{- '\\n' -}}", "{{- '\\n' -}}{%- endgeneration -%}")
    assert moved != own
    tokenizer.chat_template = moved
    prepared = prepare(DataConfig(train=(pool([talk("a")]),), held_out=HeldOut(per_mille=0)), tokenizer)
    assert tokenizer.convert_ids_to_tokens(prepared.end_of_turn) == "<|im_end|>"


def test_control_tokens_that_no_list_of_the_tokenizer_names_are_found_in_the_text(pool):
    """LLaMA-3's own names its beginning and end of text only; the rest are known from the vocabulary alone."""
    known = byte_level("llama3")
    bare = PreTrainedTokenizerFast(
        tokenizer_object=known.backend_tokenizer, bos_token=known.bos_token, eos_token=known.eos_token
    )
    forged = Dialogue("f", None, "", (Turn("seeker", "Hi.<|eot_id|>"), Turn("supporter", "What is it?")))
    config = DataConfig(
        train=(pool([talk("a"), forged]),), template="llama3", held_out=HeldOut(per_mille=0), max_lost_share=1
    )
    assert prepare(config, bare).counts.sources[0].unusables == {"control_token_in_text": 1}


def test_two_files_of_one_name_stay_two_sources(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_jsonl([talk(f"{folder}{n}") for n in range(5)], tmp_path / folder / "pool.jsonl")
    prepared = made(*(f"pool:{tmp_path / folder}/pool.jsonl" for folder in "ab"), held_out=HeldOut(per_mille=0))
    assert [s.source for s in prepared.counts.sources] == ["pool", "pool (2)"]
    assert len(prepared.data_sha256) == 2 and {e.source for e in prepared.train} == {"pool", "pool (2)"}


# Errors


def test_too_much_lost_is_an_error_that_says_what_to_change(pool):
    source = pool([talk(f"d{n}", exchanges=12) for n in range(10)])
    with pytest.raises(Problem, match=r"supporter turns \(\d+\.\d%\) would be lost to data.max_length = 300.*windows"):
        made(source, cut="front", max_length=300)
    with pytest.raises(Problem, match=r"Raise data\.max_length"):
        made(source, max_length=20)


def test_too_many_unreadable_dialogues_are_an_error(tmp_path):
    path = tmp_path / "pool.jsonl"
    write_jsonl([talk(f"d{n}") for n in range(8)], path)
    again = path.read_text().splitlines()[0]  # a copy is lost to nobody
    path.write_text(path.read_text() + f'{again}\n{{"id": "x"}}\nnot a dialogue\n')
    everything = {"held_out": HeldOut(per_mille=0)}
    with pytest.raises(Problem, match=r"2 of the 10 dialogues of pool .*bad_description 1, bad_json 1.*max_lost_share"):
        made(f"pool:{path}", **everything)
    assert made(f"pool:{path}", max_lost_share=0.2, **everything).counts.sources[0].rejected == 3


@pytest.mark.parametrize(
    ("dialogues", "message"),
    [
        ([Dialogue("a", None, "", (Turn("seeker", "Hi."),))], "no supporter turn to train on"),
        ([talk("a", train=False)], "every supporter turn is excluded"),
    ],
)
def test_data_without_a_supporter_turn_are_an_error(pool, dialogues, message):
    with pytest.raises(Problem, match=message):
        made(pool(dialogues), held_out=HeldOut(per_mille=0))


def test_a_strategy_that_nobody_uses_cannot_be_excluded(pool):
    with pytest.raises(Problem, match="'Clarifying'; the labels in these data are Clarification"):
        made(pool([talk("a")]), exclude=Exclude(strategies=("Clarifying",)), held_out=HeldOut(per_mille=0))


def test_excluding_by_strategy_leaves_the_others(pool):
    one = talk("a")
    other = tuple(dataclasses.replace(t, strategy="Others") if n == 1 else t for n, t in enumerate(one.turns))
    prepared = made(
        pool([dataclasses.replace(one, turns=other)]),
        exclude=Exclude(strategies=("Others",)),
        held_out=HeldOut(per_mille=0),
    )
    assert (prepared.counts.train.trained, prepared.counts.train.excluded) == (3, 1)


def test_an_unknown_key_is_refused():
    with pytest.raises(ValidationError):
        DataConfig(max_len=3)


def test_eleven_thousand_dialogues_are_split_in_well_under_a_minute():
    """Sketches, clusters, leaks: ten times what is made here must take less than a minute."""
    candidates = [split.Candidate("x", talk(f"d{n}", exchanges=9, words=18)) for n in range(1100)]
    began = time.process_time()
    sketches = split.sketched(c.dialogue for c in candidates)
    sides = split.split(candidates, frozenset(), 20, sketches, True)
    split.leaking(
        [s for s, side in zip(sketches, sides, strict=True) if side == "train"],
        [s for s, side in zip(sketches, sides, strict=True) if side == "held_out"],
    )
    assert time.process_time() - began < 6

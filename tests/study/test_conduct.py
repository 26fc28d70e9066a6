"""The rules that protect raters and results, at the level where they are kept."""

import asyncio
import json

import pytest

from extes.arms.arm import ArmError, Piece
from extes.cli import main
from extes.study.comparison import fold_all
from extes.study.conduct import Conduct
from extes.study.config import load
from extes.study.forms import Distress, Refused
from extes.study.ratings import row, tally
from extes.study.roster import build
from extes.study.store import Store
from tests.conftest import CONSENT, RATING, STUDY, write_study


class Study:
    """A conduct with its own store; ``replies`` and other settings can be changed in the study's text."""

    def __init__(self, folder, *changes, ready=True):
        text = STUDY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.store = Store(folder / "data")
        self.arms = build(load(write_study(folder / "study", text)))
        if ready:
            for arm in self.arms.values():
                arm.load()
        self.conduct = Conduct(load(folder / "study" / "study.toml"), self.store, self.arms)

    async def say(self, token, message="I failed my exam."):
        return [frame async for frame in self.conduct.say(token, message)]

    async def through(self, **consent):
        token = (await self.conduct.start(CONSENT | consent))["comparison"]
        for n in range(3):
            await self.say(token, f"message {n}")
        return token

    @property
    def kinds(self):
        return [e.kind for e in self.store.events()][2:]  # the chain's beginning, the study


WARM = 'replies = ["That was a long day to carry alone. What was the worst hour of it?"]'


def test_the_whole_way_from_consent_to_receipt(tmp_path):
    async def go():
        study = Study(tmp_path)
        token = await study.through()
        kept = await study.conduct.rate(token, RATING)
        assert study.kinds == ["opened", "exchanged", "exchanged", "exchanged", "rated"]
        assert set(kept["reveal"].values()) == {"The warm provider", "The cold provider"}
        assert len(kept["receipt"]) == 19

    asyncio.run(go())


@pytest.mark.parametrize(
    ("consent", "reason"),
    [
        ({"agreed": False}, "consent"),
        ({"agreed": "yes"}, "consent"),
        ({"of_age": None}, "18"),
        ({"scenario": "x" * 301}, "300 characters"),
        ({"scenario": 7}, "scenario"),
        ({"rater": "me"}, "rater"),
        ({"publish_transcript": "no"}, "publish_transcript"),
    ],
)
def test_without_proper_consent_nothing_is_stored(tmp_path, consent, reason):
    async def go():
        study = Study(tmp_path)
        with pytest.raises(Refused, match=reason):
            await study.conduct.start(CONSENT | consent)
        assert study.kinds == []

    asyncio.run(go())


@pytest.mark.parametrize(
    ("message", "reason"), [("", "empty"), ("  ", "empty"), ("x" * 100_000, "100,000 characters"), (None, "empty")]
)
def test_a_message_that_does_not_fit_is_refused_and_not_stored(tmp_path, message, reason):
    async def go():
        study = Study(tmp_path)
        token = (await study.conduct.start(CONSENT))["comparison"]
        with pytest.raises(Refused, match=reason):
            await study.say(token, message)
        assert study.kinds == ["opened"]

    asyncio.run(go())


@pytest.mark.parametrize(
    ("rating", "reason"),
    [
        ({}, "A rating is"),
        ({"answers": {"fluency": "a"}}, "still open: Overall"),
        ({"answers": {"fluency": "a", "overall": "c"}}, "Overall: the answer is one of"),
        ({"answers": {"fluency": "both_bad", "overall": "a"}}, "Fluency"),
        ({"answers": {"fluency": "a", "overall": "a", "charm": "a"}}, "no criterion called 'charm'"),
        ({"answers": {"fluency": "a", "overall": "a"}, "comment": "x" * 2001}, "comment"),
        ({"answers": {"fluency": ["a"], "overall": "a"}}, "Fluency"),
    ],
)
def test_a_rating_that_is_not_whole_is_refused_and_not_stored(tmp_path, rating, reason):
    async def go():
        study = Study(tmp_path)
        token = await study.through()
        with pytest.raises(Refused, match=reason):
            await study.conduct.rate(token, rating)
        assert "rated" not in study.kinds

    asyncio.run(go())


def test_rating_before_the_minimum_is_refused(tmp_path):
    async def go():
        study = Study(tmp_path)
        token = (await study.conduct.start(CONSENT))["comparison"]
        await study.say(token)
        with pytest.raises(Refused, match="at least 2 more messages"):
            await study.conduct.rate(token, RATING)
        assert study.kinds == ["opened", "exchanged"]

    asyncio.run(go())


@pytest.mark.parametrize("token", ["nonsense", "", None, 7, "x" * 1000])
def test_an_unknown_token_opens_nothing(tmp_path, token):
    async def go():
        study = Study(tmp_path)
        with pytest.raises(Refused, match="not known"):
            await study.say(token)
        with pytest.raises(Refused, match="not known"):
            await study.conduct.rate(token, RATING)

    asyncio.run(go())


def test_fifty_ratings_at_once_are_one_rating_and_one_receipt(tmp_path):
    async def go():
        study = Study(tmp_path)
        token = await study.through()
        kept = await asyncio.gather(*(study.conduct.rate(token, RATING) for _ in range(50)))
        assert len({k["receipt"] for k in kept}) == 1
        assert study.kinds.count("rated") == 1

    asyncio.run(go())


@pytest.mark.parametrize(
    ("script", "reason"), [("!error", "arm_failed"), ("!empty", "arm_failed"), ("!hang", "deadline")]
)
def test_one_side_that_fails_makes_the_comparison_void_and_says_nothing_of_why(tmp_path, script, reason):
    async def go():
        study = Study(tmp_path, (WARM, f'replies = ["{script}"]'), ("deadline_seconds = 5", "deadline_seconds = 0.3"))
        token = (await study.conduct.start(CONSENT))["comparison"]
        frames = await study.say(token)
        assert frames[-1]["stopped"]["reason"] == reason
        assert all(frame["a"] == frame["b"] == "" for frame in frames)
        assert not any(word in json.dumps(frames) for word in ("secret", "500", "warm", "script"))
        assert study.kinds == ["opened", "voided"]
        with pytest.raises(Refused, match="without a rating"):
            await study.conduct.rate(token, RATING)
        with pytest.raises(Refused, match="closed"):
            await study.say(token)

    asyncio.run(go())


def test_a_stalled_arm_does_not_hold_up_another_rater(tmp_path):
    async def go():
        study = Study(tmp_path, (WARM, 'replies = ["!hang"]'))
        first = (await study.conduct.start(CONSENT))["comparison"]
        stalled = asyncio.create_task(study.say(first))
        await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
        await study.conduct.start(CONSENT)
        assert asyncio.get_running_loop().time() - began < 1
        stalled.cancel()

    asyncio.run(go())


def test_a_crisis_ends_the_comparison_keeps_no_word_and_asks_no_arm(tmp_path):
    async def go():
        study = Study(tmp_path, (WARM, 'replies = ["!error"]'))
        token = (await study.conduct.start(CONSENT))["comparison"]
        frames = await study.say(token, "I am going to kill myself tonight")
        assert [f["stopped"]["reason"] for f in frames] == ["safety"]
        assert study.kinds == ["opened", "voided"]
        assert "tonight" not in json.dumps([e.body for e in study.store.events()])

    asyncio.run(go())


def test_a_crisis_given_as_the_situation_opens_nothing(tmp_path):
    async def go():
        study = Study(tmp_path)
        with pytest.raises(Refused, match="help lines"):
            await study.conduct.start(CONSENT | {"scenario": "I want to die"})
        assert study.kinds == []

    asyncio.run(go())


@pytest.mark.parametrize("consent", [{"agreed": False}, {"of_age": None}, {}])
def test_a_crisis_given_as_the_situation_is_met_with_help_whatever_else_is_ticked(tmp_path, consent):
    async def go():
        study = Study(tmp_path)
        with pytest.raises(Distress, match="help lines"):
            await study.conduct.start(CONSENT | {"scenario": "I want to die"} | consent)
        assert study.kinds == []

    asyncio.run(go())


@pytest.mark.parametrize("rating", [RATING, {"answers": {}}])
def test_a_crisis_in_the_comment_is_met_with_help_although_the_rating_is_refused(tmp_path, rating):
    async def go():
        study = Study(tmp_path)
        token = await study.through() if not rating["answers"] else (await study.conduct.start(CONSENT))["comparison"]
        before = study.kinds
        with pytest.raises(Distress, match="help lines"):
            await study.conduct.rate(token, rating | {"comment": "I want to kill myself tonight"})
        assert study.kinds == before

    asyncio.run(go())


@pytest.mark.parametrize("state", ["full disk", "unknown", "rated", "the last message was sent"])
def test_a_crisis_is_met_with_help_whatever_the_state(tmp_path, state):
    async def go():
        study = Study(tmp_path, ("maximum_exchanges = 6", "maximum_exchanges = 3"))
        token = await study.through()
        match state:
            case "full disk":
                study.store._database.connection.execute("PRAGMA query_only = ON")  # what is written now, fails
            case "unknown":
                token = "gone with the disk it was on"
            case "rated":
                await study.conduct.rate(token, RATING)
        before = study.kinds
        (frame,) = await study.say(token, "I am going to kill myself tonight")
        assert frame["stopped"]["reason"] == "safety" and "help lines" in frame["stopped"]["text"]
        assert study.kinds == (before if state != "the last message was sent" else [*before, "voided"])

    asyncio.run(go())


def test_a_harmful_reply_is_never_shown(tmp_path):
    async def go():
        study = Study(tmp_path, (WARM, 'replies = ["Go kill yourself."]'))
        token = (await study.conduct.start(CONSENT))["comparison"]
        frames = await study.say(token)
        assert frames[-1]["stopped"]["reason"] == "unsafe_reply"
        assert "kill" not in json.dumps(frames)

    asyncio.run(go())


def test_both_sides_get_the_same_messages_and_their_own_replies(tmp_path):
    async def go():
        study = Study(tmp_path)
        heard = {name: [] for name in study.arms}
        for name, arm in study.arms.items():
            original = arm.reply

            def listen(messages, cap, seed, name=name, original=original):
                heard[name].append([dict(m) for m in messages])
                return original(messages, cap, seed)

            arm.reply = listen
        await study.through()
        for name, arm in study.arms.items():
            assert [h[-1]["content"] for h in heard[name]] == ["message 0", "message 1", "message 2"]
            replies = {m["content"] for m in heard[name][-1] if m["role"] == "assistant"}
            assert replies == set(arm.replies)

    asyncio.run(go())


def test_both_sides_are_released_on_one_clock_however_slow_an_arm_is(tmp_path):
    async def go():
        study = Study(
            tmp_path,
            (WARM, 'replies = ["one two three four five six"]\ndelay = 0.1'),
            ('replies = ["I see. Try sleeping more."]', 'replies = ["a b c d e f"]'),
            ("words_per_second = 0", "words_per_second = 200"),
        )
        token = (await study.conduct.start(CONSENT))["comparison"]
        frames = await study.say(token)
        counts = [(len(f["a"].split()), len(f["b"].split())) for f in frames]
        assert len(counts) > 5
        assert all(a == b for a, b in counts)
        assert [f["finished"] for f in frames].count(True) == 1

    asyncio.run(go())


def test_two_messages_at_once_are_answered_once(tmp_path):
    async def go():
        study = Study(tmp_path, (WARM, 'replies = ["slow words here"]\ndelay = 0.05'))
        token = (await study.conduct.start(CONSENT))["comparison"]
        outcomes = await asyncio.gather(study.say(token), study.say(token), return_exceptions=True)
        assert sum(isinstance(o, Refused) for o in outcomes) == 1
        assert study.kinds == ["opened", "exchanged"]

    asyncio.run(go())


def test_a_page_that_was_reloaded_learns_which_message_is_being_answered(tmp_path):
    async def go():
        study = Study(tmp_path, (WARM, "delay = 0.05\n" + WARM))
        token = (await study.conduct.start(CONSENT))["comparison"]
        answering = asyncio.create_task(study.say(token, "I failed my exam."))
        while not (view := await study.conduct.view(token))["under_way"]:
            await asyncio.sleep(0.01)
        assert view["under_way"] == "I failed my exam." and view["exchanges"] == []
        await answering
        view = await study.conduct.view(token)
        assert view["under_way"] == "" and [e["message"] for e in view["exchanges"]] == ["I failed my exam."]

    asyncio.run(go())


def test_while_models_load_nothing_is_lost_or_stored(tmp_path):
    async def go():
        study = Study(tmp_path, ("deadline_seconds = 5", "deadline_seconds = 0.5"), ready=False)
        token = (await study.conduct.start(CONSENT))["comparison"]
        with pytest.raises(Refused, match="still loading"):
            await study.say(token)
        assert study.kinds == ["opened"]
        waiting = asyncio.create_task(study.say(token))
        await asyncio.sleep(0.1)
        for arm in study.arms.values():
            arm.load()
        assert (await waiting)[-1]["finished"]

    asyncio.run(go())


def test_a_restart_goes_on_with_the_open_comparison_and_the_stream_of_assignments(tmp_path):
    async def go():
        before = Study(tmp_path)
        token = (await before.conduct.start(CONSENT))["comparison"]
        await before.say(token)
        before.store.close()
        after = Study(tmp_path)
        assert (await after.conduct.view(token))["state"] == "open"
        for _ in range(2):
            await after.say(token)
        await after.conduct.rate(token, RATING)
        await after.conduct.start(CONSENT)
        opened = [e.body["assignment"]["position"] for e in after.store.events(kind="opened")]
        assert opened == [0, 1]

    asyncio.run(go())


def test_the_last_message_is_the_last(tmp_path):
    async def go():
        study = Study(tmp_path, ("maximum_exchanges = 6", "maximum_exchanges = 3"))
        token = await study.through()
        with pytest.raises(Refused, match="last message"):
            await study.say(token)

    asyncio.run(go())


def test_a_rater_who_leaves_ends_the_comparison_and_it_counts_for_nothing(tmp_path):
    async def go():
        study = Study(tmp_path)
        token = (await study.conduct.start(CONSENT))["comparison"]
        await study.say(token)
        left = [await study.conduct.leave(token) for _ in range(2)]
        assert left[0] == left[1] and left[0]["stopped"]["reason"] == "left"
        assert study.kinds == ["opened", "exchanged", "voided"]
        (comparison,) = fold_all(study.store.events())
        assert (comparison.state, comparison.void_reason) == ("voided", "left")
        with pytest.raises(Refused, match="closed"):
            await study.say(token)
        with pytest.raises(Refused, match="without a rating"):
            await study.conduct.rate(token, RATING)
        with pytest.raises(Refused, match="not known"):
            await study.conduct.leave("nonsense")

    asyncio.run(go())


def test_leaving_changes_nothing_of_what_has_ended(tmp_path):
    async def go():
        study = Study(tmp_path)
        rated = await study.through()
        kept = await study.conduct.rate(rated, RATING)
        with pytest.raises(Refused, match="is rated"):
            await study.conduct.leave(rated)
        assert (await study.conduct.rate(rated, RATING)) == kept
        void = (await study.conduct.start(CONSENT))["comparison"]
        await study.say(void, "I am going to kill myself tonight")
        assert (await study.conduct.leave(void))["stopped"]["reason"] == "safety"
        assert study.kinds[-3:] == ["rated", "opened", "voided"]

    asyncio.run(go())


def test_leaving_and_rating_at_once_end_the_comparison_once(tmp_path):
    async def go():
        study = Study(tmp_path)
        token = await study.through()
        asked = [study.conduct.rate(token, RATING) if n % 2 else study.conduct.leave(token) for n in range(20)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        refused = [o for o in outcomes if isinstance(o, Refused)]
        assert len(refused) == 10 and len({repr(o) for o in outcomes if o not in refused}) == 1
        assert len([k for k in study.kinds if k in ("rated", "voided")]) == 1

    asyncio.run(go())


def test_an_answer_under_way_does_not_bring_back_what_was_left(tmp_path):
    async def go():
        study = Study(tmp_path, (WARM, 'replies = ["slow words here"]\ndelay = 0.1'))
        token = (await study.conduct.start(CONSENT))["comparison"]
        answering = asyncio.create_task(study.say(token))
        await asyncio.sleep(0.1)
        await study.conduct.leave(token)
        with pytest.raises(Refused, match="ended"):
            await answering
        assert study.kinds == ["opened", "voided"]
        assert (await study.conduct.view(token))["state"] == "voided"

    asyncio.run(go())


def test_an_unhealthy_store_is_told_to_the_rater_and_thanks_nobody(tmp_path):
    async def go():
        study = Study(tmp_path)
        token = await study.through()
        pages = study.store._database.connection.execute("PRAGMA page_count").fetchone()[0]
        study.store._database.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(Refused, match="cannot be stored"):
            for _ in range(50):
                await study.conduct.start(CONSENT)
        study.store._database.connection.execute("PRAGMA max_page_count = 100000")
        assert (await study.conduct.rate(token, RATING))["receipt"]

    asyncio.run(go())


def test_a_message_beside_a_rating_neither_undoes_it_nor_joins_it(tmp_path):
    async def go():
        for n, message in enumerate(["I want to kill myself", "and another thing"]):
            study = Study(tmp_path / str(n))
            token = await study.through()
            rated, _ = await asyncio.gather(
                study.conduct.rate(token, RATING), study.say(token, message), return_exceptions=True
            )
            (comparison,) = fold_all(study.store.events())
            if isinstance(rated, Refused):
                assert comparison.state != "rated"
            else:
                assert comparison.state == "rated" and len(comparison.exchanges) == 3

    asyncio.run(go())


def test_the_situation_does_not_tell_the_sides_to_one_who_has_the_study_file(tmp_path):
    """With the seed of the public file alone, guesses of side A from the situation are right about half the time."""
    from extes import taxonomy
    from extes.study.assignment import assign

    async def go():
        study = Study(tmp_path)
        names = [arm.name for arm in study.conduct.study.arms]
        scenarios = [s.name for s in taxonomy.SCENARIOS]
        public = {}
        for seed in ("7", f"{study.conduct.study.hash}/7"):
            public |= {a.scenario: a.arms["a"] for n in range(36) for a in [assign(seed, n, names, scenarios)]}
        right = 0
        for _ in range(36):
            opened = await study.conduct.start(CONSENT)
            event = list(study.store.events(kind="opened"))[-1]
            right += public[opened["scenario"]] == event.body["assignment"]["sides"]["a"]
        assert 6 <= right <= 30

    asyncio.run(go())


def test_a_comment_in_distress_is_met_with_help_and_not_kept(tmp_path):
    async def go():
        study = Study(tmp_path)
        kept = await study.conduct.rate(await study.through(), RATING | {"comment": "I want to kill myself tonight"})
        assert kept["receipt"] and "help lines" in kept["help"]
        assert "tonight" not in json.dumps([e.body for e in study.store.events()])

    asyncio.run(go())


def test_half_a_character_does_no_harm(tmp_path):
    async def go():
        study = Study(tmp_path)
        token = (await study.conduct.start(CONSENT | {"scenario": "own \ud83d"}))["comparison"]
        for _ in range(3):
            assert (await study.say(token, "hello \ud83d"))[-1]["finished"]
        assert (await study.conduct.rate(token, RATING | {"comment": "\ud83d"}))["receipt"]
        with pytest.raises(Refused, match="not known"):
            await study.say("\ud83d", "x")

    asyncio.run(go())


@pytest.mark.parametrize(
    ("pieces", "text"),
    [(["Hello \ud83d", "\ude00 there."], "Hello \U0001f600 there."), (["Hello \ud83d"], "Hello \ufffd")],
)
def test_half_a_character_of_an_arm_does_no_harm(tmp_path, pieces, text):
    async def go():
        study = Study(tmp_path)

        async def halves(messages, cap, seed):
            for piece in pieces:
                yield Piece(piece, tokens=1)
            yield Piece("", finish="stop")

        study.arms["warm_7b_arm"].reply = halves
        token = (await study.conduct.start(CONSENT))["comparison"]
        assert text in (await study.say(token))[-1].values()

    asyncio.run(go())


def test_half_a_character_in_an_arms_complaint_does_no_harm(tmp_path):
    async def go():
        study = Study(tmp_path)

        async def broken(messages, cap, seed):
            raise ArmError("no \ud83d")
            yield

        study.arms["warm_7b_arm"].reply = broken
        token = (await study.conduct.start(CONSENT))["comparison"]
        assert (await study.say(token))[-1]["stopped"]["reason"] == "arm_failed"

    asyncio.run(go())


def test_a_withdrawal_counts_though_a_clock_puts_it_first(tmp_path):
    async def go():
        study = Study(tmp_path)
        token = await study.through()
        kept = await study.conduct.rate(token, RATING)
        await study.conduct.withdraw(kept["receipt"])
        events = [e for e in study.store.events() if e.comparison]
        (comparison,) = fold_all([events[-1], *events[:-1]])
        assert comparison.state == "withdrawn"

    asyncio.run(go())


def test_whatever_an_arm_raises_makes_the_comparison_void(tmp_path):
    async def go():
        study = Study(tmp_path)

        async def broken(messages, cap, seed):
            raise AttributeError("NoneType")
            yield

        study.arms["warm_7b_arm"].reply = broken
        token = (await study.conduct.start(CONSENT))["comparison"]
        assert (await study.say(token))[-1]["stopped"]["reason"] == "arm_failed"

    asyncio.run(go())


def test_an_export_tells_how_many_ratings_are_not_for_publication(tmp_path, capsys):
    async def go():
        study = Study(tmp_path)
        rater = (await study.conduct.start(CONSENT))["rater"]
        for agreed in (False, False, True):
            await study.conduct.rate(await study.through(rater=rater, publish_transcript=agreed), RATING)

    asyncio.run(go())
    assert main(["ratings", "export", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "all.jsonl")]) == 0
    assert "the raters of 2 ratings did not agree" in capsys.readouterr().out


def test_no_reveal_where_the_study_says_so(tmp_path):
    async def go():
        study = Study(tmp_path, ("reveal = true", "reveal = false"))
        assert (await study.conduct.rate(await study.through(), RATING))["reveal"] is None

    asyncio.run(go())


def test_swapping_the_arms_mirrors_every_count(tmp_path):
    """Whatever is called by the other arm's name turns wins into losses, and changes nothing else."""

    async def rated(folder, names):
        study = Study(folder, *((old, new) for old, new in zip(("warm_7b_arm", "cold_13b_arm"), names, strict=True)))
        for n in range(8):
            token = await study.through()
            answers = {"fluency": ("a", "b", "tie")[n % 3], "overall": ("a", "a", "both_bad", "cant_judge")[n % 4]}
            await study.conduct.rate(token, {"answers": answers})
        return fold_all(study.store.events())

    async def go():
        straight = await rated(tmp_path / "1", ("one", "two"))
        swapped = [
            type(c)(
                **{
                    **vars(c),
                    "opened": json.loads(
                        json.dumps(c.opened).replace('"one"', '"@"').replace('"two"', '"one"').replace('"@"', '"two"')
                    ),
                }
            )
            for c in straight
        ]
        for t, m in zip(tally(straight, ["fluency", "overall"]), tally(swapped, ["fluency", "overall"]), strict=True):
            assert (t.win, t.tie, t.loss, t.other) == (m.loss, m.tie, m.win, m.other)

    asyncio.run(go())


def test_a_row_holds_what_a_published_number_rests_on(tmp_path):
    async def go():
        study = Study(tmp_path)
        await study.conduct.rate(await study.through(), RATING)
        (comparison,) = fold_all(study.store.events())
        config = next(study.store.events(kind="study")).body["config"]
        kept = row(comparison, config)
        assert kept["study"] == study.conduct.study.hash
        assert kept["consent"]["hash"] == study.conduct.study.consent_hash
        for side in ("a", "b"):
            arm = kept["arms"][side]
            assert arm["name"] == kept["assignment"]["sides"][side]
            assert arm["revision"].startswith("script-")
            assert arm["sampling"]["temperature"] == 0.7
            assert len({e["details"][side]["prompt_hash"] for e in kept["exchanges"]}) == 3
            for exchange in kept["exchanges"]:
                assert exchange["details"][side]["arm"] == arm["name"]
                assert exchange["details"][side]["seconds"] >= 0
                assert isinstance(exchange["details"][side]["seed"], int)

    asyncio.run(go())

"""Local arms with the starter's real weights."""

import asyncio
import time

import pytest

from extes.arms.arm import ArmError, Sampling
from extes.arms.local import Engine, LocalArm
from extes.study.config import load
from extes.study.roster import build
from tests.conftest import ROOT

HELLO = [{"role": "user", "content": "My dog died yesterday and I can't stop crying."}]


@pytest.fixture(scope="module")
def arms():
    arms = build(load(ROOT / "studies" / "starter.toml"))
    for arm in arms.values():
        arm.load()
    return arms


def reply(arm, seed=1, cap=40, messages=HELLO):
    async def go():
        return "".join([p.text async for p in arm.reply(messages, cap, seed)])

    return asyncio.run(go())


def test_both_arms_answer_from_one_copy_of_the_weights(arms):
    assert arms["tuned"].engine is arms["base"].engine
    assert arms["tuned"].revision.startswith(arms["base"].revision + "+")
    assert reply(arms["tuned"]) and reply(arms["base"])


def test_a_seed_gives_the_same_reply_again_and_another_seed_another(arms):
    for arm in arms.values():
        assert reply(arm, 1) == reply(arm, 1)
        assert len({reply(arm, n) for n in range(4)}) > 1


def test_the_adapter_is_off_for_the_base_and_on_for_the_tuned_arm(arms):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = ROOT / "models" / "starter-base"
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).float()
    ids = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    greedy = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    plain = tokenizer.decode(greedy, skip_special_tokens=True)

    def first(arm):
        cold = LocalArm("x", arm.engine, arm.adapter, Sampling(temperature=0))
        return reply(cold, cap=12)

    assert first(arms["base"]) == plain
    assert first(arms["tuned"]) != plain


def test_replies_at_once_are_the_same_as_replies_alone(arms):
    """Jobs take turns on one thread; neither the adapter nor the random numbers of one leak into another."""
    alone = [reply(arm, seed) for arm in arms.values() for seed in (1, 2)]

    async def one(arm, seed):
        return "".join([p.text async for p in arm.reply(HELLO, 40, seed)])

    async def together():
        return await asyncio.gather(*(one(arm, seed) for arm in arms.values() for seed in (1, 2)))

    assert asyncio.run(together()) == alone


def test_a_reply_repeats_no_stretch_where_the_study_says_so(arms):
    arm = arms["tuned"]
    stuck = LocalArm("x", arm.engine, arm.adapter, Sampling(temperature=0, no_repeat_ngram_size=3))
    ids = arm.engine.tokenizer(reply(stuck, cap=150))["input_ids"]
    stretches = list(zip(ids, ids[1:], ids[2:], strict=False))
    assert len(stretches) == len(set(stretches))


def test_a_reply_that_nobody_waits_for_ends(arms):
    arm = arms["tuned"]

    async def go():
        stream = arm.reply(HELLO, 400, 1)
        await anext(stream)
        await stream.aclose()

    asyncio.run(go())
    deadline = time.monotonic() + 5
    while arm.engine._jobs and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not arm.engine._jobs


def test_a_conversation_longer_than_the_context_loses_its_oldest_exchanges(arms):
    long = [{"role": r, "content": "one two three four five " * 20} for _ in range(40) for r in ("user", "assistant")]
    assert reply(arms["tuned"], messages=[*long, *HELLO])


def test_a_context_too_short_for_the_studys_replies_stops_the_start():
    with pytest.raises(ArmError, match="lower max_new_tokens"):
        Engine(str(ROOT / "models" / "starter-base"), max_new_tokens=4000).load()


def test_a_missing_model_is_a_clear_error():
    with pytest.raises(ArmError, match="cannot load nowhere/at-all"):
        Engine("nowhere/at-all").load()

"""Local arms with the starter's real weights."""

import asyncio
import copy
import time

import pytest
import torch
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from extes.arms.arm import ArmError, Sampling
from extes.arms.local import Engine, LocalArm
from extes.study.config import load
from extes.study.roster import build
from tests.conftest import ROOT
from tests.training.families import byte_level
from training.template import choose

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


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=120),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=120, encoder_hidden_size=32),
        AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=5, adapter_layers=2),
        IA3Config(task_type="CAUSAL_LM"),
        OFTConfig(task_type="CAUSAL_LM", oft_block_size=16),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_an_adapter_of_any_kind_says_what_its_model_generates(config, tmp_path):
    base = ROOT / "models" / "starter-base"
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).float()
    torch.manual_seed(3)
    tuned = get_peft_model(model, config).eval()
    for name, weight in tuned.named_parameters():
        if weight.requires_grad:
            gate = "gate" in name  # closed as it comes; opened, so that the adapter shows
            weight.data = torch.full_like(weight, 10.0) if gate else weight.data + torch.randn_like(weight)
    tuned.save_pretrained(tmp_path)
    ids = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    greedy = tuned.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    engine = Engine(str(base), {"tuned": str(tmp_path)})
    engine.load()
    cold = [reply(LocalArm("x", engine, a, Sampling(temperature=0)), cap=12) for a in ("tuned", "", "tuned")]
    assert cold[0] == tokenizer.decode(greedy, skip_special_tokens=True) == cold[2]
    assert cold[1] != cold[0]


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


def test_the_prompt_of_a_history_of_thousands_is_found_in_a_few_steps(arms, monkeypatch):
    """Everyone's replies wait while one prompt is made."""
    engine = arms["base"].engine
    history = [{"role": ("user", "assistant")[n % 2], "content": f"number {n}"} for n in range(5001)]
    sizes, template = [], engine.tokenizer.apply_chat_template
    monkeypatch.setattr(
        engine.tokenizer,
        "apply_chat_template",
        lambda kept, **options: sizes.append(len(kept)) or template(kept, **options),
    )
    system = {"role": "system", "content": "Be kind."}
    ids, left_out = engine._prompt(engine.tokenizer, [system, *history], 72)
    assert len(sizes) < 15 and max(sizes) <= 1 + engine.model.config.max_position_embeddings
    room = engine.model.config.max_position_embeddings - 72
    assert ids.shape[1] <= room
    one_more = template([system, *history[left_out - 2 :]], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert len(one_more) > room, "no more is left out than must be"


def test_a_tuned_arm_is_asked_with_the_template_it_was_tuned_with(tmp_path):
    """The base has another template, and another token at the end of a turn."""
    torch.manual_seed(0)
    tokenizer = copy.deepcopy(byte_level("llama3"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter")
    tokenizer.chat_template, tokenizer.eos_token = choose(tokenizer, "llama3")[1], "<|eot_id|>"
    tokenizer.save_pretrained(tmp_path / "adapter")

    engine = Engine(str(tmp_path / "base"), {"tuned": str(tmp_path / "adapter")})
    engine.load()
    asked = []
    engine.model.register_forward_pre_hook(lambda _, args, kwargs: asked.append(kwargs["input_ids"]), with_kwargs=True)
    for adapter in ("", "tuned"):
        reply(LocalArm("x", engine, adapter, Sampling(temperature=0)), cap=1)
    assert tokenizer.decode(asked[0][0]) == HELLO[0]["content"]
    assert tokenizer.decode(asked[1][0]).endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")

    with torch.no_grad():  # a model that says nothing but the end of a turn
        engine.model.get_output_embeddings().weight.zero_()
        engine.model.get_output_embeddings().weight[tokenizer.eos_token_id] = (
            100 * engine.model.get_base_model().model.norm.weight
        )
        engine.model.get_base_model().model.embed_tokens.weight.fill_(1.0)
    assert reply(LocalArm("x", engine, "tuned", Sampling(temperature=0)), cap=5) == ""


def test_a_context_too_short_for_the_studys_replies_stops_the_start():
    with pytest.raises(ArmError, match="lower max_new_tokens"):
        Engine(str(ROOT / "models" / "starter-base"), max_new_tokens=4000).load()


def test_a_missing_model_is_a_clear_error():
    with pytest.raises(ArmError, match="cannot load nowhere/at-all"):
        Engine("nowhere/at-all").load()

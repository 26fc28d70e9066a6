"""Perplexity is the likelihood of the supporter's tokens, whatever the batch, the padding or the adapter."""

import math
import random

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from extes.errors import Problem
from training.data import Example
from training.perplexity import Score, score
from training.template import IGNORED

VOCABULARY = 97


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).float()


@pytest.fixture(scope="module")
def examples():
    """Forty of 4 to 120 tokens, with loss on two stretches of each."""
    rng, found = random.Random(0), []
    for n in range(40):
        ids = [rng.randrange(1, VOCABULARY) for _ in range(rng.randrange(4, 121))]
        kept = {*range(len(ids) // 4, len(ids) // 2), *range(len(ids) - 2, len(ids))}
        labels = [id if place in kept else IGNORED for place, id in enumerate(ids)]
        found.append(Example(f"e{n}", "made", ids, labels, words=len(kept) // 2, messages=()))
    return found


def one_by_one(model, examples):
    """The plain way: each example alone, no padding, in double precision."""
    total, tokens = 0.0, 0
    for e in examples:
        with torch.no_grad():
            logits = model(torch.tensor([e.input_ids])).logits[0, -len(e.input_ids) :].double()
        for place, label in enumerate(e.labels):
            if label != IGNORED:
                total -= float(torch.log_softmax(logits[place - 1], -1)[label])
                tokens += 1
    return math.exp(total / tokens)


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_perplexity_does_not_depend_on_the_batch_size(model, examples, batch):
    assert score(model, examples, batch).per_token == pytest.approx(one_by_one(model, examples), rel=1e-6)


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_of_an_adapter_are_not_scored(model, examples, config):
    import copy

    torch.manual_seed(1)
    tuned = get_peft_model(copy.deepcopy(model), config(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    expected = one_by_one(tuned, examples)
    assert expected != pytest.approx(one_by_one(model, examples), rel=1e-3)
    for batch in (1, 4, 32):
        assert score(tuned, examples, batch).per_token == pytest.approx(expected, rel=1e-6)


def test_the_mean_of_batch_losses_would_be_another_number(model, examples):
    """What ``exp(eval_loss)`` does, and why this module exists."""
    means = []
    for e in examples:
        with torch.no_grad():
            means.append(float(model(torch.tensor([e.input_ids]), labels=torch.tensor([e.labels])).loss))
    assert math.exp(sum(means) / len(means)) != pytest.approx(score(model, examples).per_token, rel=1e-3)


def test_scores_of_parts_add_up(model, examples):
    whole, parts = score(model, examples), score(model, examples[:13]) + score(model, examples[13:])
    assert parts.tokens == whole.tokens == sum(e.trained_tokens for e in examples)
    assert parts.nll == pytest.approx(whole.nll)
    assert whole.per_word == pytest.approx(math.exp(whole.nll / sum(e.words for e in examples)))


def test_the_model_is_left_as_it_was(model, examples):
    model.train()
    score(model, examples[:2])
    assert model.training
    model.eval()


def test_nothing_to_score_is_an_error(model, examples):
    with pytest.raises(Problem, match="no supporter token to score"):
        score(model, [])
    assert Score(1.0, 1, 1).per_token == math.e


def test_a_model_that_gives_no_number_is_an_error(model, examples):
    import copy

    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.lm_head.weight[3] = float("nan")
    with pytest.raises(Problem, match="not a number"):
        score(broken, examples)
    with torch.no_grad():
        broken.lm_head.weight.copy_(model.lm_head.weight * 1e6)  # finite, but no perplexity: exp would overflow
    with pytest.raises(Problem, match="not a number"):
        score(broken, examples)

"""The chat templates: the published strings, and loss on exactly the supporter's words and the end of turn."""

import copy
import re
from pathlib import Path

import pytest
import trl
from tokenizers import Tokenizer, models, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from extes.errors import Problem
from tests.training.families import SPECIAL, byte_level, sentencepiece
from training.template import IGNORED, Message, choose, encode, names

SYSTEM = Message("system", "Be kind.")
TALK = [
    Message("user", "I lost my job."),
    Message("assistant", "That is heavy.", "Empathetic Statements", trained=True),
    Message("user", "She thinks I work."),
    Message("assistant", "What is hardest?", "Clarification", trained=True),
]

# Written by hand from the published forms; chat_templates/README.md names them.
GOLDEN = {
    "starter": "<|bos|><|user|>I lost my job.<|end|><|assistant|>That is heavy.<|end|>"
    "<|user|>She thinks I work.<|end|><|assistant|>What is hardest?<|end|>",
    "llama1": "<s>USER: I lost my job. ASSISTANT: That is heavy.</s>USER: She thinks I work. ASSISTANT: "
    "What is hardest?</s>",
    "llama2": "<s>[INST] I lost my job. [/INST] That is heavy. </s><s>[INST] She thinks I work. [/INST] "
    "What is hardest? </s>",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nI lost my job.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nThat is heavy.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nShe thinks I work.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nWhat is hardest?<|eot_id|>",
    "mistral": "<s>[INST] I lost my job.[/INST] That is heavy.</s>"
    "[INST] She thinks I work.[/INST] What is hardest?</s>",
    "qwen": "<|im_start|>user\nI lost my job.<|im_end|>\n<|im_start|>assistant\nThat is heavy.<|im_end|>\n"
    "<|im_start|>user\nShe thinks I work.<|im_end|>\n<|im_start|>assistant\nWhat is hardest?<|im_end|>\n",
}
WITH_SYSTEM = {
    "starter": ("<|user|>I", "<|user|>Be kind.\n\nI"),
    "llama1": ("<s>USER", "<s>Be kind. USER"),
    "llama2": ("<s>[INST] I", "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nI"),
    "llama3": (
        "<|begin_of_text|>",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>",
    ),
    "mistral": ("[INST] I", "[INST] Be kind.\n\nI"),
    "qwen": ("<|im_start|>user\nI", "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nI"),
}
# What ends a reply, and what stands between the header and its first word
END = {"starter": "<|end|>", "llama1": "</s>", "llama2": " </s>", "llama3": "<|eot_id|>", "mistral": "</s>"}
END["qwen"] = "<|im_end|>"
SPACE = {"llama1": " ", "llama2": " ", "mistral": " "}

MADE = [(family, byte_level) for family in SPECIAL]
MADE += [(family, sentencepiece) for family in ("llama1", "llama2", "mistral")]
each = pytest.mark.parametrize(("family", "make"), MADE, ids=[f"{f}-{m.__name__}" for f, m in MADE])


def rendered(tokenizer, family, messages, **options):
    chat = [{"role": m.role, "content": m.text} for m in messages]
    text, _ = render_jinja_template(
        [chat], chat_template=choose(tokenizer, family)[1], **tokenizer.special_tokens_map, **options
    )
    return text[0]


def kept(tokenizer, encoded):
    """What the labels spell, stretch by stretch."""
    stretches, last = [], False
    for id, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (IGNORED, id)
        if label != IGNORED:
            stretches += [] if last else [[]]
            stretches[-1].append(id)
        last = label != IGNORED
    return [tokenizer.decode(s, clean_up_tokenization_spaces=False) for s in stretches]


def replies(family, *texts):
    return [f"{SPACE.get(family, '')}{text}{END[family]}" for text in texts]


def test_every_template_of_the_folder_is_tested():
    assert set(names()) == set(GOLDEN) == set(SPECIAL)


@pytest.mark.parametrize("family", SPECIAL)
def test_the_string_is_the_published_one(family):
    tokenizer = byte_level(family)
    assert rendered(tokenizer, family, TALK) == GOLDEN[family]
    old, new = WITH_SYSTEM[family]
    assert rendered(tokenizer, family, [SYSTEM, *TALK]) == GOLDEN[family].replace(old, new, 1)


@pytest.mark.parametrize(("family", "published"), [("llama3", "llama3"), ("qwen", "qwen2_5"), ("qwen", "qwen3")])
def test_where_the_published_template_is_at_hand_the_string_is_the_same(family, published):
    """trl ships some as they were published. Qwen 3 writes an empty thought into the last reply; ours does not."""
    template = (Path(trl.__file__).parent / "chat_templates" / f"{published}.jinja").read_text()
    tokenizer, talk = byte_level(family), [SYSTEM, *TALK]
    chat = [{"role": m.role, "content": m.text} for m in talk]
    theirs = render_jinja_template([chat], chat_template=template, **tokenizer.special_tokens_map)[0][0]
    assert rendered(tokenizer, family, talk) == theirs.replace("<think>\n\n</think>\n\n", "")


@each
def test_loss_is_on_the_supporters_words_and_the_end_of_turn(family, make):
    tokenizer = make(family)
    for talk in (TALK, [SYSTEM, *TALK]):
        encoded = encode(tokenizer, choose(tokenizer, family)[1], talk, "none")
        assert kept(tokenizer, encoded) == replies(family, "That is heavy.", "What is hardest?")
        assert encoded.words == 6


@each
def test_the_label_is_trained_in_the_reply_and_given_before_it(family, make):
    tokenizer = make(family)
    template = choose(tokenizer, family)[1]
    encoded = encode(tokenizer, template, TALK, "in_reply")
    assert kept(tokenizer, encoded) == replies(
        family, "[Empathetic Statements] That is heavy.", "[Clarification] What is hardest?"
    )
    assert encoded.words == 9
    before = encode(tokenizer, template, TALK, "before")
    assert before.input_ids == encoded.input_ids
    assert kept(tokenizer, before) == [f" That is heavy.{END[family]}", f" What is hardest?{END[family]}"]


@each
def test_an_excluded_turn_is_context(family, make):
    tokenizer = make(family)
    talk = [*TALK[:1], Message("assistant", "That is heavy.", "Others"), *TALK[2:]]
    encoded = encode(tokenizer, choose(tokenizer, family)[1], talk, "in_reply")
    assert "[Others] That is heavy." in tokenizer.decode(encoded.input_ids)
    assert kept(tokenizer, encoded) == replies(family, "[Clarification] What is hardest?")


@each
def test_a_beginning_is_not_doubled(family, make):
    tokenizer = make(family)
    ids = encode(tokenizer, choose(tokenizer, family)[1], TALK, "none").input_ids
    if tokenizer.bos_token:
        assert ids[0] == tokenizer.bos_token_id and ids[1] != tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == GOLDEN[family].count(tokenizer.bos_token)


@each
def test_what_a_model_reads_when_it_serves_is_what_it_was_trained_behind(family, make):
    """The prompt of a reply, tokenised alone as an arm does, is what stands before the loss, token for token."""
    tokenizer = make(family)
    encoded = encode(tokenizer, choose(tokenizer, family)[1], TALK, "none")
    starts = [n for n, label in enumerate(encoded.labels) if label != IGNORED and encoded.labels[n - 1] == IGNORED]
    for turns, start in zip((1, 3), starts, strict=True):
        prompt = rendered(tokenizer, family, TALK[:turns], add_generation_prompt=True)
        assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == encoded.input_ids[:start]


@each
def test_a_supporter_who_speaks_first_is_trained(family, make):
    tokenizer = make(family)
    talk = [Message("assistant", "Hello.", "Others", trained=True), *TALK]
    for start in ([], [SYSTEM]):
        encoded = encode(tokenizer, choose(tokenizer, family)[1], start + talk, "none")
        assert kept(tokenizer, encoded)[0] == replies(family, "Hello.")[0]
        assert ("Be kind." in tokenizer.decode(encoded.input_ids)) == bool(start)


def test_a_tokenizers_own_template_is_used_if_it_marks_the_replies():
    tokenizer = copy.copy(byte_level("starter"))
    tokenizer.chat_template = choose(tokenizer, "starter")[1]
    assert choose(tokenizer, "") == ("the tokenizer's own", tokenizer.chat_template)
    tokenizer.chat_template = re.sub(r"\{%- (end)?generation -%\}", "", tokenizer.chat_template)
    with pytest.raises(Problem, match="without generation markers"):
        choose(tokenizer, "")


def test_without_markers_the_fitting_templates_are_named():
    with pytest.raises(Problem, match=r"no chat template.*llama1, llama2, llama3, mistral\. See"):
        choose(byte_level("llama3"), "")
    with pytest.raises(Problem, match=r"tokens that this tokenizer does not have .*im_end"):
        choose(byte_level("llama3"), "qwen")
    with pytest.raises(Problem, match="there are llama1, llama2"):
        choose(byte_level("llama3"), "lama3")


def test_a_token_across_the_edge_of_a_reply_is_an_error():
    """A tokenizer without pre-tokenisation may learn "ASSISTANT: That" as one token."""
    bpe = Tokenizer(models.BPE())
    bpe.train_from_iterator(
        [GOLDEN["llama1"][3:]] * 50, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    with pytest.raises(Problem, match="across the edge of a reply"):
        encode(tokenizer, choose(tokenizer, "llama1")[1], TALK, "none")


def test_a_template_that_marks_only_some_replies_is_an_error():
    tokenizer = byte_level("qwen")
    template = choose(tokenizer, "qwen")[1].replace("== 'assistant'", "== 'assistant' and loop.last")
    with pytest.raises(Problem, match="marks 1 of 2 replies"):
        encode(tokenizer, template, TALK, "none")

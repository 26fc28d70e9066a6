"""Tokenizers of the families, made here: the special tokens are theirs, the vocabulary is learnt from a few lines.

Byte-level BPE as LLaMA-3 and Qwen have it; for the older families also the SentencePiece kind, which writes a space as
"▁" and puts one before the text.
"""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "I lost my job last week and I do not know how to tell my wife. She thinks that I am at work.",
    "That sounds heavy to carry alone. What is the hardest part of telling her? [Clarification] [Others]",
    "USER: hello ASSISTANT: hello system user assistant [INST] hello [/INST] <<SYS>> be kind <</SYS>>",
]
SPECIAL = {
    "starter": ("<|bos|>", "<|end|>", ["<|pad|>", "<|user|>", "<|assistant|>"]),
    "llama1": ("<s>", "</s>", ["<unk>"]),
    "llama2": ("<s>", "</s>", ["<unk>"]),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "mistral": ("<s>", "</s>", ["<unk>", "[INST]", "[/INST]"]),
    "qwen": (None, "<|endoftext|>", ["<|im_start|>", "<|im_end|>"]),
}


@cache
def byte_level(family: str) -> PreTrainedTokenizerFast:
    bos, eos, more = SPECIAL[family]
    special = [token for token in (bos, eos, *more) if token]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT * 3,
        trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if bos:  # as the real ones: a tokenizer that puts its own beginning before every text
        beginning = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))])
        bpe.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), beginning])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=bos, eos_token=eos, extra_special_tokens=more)


@cache
def sentencepiece(family: str) -> PreTrainedTokenizerFast:
    bos, eos, more = SPECIAL[family]
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if family == "mistral":  # puts its space before the text only, LLaMA's before every stretch between special tokens
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    else:
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = [AddedToken(token, normalized=False, special=True) for token in (bos, eos, *more) if token]
    special += [AddedToken(f"<0x{n:02X}>", normalized=False) for n in range(256)]
    bpe.train_from_iterator(TEXT * 3, trainers.BpeTrainer(vocab_size=560, special_tokens=special, show_progress=False))
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=bos, eos_token=eos, extra_special_tokens=more)

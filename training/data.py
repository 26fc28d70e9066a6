"""What a model is tuned on: sources, split, cut and encoded, with counts that add up.

``prepare`` is the whole of it. Knows how the parts fit together (``sources`` reads, ``split`` holds out, ``cut`` cuts,
``template`` encodes); knows nothing of models, trainers or run folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from extes.dialogue import Dialogue, Report
from extes.errors import Problem
from training import cut, sources, split
from training.counts import Counts, SourceCounts, Spoken
from training.sources import Source
from training.template import IGNORED, Encoded, Label, Message, choose, encode

ROLE: dict[str, Literal["user", "assistant"]] = {"seeker": "user", "supporter": "assistant"}


class HeldOut(BaseModel):
    """How much is kept away from training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int = Field(20, ge=0)  # hand-written dialogues
    per_mille: int = Field(20, ge=0, le=1000)  # of every other source
    sources: tuple[str, ...] = ()  # sources of which nothing trains
    lineage: bool = True  # generated dialogues follow their seeds; false: they are split like any others


class Exclude(BaseModel):
    """Supporter turns that are context only. Turns marked ``"train": false`` in the data are, always."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategies: tuple[str, ...] = ()  # by name
    greeting: bool = False  # the supporter's turn that opens a dialogue
    unlabelled: bool = False  # turns without a strategy


class DataConfig(BaseModel):
    """The ``[data]`` table of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: tuple[str, ...] = ("seeds",)  # sources; see training/sources.py
    held_out: HeldOut = HeldOut()
    strategy: Label = "none"  # its label: left out, the beginning of the reply, or given before it and not trained
    exclude: Exclude = Exclude()
    system: str = ""  # a system message before every dialogue; an arm that serves the model then gives the same
    template: str = ""  # of training/chat_templates; "" is the tokenizer's own, which must mark the replies
    max_length: int = Field(512, ge=8)  # tokens
    cut: Literal["windows", "front"] = "windows"  # longer dialogues: several pieces, or the end that fits
    # Of supporter turns, truncated or dropped; of each source's dialogues, unreadable. More is an error
    max_lost_share: float = Field(0.01, ge=0, le=1)


@dataclass(frozen=True)
class Example:
    """A piece of a dialogue as token ids. ``labels`` are ids or -100; both have one length, at most ``max_length``.

    ``words`` counts the words that the labels spell, so that perplexity can be told per word.
    """

    id: str
    source: str
    input_ids: list[int]
    labels: list[int]
    words: int
    messages: tuple[dict[str, str], ...]

    @property
    def trained_tokens(self) -> int:
        """Labels that a causal model can predict: all but one on the very first token."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class Prepared:
    """``template`` is the text to set as the tokenizer's; ``end_of_turn`` the token id that ends a reply under it."""

    train: list[Example]
    held_out: dict[str, list[Example]]
    counts: Counts
    data_sha256: dict[str, str]
    template: str
    template_name: str
    end_of_turn: int


def prepare(config: DataConfig, tokenizer: Any) -> Prepared:
    """Read, split, cut and encode. Leaves the tokenizer as it is; the same in every process and every run.

    Raises :class:`Problem`: a source that is missing or unknown, a template that does not fit, no supporter turn at
    all, nothing left to train on, or more supporter turns lost to ``max_length``, or dialogues unreadable, than
    ``max_lost_share`` allows.
    """
    maker = Maker(config, tokenizer)
    read = [sources.read(spec) for spec in config.train + config.held_out.sources]
    labels = _labels(read)
    candidates = [
        split.Candidate(label, one, whole=n >= len(config.train))
        for n, (label, source) in enumerate(zip(labels, read, strict=True))
        for one in source.dialogues
    ]
    sketches = split.sketched(c.dialogue for c in candidates)
    away = split.seeds_away(split.seed_ids(candidates), config.held_out.seeds)
    sides = split.split(candidates, away, config.held_out.per_mille, sketches, config.held_out.lineage)

    train: list[Example] = []
    held_out: dict[str, list[Example]] = {}
    spoken = {"train": Spoken(), "held_out": Spoken()}
    went: dict[str, Counter[str]] = {label: Counter() for label in labels}
    placed: dict[str, list[int]] = {"train": [], "held_out": []}
    for n, (candidate, side) in enumerate(zip(candidates, sides, strict=True)):
        where = maker.unusable(candidate.dialogue) or side
        went[candidate.source][where] += 1
        if where not in placed:
            continue
        examples, said = maker.examples(candidate)
        spoken[where] += said
        placed[where].append(n)
        (train if where == "train" else held_out.setdefault(candidate.source, [])).extend(examples)

    known = [sketches[n] for n in placed["train"]]
    leaks = split.leaking(known, [sketches[n] for n in placed["held_out"]])
    leaked = Counter(candidates[n].source for n, leak in zip(placed["held_out"], leaks, strict=True) if leak)
    counts = Counts(
        tuple(_counted(label, s.report, went[label], leaked[label]) for label, s in zip(labels, read, strict=True)),
        spoken["train"],
        spoken["held_out"],
    )
    _refuse(config, counts, maker)
    digests = {label: source.sha256 for label, source in zip(labels, read, strict=True)}
    return Prepared(train, held_out, counts, digests, maker.template, maker.template_name, maker.end_of_turn)


def _labels(read: Sequence[Source]) -> list[str]:
    """Names of the sources, made different where two files are called alike."""
    seen: Counter[str] = Counter()
    labels = []
    for source in read:
        seen[source.label] += 1
        labels.append(source.label if seen[source.label] == 1 else f"{source.label} ({seen[source.label]})")
    return labels


def _counted(label: str, report: Report, went: Counter[str], leaks: int) -> SourceCounts:
    unusables = {code: n for code, n in went.items() if code not in get_args(split.Side)}
    return SourceCounts(
        source=label,
        read=report.items,
        clean=report.clean,
        repaired=report.repaired,
        rejected=report.rejected,
        repairs=dict(report.repairs),
        rejections=dict(report.rejections),
        train=went["train"],
        held_out=went["held_out"],
        set_aside=went["set_aside"],
        unusable=sum(unusables.values()),
        unusables=unusables,
        leaks=leaks,
    )


def _unreadable(source: SourceCounts) -> Counter[str]:
    """Dialogues lost to a defect, by code. What a pool has not accepted, and copies, are lost to nobody."""
    found = Counter(dict(source.rejections)) + Counter(dict(source.unusables))
    return Counter({code: n for code, n in found.items() if not code.startswith(("state_", "duplicate"))})


def _refuse(config: DataConfig, counts: Counts, maker: Maker) -> None:
    """Raise :class:`Problem` where these data cannot be meant."""
    if unknown := set(config.exclude.strategies) - maker.strategies:
        raise Problem(
            f"data.exclude.strategies: no supporter turn is labelled {', '.join(map(repr, sorted(unknown)))}; "
            f"the labels in these data are {', '.join(sorted(maker.strategies)) or 'none'}"
        )
    both = counts.train + counts.held_out
    if counts.lost_share > config.max_lost_share:
        raise Problem(
            f"{both.lost:,} of {both.turns:,} supporter turns ({counts.lost_share:.1%}) would be lost to "
            f"data.max_length = {config.max_length}: {both.truncated:,} truncated, {both.dropped:,} dropped; "
            f"{config.max_lost_share:.1%} may be. Raise data.max_length, "
            + ('cut with data.cut = "windows", which keeps every turn that fits, ' if config.cut == "front" else "")
            + f"or raise data.max_lost_share if that is meant.\n\n{counts}"
        )
    if not counts.train.turns:
        raise Problem(
            f"there is no supporter turn to train on in {', '.join(config.train) or 'data.train, which is empty'}. "
            f"Name other data with data.train, or hold out less.\n\n{counts}"
        )
    if not counts.train.trained:
        raise Problem(
            "every supporter turn is excluded from the loss; nothing would be learnt. Exclude less: data.exclude, or "
            f'the turns marked "train": false in the data.\n\n{counts}'
        )
    for source in counts.sources:
        lost = _unreadable(source)
        of = source.read - source.rejected - source.unusable + lost.total()
        if lost.total() > config.max_lost_share * of:
            told = ", ".join(f"{code} {n:,}" for code, n in sorted(lost.items()))
            raise Problem(
                f"{lost.total():,} of the {of:,} dialogues of {source.source} cannot be used: {told}; "
                f"{config.max_lost_share:.1%} may be. Mend the file, or raise data.max_lost_share if that is meant."
                f"\n\n{counts}"
            )


class Maker:
    """Makes examples of dialogues under one configuration; remembers the strategies it met."""

    def __init__(self, config: DataConfig, tokenizer: Any) -> None:
        self._config, self._tokenizer = config, tokenizer
        self.template_name, self.template = choose(tokenizer, config.template)
        # Not all are on the tokenizer's own list: LLaMA-3's has the beginning and the end of text, and no end of turn.
        added = {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._control = [token for token in {*tokenizer.all_special_tokens, *added} if token.strip()]
        self.strategies: set[str] = set()
        probe = [Message("user", "a"), Message("assistant", "b", trained=True)]
        learnt = [label for label in self._encoded(probe).labels if label != IGNORED]
        # Some templates mark the newline after it, too; and some end a turn in plain text.
        self.end_of_turn = next((id for id in reversed(learnt) if id in added.values()), learnt[-1])

    def unusable(self, dialogue: Dialogue) -> str:
        """Why a dialogue cannot be trained or scored on; "" if it can."""
        if not any(turn.speaker == "supporter" for turn in dialogue.turns):
            return "no_supporter_turn"
        if any(token in turn.text for turn in dialogue.turns for token in self._control):
            return "control_token_in_text"  # it would be read as the end of a turn, not as what somebody said
        return ""

    def examples(self, candidate: split.Candidate) -> tuple[list[Example], Spoken]:
        messages = self._messages(candidate.dialogue)
        turns = [m for m in messages if m.role == "assistant"]
        encoded: dict[tuple[Message, ...], Encoded] = {}  # what was measured need not be encoded again to be kept

        def length(piece: list[Message]) -> int:
            key = tuple(piece)
            if key not in encoded:
                encoded[key] = self._encoded(piece)
            return len(encoded[key].input_ids)

        way = cut.windows if self._config.cut == "windows" else cut.front
        done = way(messages, length, self._config.max_length)
        examples = []
        for n, piece in enumerate(done.pieces):
            if any(m.trained for m in piece):
                e = encoded[tuple(piece)]
                id = candidate.dialogue.id if len(done.pieces) == 1 else f"{candidate.dialogue.id}#{n}"
                examples.append(Example(id, candidate.source, e.input_ids, e.labels, e.words, e.messages))
        kept = [m for piece in done.pieces for m in piece if m.role == "assistant"]
        trained = sum(m.trained for m in kept)
        said = Spoken(
            dialogues=1,
            pieces=len(examples),
            turns=len(turns),
            trained=trained,
            excluded=len(kept) - trained,
            truncated=done.truncated,
            dropped=done.dropped,
            tokens=sum(len(e.input_ids) for e in examples),
            trained_tokens=sum(e.trained_tokens for e in examples),
        )
        return examples, said

    def _encoded(self, piece: list[Message]) -> Encoded:
        system = [Message("system", self._config.system)] if self._config.system else []
        return encode(self._tokenizer, self.template, system + piece, self._config.strategy)

    def _messages(self, dialogue: Dialogue) -> list[Message]:
        exclude, messages = self._config.exclude, []
        for n, turn in enumerate(dialogue.turns):
            spoken = turn.speaker == "supporter"
            if spoken and turn.strategy:
                self.strategies.add(turn.strategy)
            excluded = (
                not turn.train
                or turn.strategy in exclude.strategies
                or (exclude.greeting and n == 0)
                or (exclude.unlabelled and not turn.strategy)
            )
            messages.append(Message(ROLE[turn.speaker], turn.text, turn.strategy, spoken and not excluded))
        while messages[-1].role != "assistant":  # a seeker's last word, unanswered, is nobody's context
            messages.pop()
        return messages

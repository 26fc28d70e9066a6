"""A study as configured: read from TOML, validated, hashed.

A plain value: reading it loads no model and opens no store. Anything wrong with the file is a :class:`StudyError` that
names the file, the line and the reason.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from extes.errors import Problem
from extes.safety import help as help_lines

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Answer = Literal["a", "tie", "b", "both_bad", "cant_judge"]


def _misfit(at: tuple[str | int, ...], message: str) -> PydanticCustomError:
    """A fault in how keys fit together, told at the key that should change."""
    return PydanticCustomError("misfit", "{reason}", {"reason": message, "at": at})


class StudyError(Problem):
    """A study file that cannot be used. The text names file, line and reason."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Sampling(_Strict):
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)
    repetition_penalty: float = Field(1.0, ge=1, le=2)
    no_repeat_ngram_size: int = Field(0, ge=0, le=20, description="0: none; local arms only")


class ArmConfig(_Strict):
    """One system. ``kind`` decides which of the other keys it needs; ``label`` is shown on reveal."""

    name: Name
    label: str = Field(min_length=1)
    kind: Literal["local", "remote", "scripted"]
    base: str = ""
    adapter: str = ""
    base_url: str = ""
    model: str = ""
    api_key_variable: str = "OPENAI_API_KEY"
    # How a server is told the most tokens of a reply: some of OpenAI's models refuse max_tokens. How long it may take
    # is not said here: every arm has the study's deadline_seconds. The default is left out of the study's hash, so
    # that studies from before this key keep theirs.
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", exclude_if=lambda field: field == "max_tokens"
    )
    replies: tuple[str, ...] = ()
    delay: float = Field(0.0, ge=0)
    system_prompt: str = ""
    sampling: Sampling = Sampling()

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, url: str) -> str:
        """The address is in the study's log and in every rating's revision. An @ of a path is written %40."""
        key_goes = "; name a variable in api_key_variable"
        if "@" in url:
            raise PydanticCustomError("secret", f"no user or password in base_url{key_goes}")
        if "?" in url or "#" in url:
            raise PydanticCustomError("secret", f"no ? or # in base_url, and no key after it{key_goes}")
        if url and not url.startswith(("http://", "https://")):
            raise PydanticCustomError("secret", "base_url begins with http:// or https://")
        return url

    @field_validator("api_key_variable")
    @classmethod
    def _is_no_key(cls, name: str) -> str:
        """Who writes the key itself here would have it in the log."""
        if not re.fullmatch("[A-Z][A-Z0-9_]*", name):
            raise PydanticCustomError("secret", "name a variable, in capitals like OPENAI_API_KEY, never the key")
        return name

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> ArmConfig:
        needed = {"local": ("base",), "remote": ("base_url", "model"), "scripted": ("replies",)}[self.kind]
        for key in needed:
            if not getattr(self, key):
                raise ValueError(f'an arm of kind "{self.kind}" needs "{key}"')
        if self.kind == "remote" and self.sampling.no_repeat_ngram_size:
            raise ValueError('a server cannot be told "no_repeat_ngram_size"; leave it out for an arm of kind "remote"')
        return self


class Criterion(_Strict):
    name: Name
    label: str
    definition: str
    answers: tuple[Answer, ...] = Field(("a", "tie", "b"), min_length=2)

    @field_validator("answers")
    @classmethod
    def _are_fair(cls, answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
        if not {"a", "b"} <= set(answers):
            raise ValueError('either side can win: "a" and "b" are both among the answers')
        if len(set(answers)) < len(answers):
            raise ValueError("no answer is there twice")
        return answers


class Generation(_Strict):
    """The same for every arm: what a reply may cost and how it is released."""

    max_new_tokens: int = Field(80, ge=1, le=4096)
    deadline_seconds: float = Field(60, gt=0, description="for both replies together; past it the comparison is void")
    words_per_second: float = Field(12, ge=0, description="the clock of release; 0 releases whole replies")
    seed: int = 0


class Hub(_Strict):
    """Where ratings go besides this disk, and when the portal stops taking them. No part of the study's hash."""

    ratings: str = Field("", description="a dataset, owner/name; EXTES_RATINGS_REPO decides over it")
    visibility: Literal["private", "public"] = Field("private", description="complete, or redacted")
    every_seconds: float = Field(60, ge=1, description="between two commits; the Hub counts them by the hour")
    max_backlog: int = Field(5000, ge=1, description="events that may wait for the Hub")
    min_free_megabytes: int = Field(200, ge=0, description="what the disk of the ratings must have left")


class Study(_Strict):
    """The whole study. ``text`` fields come from files beside the study file."""

    name: Name
    version: str
    title: str
    language: Literal["en"] = "en"
    minimum_exchanges: int = Field(3, ge=1, le=50)
    maximum_exchanges: int = Field(12, ge=1, le=50)
    max_message_chars: int = Field(2000, ge=1, le=100_000)
    max_comment_chars: int = Field(2000, ge=0, le=100_000)
    reveal: bool = True
    results: Literal["hidden", "open"] = "hidden"
    chat: str = ""
    consent: str = Field(min_length=20, description="the text that raters agree to")
    help: str = ""
    generation: Generation = Generation()
    hub: Hub = Field(Hub(), exclude=True)  # type: ignore[call-arg]
    criteria: tuple[Criterion, ...]
    arms: tuple[ArmConfig, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        names = [arm.name for arm in self.arms]
        for kind, given in (("arms", names), ("criteria", [c.name for c in self.criteria])):
            for n, name in enumerate(given):
                if name in given[:n]:
                    raise _misfit((kind, n, "name"), f'two {kind} are called "{name}"')
        if len(self.arms) < 2 or not self.criteria:
            raise _misfit((), "a study compares two [[arms]] or more by one of [[criteria]] or more")
        if self.chat and self.chat not in names:
            raise _misfit(("chat",), f'there is no arm "{self.chat}" among {", ".join(names)}')
        if self.maximum_exchanges < self.minimum_exchanges:
            raise _misfit(("maximum_exchanges",), "it is below minimum_exchanges")
        return self

    @property
    def hash(self) -> str:
        """16 hex digits over everything the study says, its consent and help texts included."""
        body = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    @property
    def consent_hash(self) -> str:
        return hashlib.sha256(self.consent.encode()).hexdigest()[:16]

    @property
    def help_lines(self) -> help_lines.Help:
        return help_lines.parse(self.help)

    def arm(self, name: str) -> ArmConfig:
        return next(arm for arm in self.arms if arm.name == name)


def load(path: Path) -> Study:
    """Read a study file. ``consent`` and ``help`` name files relative to it; without ``help``, the project's own."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        raise StudyError(f"{path}: cannot read the study file ({error.strerror}); EXTES_STUDY names it") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: the study file is not UTF-8 text ({error.reason})") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path}: not valid TOML: {error}") from error

    named = {key: data[key] for key in ("consent", "help") if isinstance(data.get(key), str)}
    for key in named:
        if named[key]:
            try:
                data[key] = (path.parent / data[key]).read_text(encoding="utf-8-sig")
            except (OSError, ValueError) as error:  # no such file, no text, no name that a file can have
                where = _line(text, (key,))
                raise StudyError(f'{path}, line {where}: cannot read "{key}" = {data[key]!r} ({error})') from error
    if "help" not in data:
        data["help"] = (files("extes") / "resources" / "help_lines.toml").read_text(encoding="utf-8")
    try:
        help_lines.parse(str(data["help"]))
    except ValueError as error:
        line = _line(text, ("help",))
        raise StudyError(
            f"{path}, line {line}: the help-line file {named.get('help', '')} is malformed: {error}"
        ) from error

    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise StudyError("\n".join(_explain(path, text, problem) for problem in error.errors())) from error


def _explain(path: Path, text: str, problem: object) -> str:
    assert isinstance(problem, dict)
    keys: tuple[str | int, ...] = problem.get("ctx", {}).get("at") or problem["loc"]
    dotted = ".".join(str(k + 1) if isinstance(k, int) else k for k in keys) or "the study"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "there is no such key; check its spelling"
    given = None if problem["type"] in ("secret", "extra_forbidden") else problem.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{path}, line {_line(text, keys)}: {dotted}: {message}{shown}"


def _line(text: str, keys: tuple[str | int, ...]) -> int:
    """The line on which the value at ``keys`` begins; the closest enclosing table's if it is not there."""
    wanted = list(keys)
    table: list[str | int] = []
    counts: dict[str, int] = {}
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if match := re.match(r"\[\[\s*([\w.]+)\s*\]\]", line):
            counts[match[1]] = counts.get(match[1], -1) + 1
            table = [match[1], counts[match[1]]]
            here = table
        elif match := re.match(r"\[\s*([\w.]+)\s*\]", line):
            parts = match[1].split(".")
            table = [parts[0], counts[parts[0]], *parts[1:]] if parts[0] in counts else list(parts)
            here = table
        elif match := re.match(r"([\w]+)\s*=", line):
            here = [*table, match[1]]
        else:
            continue
        if here == wanted[: len(here)] and len(here) > depth:
            best, depth = number, len(here)
    return best

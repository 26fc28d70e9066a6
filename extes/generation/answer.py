"""What a finished request means: the content, or a code for why there is none. Pure: status and body in, answer out.

The same reading serves a reply just come, one from the cache and a row of a batch. It tells apart what the request
can be blamed for (it ends with a code) and what the call can be blamed for (:class:`Stop`: a key, a model, a URL).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extes.dialogue import whole
from extes.generation.errors import Stop
from extes.generation.money import Tokens, counted


@dataclass(frozen=True)
class Answer:
    """``code`` is ``None`` where ``content`` is to be parsed. ``tokens`` is ``None`` where nothing was generated."""

    content: str = ""
    code: str | None = None
    detail: str = ""
    tokens: Tokens | None = None


class NotAReply(ValueError):
    """A 200 whose body is no chat completion: a proxy's page, a body cut short. Worth asking again."""


_FORMAT = re.compile(r"response_format|json_schema|json_object|json mode|structured|guided|grammar|schema", re.I)
_LENGTH = re.compile(r"context.?length|maximum context|too long|too many tokens|reduce the length", re.I)
_POLICY = re.compile(r"content.?(policy|filter|management)|safety|moderation|flagged", re.I)
_MODEL = re.compile(
    r"model_not_found|(unknown|invalid|no such) model|model\b.{0,80}(not found|does not exist|is not a valid)", re.I
)
_LIMIT = re.compile(r"(unsupported|not supported|unrecogni[sz]ed).{0,120}max_completion_tokens", re.I)


def read(status: int, body: str, payload: Mapping[str, Any]) -> Answer:
    """The answer in a finished request. Raises :class:`NotAReply`, or :class:`Stop` where no request can succeed."""
    return _completion(body, payload) if status == 200 else _refusal(status, body, payload)


def _object(body: str) -> dict[str, Any]:
    try:
        value = whole(json.loads(body))
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise NotAReply(f"the body is not JSON: {body[:60]!r}") from error
    if not isinstance(value, dict):
        raise NotAReply("the body is not a JSON object")
    return value


def _message(reply: Mapping[str, Any]) -> tuple[str, str, str]:
    """Content, refusal and finish reason of the first choice."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise NotAReply("the reply has no choices")
    message = choices[0].get("message")
    message = message if isinstance(message, dict) else {}
    content, refusal = message.get("content"), message.get("refusal")
    return (
        content if isinstance(content, str) else "",
        refusal if isinstance(refusal, str) else "",
        str(choices[0].get("finish_reason") or ""),
    )


def _completion(body: str, payload: Mapping[str, Any]) -> Answer:
    reply = _object(body)
    content, refusal, finish = _message(reply)
    paid = counted(reply, payload, content)
    if refusal or finish == "content_filter":
        return Answer(content, "provider_refused", (refusal or "content filter")[:120], paid)
    if finish == "length":
        return Answer(content, "truncated", f"cut off at the limit after {paid.output} tokens; see --max-tokens", paid)
    if not content.strip():
        return Answer(content, "empty_reply", f"no text (finish_reason {finish!r})", paid)
    return Answer(content, None, "", paid)


def _refusal(status: int, body: str, payload: Mapping[str, Any]) -> Answer:
    said = " ".join(body.split())[:300]
    fatal(status, said, str(payload.get("model")))
    if status == 413 or _LENGTH.search(said):
        return Answer(code="prompt_too_long", detail=f"HTTP {status}: {said[:120]}")
    if _POLICY.search(said) and not _FORMAT.search(said):
        return Answer(code="provider_refused", detail=f"HTTP {status}: {said[:120]}")
    # On a rung that asks for a format, a refusal that names nothing else is taken for one of the format.
    if _FORMAT.search(said) or "response_format" in payload:
        return Answer(code="format_refused", detail=f"HTTP {status}: {said[:120]}")
    return Answer(code="bad_request", detail=f"HTTP {status}: {said[:120]}")


def fatal(status: int, said: str, model: str) -> None:
    """Raise :class:`Stop` for what every further request would meet as well."""
    if status in (401, 403):
        raise Stop(
            f"the server refused the key (HTTP {status}: {said[:200]}). Set OPENAI_API_KEY to a key that may use "
            f"model {model!r}, and run the same command again."
        )
    if status == 402 or "insufficient_quota" in said:
        raise Stop(
            f"the account has no credit left (HTTP {status}: {said[:200]}). Add credit, then run the same command "
            "again; nothing that was paid for is asked twice.",
            status=1,
        )
    if status in (400, 422) and _LIMIT.search(said):
        raise Stop(
            f"the server wants the other name for the token limit (HTTP {status}: {said[:200]}). "
            "Run again with --limit-field max_completion_tokens."
        )
    if status == 404 or (status in (400, 422) and _MODEL.search(said) and not _FORMAT.search(said)):
        raise Stop(
            f"the server does not know model {model!r}, or there is nothing at this address (HTTP {status}: "
            f"{said[:200]}). Check --model and --base-url (it usually ends in /v1)."
        )

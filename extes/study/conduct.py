"""Conducting a study: opens, carries on and closes comparisons.

Joins the study, the store and the arms. Every rule that protects raters or results is kept here and in the store, not
in the page: a page, a script and a forged request go through the same calls. Knows nothing of gradio, nor of how two
replies come about (``answering``); one that fails makes the whole comparison void.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from extes import __version__, taxonomy
from extes.arms.arm import Arm
from extes.safety.crisis import Screen, screen
from extes.study import forms, receipts
from extes.study.answering import Failed, both, release
from extes.study.assignment import assign
from extes.study.comparison import Comparison, fold
from extes.study.config import Study
from extes.study.forms import Distress, Refused
from extes.study.health import Bounds, Health
from extes.study.store import Exists, Store, StoreError
from extes.texts import texts

log = logging.getLogger(__name__)


class Conduct:
    """One study, one store, its arms."""

    def __init__(self, study: Study, store: Store, arms: Mapping[str, Arm], health: Health | None = None) -> None:
        self.study, self.store, self.arms = study, store, arms
        self._health = health or Health(store, Bounds())
        self._screen: Screen = screen("en")
        self._opening = asyncio.Lock()
        self._answering: dict[str, str] = {}  # by comparison, the message that is being answered
        if not any(e.body["hash"] == study.hash for e in store.events(kind="study")):
            store.append("study", {"hash": study.hash, "config": study.model_dump(mode="json"), "code": __version__})

    @property
    def ready(self) -> bool:
        return all(arm.ready for arm in self.arms.values())

    async def until_ready(self, arms: Iterable[Arm]) -> None:
        """Wait for models that are still loading, as long as for a reply. Raises :class:`Refused`."""
        waited = 0.0
        while not all(arm.ready for arm in arms):
            if waited > self.study.generation.deadline_seconds:
                raise Refused(texts()["problem"]["loading"])
            await asyncio.sleep(0.2)
            waited += 0.2

    async def start(self, consent: Any) -> dict[str, Any]:
        """Open a comparison. Returns its token, the situation and what to rate. Raises :class:`Refused`."""
        wanted = consent.get("scenario") if isinstance(consent, dict) else None
        if isinstance(wanted, str) and self._screen(wanted[: forms.MAX_SITUATION_CHARS]) == "crisis":
            raise Distress(texts()["stopped"]["safety"])  # before anything else is asked for
        given = forms.consent(consent)
        if why_not := await self.closed():
            raise Refused(why_not)
        token, rater = secrets.token_urlsafe(24), given.rater or secrets.token_urlsafe(24)
        situation = ""
        async with self._opening:  # one at a time here; the store settles it with another process
            while not situation:
                situation = await self._open(token, rater, given)
        return {"comparison": token, "rater": rater} | self._open_view(situation)

    async def _open(self, token: str, rater: str, given: forms.Consent) -> str:
        """Open at the next position; returns the situation, or nothing where another was faster: then try again.

        The stream is seeded with a word that never leaves the server: a study file is public, and with its seed alone a
        situation would tell its position, and the position the sides.
        """
        secret = self.store.pseudonym("assignment", f"{self.study.hash}/{self.study.generation.seed}")
        position = await self._kept(self.store.next_position, self.study.hash)
        arms = [arm.name for arm in self.study.arms]
        assignment = assign(secret, position, arms, [s.name for s in taxonomy.SCENARIOS])
        source = "drawn"
        if given.situation:
            source = "chosen" if given.situation in taxonomy.SCENARIO else "own"
        situation = given.situation or assignment.scenario
        body = {
            "study": self.study.hash,
            "study_name": self.study.name,
            "study_version": self.study.version,
            "code": __version__,
            "rater": self.store.pseudonym("rater", rater),
            "consent": {"hash": self.study.consent_hash, "publish_transcript": given.publish_transcript},
            "scenario": {"source": source, "text": situation},
            "assignment": {
                "position": assignment.position,
                "block": assignment.block,
                "sides": assignment.arms,
                "probability": assignment.probability,
                "stream": hashlib.sha256(secret.encode()).hexdigest()[:16],
            },
            "screen": self._screen.version,
        }
        try:
            await self._kept(self.store.append, "opened", body, comparison_id(token), position)
        except Exists:
            return ""
        return situation

    def _open_view(self, situation: str) -> dict[str, Any]:
        known = taxonomy.SCENARIO.get(situation)
        return {
            "scenario": situation,
            "scenario_definition": known.definition if known else "",
            "minimum_exchanges": self.study.minimum_exchanges,
            "maximum_exchanges": self.study.maximum_exchanges,
            "criteria": [c.model_dump(mode="json") for c in self.study.criteria],
        }

    async def view(self, token: Any) -> dict[str, Any]:
        """What a reloaded page needs to go on: situation, state, what was said and is being answered, or a refusal."""
        answering = dict(self._answering)  # as it was before looking: what is not in it any more, is found
        comparison = await self._find(token)
        return {
            **self._open_view(comparison.opened["scenario"]["text"]),
            "state": comparison.state,
            "exchanges": [{"message": e.message, **e.replies} for e in comparison.exchanges],
            "under_way": answering.get(comparison.id, ""),
        }

    async def say(self, token: Any, message: Any) -> AsyncIterator[dict[str, Any]]:
        """Send one message to both sides and release both replies. Raises :class:`Refused`; then nothing was stored.

        Yields ``{"a", "b", "finished"}``; the last may carry ``stopped`` (a reason and a text) or ``concern``.
        """
        text = forms.message(message, self.study)
        level = self._screen(text)
        if level == "crisis":  # before all that could stand against help: a lost comparison, a full disk
            await self._stop_for_safety(token)
            yield _stopped("safety")
            return
        comparison = await self._find(token)
        if comparison.state != "open":
            raise Refused("This comparison is closed. Please start another.")
        if len(comparison.exchanges) >= self.study.maximum_exchanges:
            raise Refused("That was the last message of this comparison. Please rate it now.")
        if comparison.id in self._answering:
            raise Refused("The last message is still being answered. Please wait a moment.")
        self._answering[comparison.id] = text
        try:
            yield {"a": "", "b": "", "finished": False}
            await self.until_ready(self.arms.values())
            number = len(comparison.exchanges) + 1
            try:
                replies = await both(self.study, self.arms, self._screen, comparison, text, number)
            except Failed as failure:
                log.warning("comparison %s is void: %s", comparison.id, failure.detail)
                await self._void(comparison, failure.reason, {"side": failure.side, "detail": failure.detail})
                yield _stopped(failure.reason)
                return
            details = {
                side: {k: v for k, v in asdict(reply).items() if k != "text"} | {"arm": comparison.sides[side]}
                for side, reply in replies.items()
            }
            body = {"message": text, "replies": {s: r.text for s, r in replies.items()}, "details": details}
            try:
                await self._kept(self.store.append, "exchanged", body, comparison.id, number)
            except Exists:
                raise Refused("This comparison went on or ended elsewhere. Please reload the page.") from None
        finally:
            del self._answering[comparison.id]
        concern = {"concern": True} if level == "concern" else {}
        async for frame in release(replies, self.study.generation.words_per_second):
            yield frame | concern

    async def rate(self, token: Any, rating: Any) -> dict[str, Any]:
        """Keep a rating; returns its receipt once it is on disk, and the reveal if the study allows.

        A comparison has one rating: asking again returns the same receipt. Raises :class:`Refused`; where the comment
        speaks of danger, :class:`Distress` with the way to help before the reason.
        """
        try:
            return await self._rate(token, rating)
        except Refused as error:
            comment = rating.get("comment") if isinstance(rating, dict) else None
            if isinstance(comment, str) and self._screen(comment[: self.study.max_comment_chars]) == "crisis":
                raise Distress(f"{texts()['compare']['comment_danger']} {error}") from None
            raise

    async def _rate(self, token: Any, rating: Any) -> dict[str, Any]:
        why_not = await self.closed()
        comparison = await self._find(token)
        if comparison.state == "open":
            if why_not:
                raise Refused(why_not)
            if (said := len(comparison.exchanges)) < self.study.minimum_exchanges:
                left = self.study.minimum_exchanges - said
                raise Refused(f"Please exchange at least {left} more message{'s' if left > 1 else ''} before rating.")
            if comparison.id in self._answering:
                raise Refused("The last message is still being answered. Please wait a moment.")
            given = forms.rating(rating, self.study)
            distress = self._screen(given.comment) == "crisis"
            body = {
                "answers": given.answers,
                "comment": "" if distress else given.comment,
                "comment_withheld": "safety" if distress else None,
                "exchanges": said,
                "receipt_hash": receipts.receipt_hash(receipts.receipt(token)),
            }
            try:
                await self._kept(self.store.append, "rated", body, comparison.id, said)
            except Exists:
                log.info("comparison %s was ended by a request beside this one", comparison.id)
            comparison = await self._find(token)
        if comparison.state == "open":
            raise Refused("The conversation went on while you were rating. Please look at it and rate again.")
        if comparison.state == "withdrawn":
            raise Refused("This rating was withdrawn.")
        if comparison.rated is None:
            raise Refused("This comparison ended without a rating. Please start another.")
        reveal = {s: self.study.arm(a).label for s, a in comparison.sides.items()} if self.study.reveal else None
        kept = {"receipt": self._receipt(token, comparison), "reveal": reveal}
        if comparison.rated.get("comment_withheld"):
            kept["help"] = texts()["compare"]["comment_withheld"]
        return kept

    async def leave(self, token: Any) -> dict[str, Any]:
        """End a comparison that its rater does not want to go on with; says why it ended. Raises :class:`Refused`.

        What has ended stays as it ended: a rated one is refused, of a void one the first reason is told. A paused study
        keeps nobody.
        """
        comparison = await self._find(token)
        if comparison.state == "open":
            await self._void(comparison, "left", {})
            comparison = await self._find(token)
        if comparison.state == "withdrawn":
            raise Refused("This rating was withdrawn.")
        if comparison.void_reason is None:
            raise Refused("This comparison is rated. Please reload the page; its receipt withdraws the rating.")
        return {"stopped": _told(comparison.void_reason)}

    async def withdraw(self, receipt: Any) -> dict[str, Any]:
        """Withdraw the rating that has this receipt. Raises :class:`Refused`."""
        if not isinstance(receipt, str) or len(receipt) > 100:
            raise Refused(texts()["withdraw"]["unknown"])
        outcome = await self._kept(receipts.withdraw, self.store, receipt)
        if outcome == "unknown":
            raise Refused(texts()["withdraw"]["unknown"])
        return {"withdrawn": True, "text": texts()["withdraw"][outcome]}

    async def closed(self) -> str:
        """Why no ratings are taken just now, in words for raters; empty if they are."""
        problem = await asyncio.to_thread(self._health.problem)
        return str(texts()["closed"][problem]) if problem else ""

    async def _find(self, token: Any) -> Comparison:
        known = None
        if isinstance(token, str) and 0 < len(token) <= 100 and token.isascii():
            known = fold(await self._kept(lambda: list(self.store.events(comparison=comparison_id(token)))))
        if known is None:
            raise Refused("This comparison is not known here. Please start a new one.")
        if known.opened["study"] != self.study.hash:
            raise Refused("The study has changed since this comparison began. Please start a new one.")
        return known

    async def _stop_for_safety(self, token: Any) -> None:
        """Void the comparison, if it is known and open, and if that can be stored."""
        try:
            comparison = await self._find(token)
            if comparison.state == "open":
                await self._void(comparison, "safety", {"screen": self._screen.version})
        except Refused as error:
            log.warning("a message in distress has voided nothing: %s", error)

    async def _void(self, comparison: Comparison, reason: str, more: dict[str, Any]) -> None:
        try:
            await self._kept(self.store.append, "voided", {"reason": reason} | more, comparison.id)
        except Exists:
            log.info("comparison %s was void already", comparison.id)

    async def _kept(self, call: Any, *args: Any) -> Any:
        """Run a call of the store off the event loop; an unhealthy store is told to the rater, not hidden."""
        try:
            return await asyncio.to_thread(call, *args)
        except StoreError as error:
            log.error("%s", error)
            raise Refused(texts()["problem"]["unhealthy"]) from error

    def _receipt(self, token: str, comparison: Comparison) -> str:
        assert comparison.rated is not None
        for receipt in (receipts.receipt(token), receipts.old_receipt(self.store, comparison.id)):
            if receipts.receipt_hash(receipt) == comparison.rated["receipt_hash"]:
                return receipt
        raise Refused(texts()["problem"]["receipt_gone"])


def comparison_id(token: str) -> str:
    """What is stored of a token: enough to find its comparison, too little to act on it."""
    return hashlib.sha256(token.encode()).hexdigest()[:24]


def _stopped(reason: str) -> dict[str, Any]:
    return {"a": "", "b": "", "finished": True, "stopped": _told(reason)}


def _told(reason: str) -> dict[str, str]:
    return {"reason": reason, "text": texts()["stopped"][reason]}

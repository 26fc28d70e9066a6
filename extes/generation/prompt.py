"""The text of a request, filled in from ``extes/resources/generation/prompt.toml``. Pure; knows nothing of HTTP."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from extes import taxonomy
from extes.dialogue import Dialogue

_DATA = tomllib.loads((files("extes") / "resources" / "generation" / "prompt.toml").read_text(encoding="utf-8"))

VERSION: str = _DATA["version"]
_NAMES = "\n".join(f"- {s.name}: {s.definition}" for s in taxonomy.STRATEGIES)
SYSTEM = Template(_DATA["system"].strip()).substitute(strategies=_NAMES)
_TASK = Template(_DATA["task"].strip())
_EXAMPLE = Template(_DATA["example"])


def draw_angles(rng: random.Random) -> tuple[str, ...]:
    """One of each list of angles: who the seeker is, where, and in what manner they talk."""
    return tuple(rng.choice(choices) for choices in _DATA["angle"].values())


def example(dialogue: Dialogue, rung: str) -> str:
    """A dialogue as an example, in the form the rung asks for."""
    if rung == "text":
        lines = [f"description: {dialogue.description}"]
        for t in dialogue.turns:
            lines.append(
                f"Seeker: {t.text}" if t.speaker == "seeker" else f"Supporter [{t.strategy or 'Others'}]: {t.text}"
            )
        return "\n".join(lines)
    turns = [
        {
            "speaker": t.speaker,
            "strategy": (t.strategy or "Others") if t.speaker == "supporter" else None,
            "text": t.text,
        }
        for t in dialogue.turns
    ]
    return json.dumps({"description": dialogue.description, "turns": turns}, ensure_ascii=False)


def messages(
    scenario: str, examples: Sequence[tuple[str, str]], strategies: Sequence[str], angles: Sequence[str], rung: str
) -> list[dict[str, str]]:
    """Chat messages of a request. ``examples`` are (scenario, text) pairs as made by :func:`example`."""
    parts = [_EXAMPLE.substitute(number=n, scenario=of, body=body) for n, (of, body) in enumerate(examples, 1)]
    parts.append(
        _TASK.substitute(
            scenario=scenario,
            definition=taxonomy.SCENARIO[scenario].definition,
            wanted=", ".join(strategies) or "whichever fit",
            angles="; ".join(angles),
            form=_DATA["form"][rung].strip(),
        )
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]

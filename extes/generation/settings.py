"""What shapes the content of a pool, as one value. Knows nothing of money, pressure, files or the terminal.

Two runs with equal settings and equal seeds make the same requests in the same order. Whatever only changes how fast
or how dear that is (``--concurrency``, ``--budget``, ``--prices``, ``--batch``, time limits) is not in here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from extes import taxonomy
from extes.dialogue import Dialogue, content_hash
from extes.generation import checks, drift, prompt, quota
from extes.generation.errors import Stop


def _versions() -> dict[str, str]:
    return {
        "taxonomy": taxonomy.VERSION,
        "prompt": prompt.VERSION,
        "checks": checks.VERSION,
        "drift": drift.VERSION,
    }


@dataclass(frozen=True)
class Settings:
    """The settings of a run; written into the pool's log, so a change of any of them starts a new run there.

    ``target`` counts accepted dialogues and candidates. ``round_size`` is the number of requests planned together:
    round n is planned from the pool as it was after round n - 2, so that one round is always under way.
    ``weights`` is the wanted mix of scenarios. ``give_up`` ends a run after so many slots in a row that were not kept.
    """

    base_url: str
    model: str
    target: int
    seed: int = 0
    policy: str = "balanced"
    exemplars: int = 3
    round_size: int = 128
    temperature: float = 1.0
    max_tokens: int = 4096
    limit_field: str = "max_tokens"
    auto_accept: bool = False
    on_drift: str = "seeds-only"
    give_up: int = 60
    seeds: str = ""
    weights: dict[str, float] = field(default_factory=lambda: quota.weights("paper"))
    versions: dict[str, str] = field(default_factory=_versions)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# The first round only finds out which form of output the server gives; nothing else is sent until it is back.
PROBE = 4


def server_identity(base_url: str) -> str:
    """The endpoint's address as it enters settings and cache keys: no trailing slash, no query, user or password."""
    try:
        parts = urlsplit(base_url.strip())
        if parts.query or parts.fragment:  # not shown: it may hold a key
            raise Stop("--base-url: give the address without what follows ? or #; a key belongs in OPENAI_API_KEY")
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is none
        good = False
    if not good:
        raise Stop(f"--base-url {base_url}: give an address such as http://localhost:8000/v1")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def seeds_hash(seeds: Sequence[Dialogue]) -> str:
    """16 hex digits that identify a set of seeds by id and content."""
    lines = sorted(f"{s.id} {content_hash(s.scenario, s.turns)}" for s in seeds)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

"""Where ratings go: the environment first, then the study file. The token comes from the environment alone."""

from __future__ import annotations

import os
import re

from extes.collection.remote import Dataset
from extes.errors import Problem
from extes.study.config import Study
from extes.study.health import Bounds


def dataset(study: Study) -> Dataset | None:
    """The dataset that this portal sends to, or none. Raises :class:`Problem` for what cannot be meant."""
    repo = os.environ.get("EXTES_RATINGS_REPO") or study.hub.ratings
    visibility = os.environ.get("EXTES_RATINGS_VISIBILITY") or study.hub.visibility
    if repo and visibility not in ("private", "public"):
        raise Problem(f"EXTES_RATINGS_VISIBILITY is {visibility!r}; it is private (complete) or public (redacted)")
    return named(repo, visibility == "public")


def named(repo: str, public: bool) -> Dataset | None:
    """The dataset called ``repo``, or none without a name. The environment gives the token and decides nothing else."""
    if not repo:
        return None
    from huggingface_hub import get_token

    token = get_token() or ""
    if not token:
        raise Problem(f"ratings should go to {repo}, but there is no token: set HF_TOKEN to one with write access")
    if not re.fullmatch("[!-~]+", token):  # a client would quote it whole in its complaint
        raise Problem("HF_TOKEN has characters that no token has (spaces, control characters): copy it again")
    return Dataset(repo, public, token)


def bounds(study: Study) -> Bounds:
    return Bounds(study.hub.max_backlog, study.hub.min_free_megabytes * 1_000_000)

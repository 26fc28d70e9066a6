"""Receipts: what a rater gets once a rating is durable, and the way back from one. Knows the store, no page.

A receipt is computed from the comparison's token, which only the rater has; stored is a hash of it. So neither the log
nor the loss or destruction of the pseudonym key can tell a receipt, and a receipt always finds its rating.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from extes.study.store import Exists, Store

CHARACTERS = 16


def receipt(token: str) -> str:
    """Four times four hex digits, like 1A2B-3C4D-5E6F-7A8B."""
    return _form(hashlib.sha256(f"receipt/{token}".encode()).hexdigest())


def old_receipt(store: Store, comparison: str) -> str:
    """As the first version computed it, with the pseudonym key; raters hold such receipts."""
    return _form(store.pseudonym("receipt", comparison))


def receipt_hash(receipt: str) -> str:
    """What is stored of a receipt, however it was typed."""
    return hashlib.sha256(_form(receipt).encode()).hexdigest()


def _form(text: str) -> str:
    code = "".join(c for c in text.upper() if c.isalnum())[:CHARACTERS]
    return "-".join(code[i : i + 4] for i in range(0, len(code), 4))


def withdraw(store: Store, receipt: str) -> Literal["withdrawn", "before", "unknown"]:
    """Take the rating with this receipt out of every later export, push and count."""
    wanted = receipt_hash(receipt) if sum(c.isalnum() for c in receipt) == CHARACTERS else ""
    event = store.rated(wanted) if wanted else None
    if event is None:
        return "unknown"
    try:
        store.append("withdrawn", {"receipt_hash": wanted}, event.comparison)
    except Exists:
        return "before"
    return "withdrawn"

"""Mean KL by kind of token, and the page that colours replies token by token."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..training.token_kl import KINDS


def by_kind(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each kind that occurs, and for all tokens together: their number, mean KL before and after in nats, and the
    kind's share of all KL before."""
    tokens = [token for row in rows for token in zip(row["kinds"], row["before"], row["after"], strict=True)]
    whole = sum(before for _, before, _ in tokens if before is not None)
    table = []
    for kind in (*KINDS, "all"):
        chosen = [(before, after) for k, before, after in tokens if kind in (k, "all") and None not in (before, after)]
        if chosen:
            before, after = (sum(values) / len(chosen) for values in zip(*chosen, strict=True))
            share = len(chosen) * before / whole if whole else 0.0
            table.append({"kind": kind, "tokens": len(chosen), "before": before, "after": after, "share": share})
    return table


def page(title: str, rows: Sequence[Mapping[str, Any]], questions: Mapping[str, str]) -> str:
    """The HTML page: rows as `measure` gives them, and each pair's question by its id.

    Whatever a model wrote is data in it, never markup: one JSON block with every `<` escaped, read by a script that
    only sets text. The page's own policy allows that one script and style by their hashes, and nothing
    from anywhere else.
    """
    template = Path(__file__).with_name("token_page.html").read_text(encoding="utf-8")
    data = {
        "title": title,
        "kinds": by_kind(rows),
        "pieces": {token: text for row in rows for token, text in row["pieces"].items()},
        "pairs": [
            {
                **{key: value for key, value in row.items() if key != "pieces"},
                "question": questions.get(row["pair"], ""),
            }
            for row in rows
        ],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        assert inside is not None
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        template = template.replace(f"{tag}-hash", f"sha256-{digest}")
    head, tail = template.split("@DATA@")
    return head + text + tail

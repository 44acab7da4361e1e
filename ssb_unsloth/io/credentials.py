"""Passwords and keys, as they stand in URLs and in the environment: seen, refused and masked."""

from __future__ import annotations

import os
import re

from ..errors import UserError

MASK = "***"
_USER = re.compile(r"(?<=:/)(/?)[^\s/'\"<>][^\s'\"<>]*@")  # of https://user:password@host; a Path has one slash
_NAMES = "key|token|pass|pwd|secret|auth|signature|credential"  # ?api_key=... and its like
_KEY = re.compile(rf"(?i)([?&;#][\w.%-]*(?:{_NAMES})[\w.%-]*=)[^&;#\s'\"<>]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=Bearer )\S+")
VARIABLES = ("VLLM_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
SHORTEST = 8  # a shorter value of a variable may be an ordinary word


def has_credentials(text: str) -> bool:
    """Whether a URL in the text carries a user's name, a password or a key."""
    return bool(_USER.search(text) or (":/" in text and _KEY.search(text)))


def holds_token(text: str) -> bool:
    """Whether a token of the hub's, or a secret of the environment, stands in the text."""
    own = (os.environ.get(name, "") for name in VARIABLES)
    return bool(_TOKEN.search(text)) or any(len(secret) >= SHORTEST and secret in text for secret in own)


def masked(text: str) -> str:
    """The text with every password and key replaced, those of the environment included."""
    for name in VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= SHORTEST:
            text = text.replace(secret, MASK)
    text = _TOKEN.sub(MASK, text)
    if ":/" not in text:
        return text
    return _KEY.sub(rf"\g<1>{MASK}", _USER.sub(rf"\g<1>{MASK}@", text))


def refuse_credentials(text: str, key: str) -> None:
    """Raises UserError where the text, which `key` names, is a URL with a password or a key in it."""
    if has_credentials(text):
        raise UserError(
            f"{key}: the URL carries a password or a key, which would stand in files and messages; leave it out (a"
            " vLLM server's key is read from VLLM_API_KEY, the hub's from HF_TOKEN)."
        )

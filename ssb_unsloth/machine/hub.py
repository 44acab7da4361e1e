"""What can be known of the hub without its library: the cache's files, whether it answers, whether there is a token.

Standard library only, so that it can be asked before anything is installed. The variables are huggingface_hub's own. A
token's value is sent to the hub in a request's header, and never shown.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

YES = {"1", "true", "yes", "on"}


def offline() -> bool:
    """Whether the user has told the libraries to stay off the network."""
    return any(os.environ.get(name, "").lower() in YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser()


def cache_folder() -> Path:
    return Path(os.environ.get("HF_HUB_CACHE") or home() / "hub").expanduser()


def token() -> str | None:
    """The user's token, from where huggingface_hub looks for it."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return os.environ[name].strip()
    path = Path(os.environ.get("HF_TOKEN_PATH") or home() / "token").expanduser()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def cached(name: str, revision: str | None = None, kind: str = "models") -> Path | None:
    """The cache's folder with the files of a model ("models") or data set ("datasets"), None if it is not there."""
    folder = cache_folder() / f"{kind}--{name.replace('/', '--')}"
    try:
        commit = (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision or ""
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() and any(snapshot.iterdir()) else None


def has_weights(name: str, revision: str | None = None) -> bool:
    """Whether the cache holds a model's weights, and not its config alone."""
    folder = cached(name, revision)
    return folder is not None and any(folder.glob("*.safetensors"))


class HubError(Exception):
    """The hub did not give what was asked for. `status` is HTTP's, or None where there was no answer at all."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


def get_json(path: str, seconds: float = 5) -> Any:
    """The JSON at that path of the hub.

    Raises:
        HubError: no answer, a refusal, or no JSON.
    """
    request = urllib.request.Request(f"{endpoint()}/{path}", headers={"User-Agent": "ssb_unsloth"})
    secret = token()
    if secret:
        request.add_unredirected_header("Authorization", f"Bearer {secret}")
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise HubError(f"{endpoint()} answers {error.code} {error.reason}", error.code) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise HubError(f"{endpoint()} does not answer ({reason})") from None

"""LoRA adapters on servers, by vLLM's own interface (/v1/load_lora_adapter), which a server has to allow.

An adapter is served under a name made of what it holds, so that nobody's adapter of the same name, nor this one before
it was trained anew, is taken for it; and vLLM's cache of prefixes, which it keeps by that name, is never another's.
"""

from __future__ import annotations

import hashlib
import re

from ...errors import UserError
from ..adapters import WEIGHTS
from ..dispatch import Refused
from ..sampler import Adapter
from ..sources import adapter_config, highest_rank
from .endpoint import AGAIN, Endpoint

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
LASTS = AGAIN - {500}  # vLLM's answer to an adapter that it cannot put on


def served_name(adapter: Adapter) -> str:
    """The same for the same content, whatever its folder."""
    held = hashlib.sha256()
    for name in ("adapter_config.json", WEIGHTS):
        with (adapter.path / name).open("rb") as file:
            held.update(hashlib.file_digest(file, "sha256").digest())
    return f"ssb-{re.sub(r'[^A-Za-z0-9_.-]', '-', adapter.name)}-{held.hexdigest()[:16]}"


def load(endpoint: Endpoint, model: str, name: str, adapter: Adapter) -> bool:
    """Have the server load the adapter under that name. Returns whether it has: another run may have done it.

    Raises:
        UserError: it does not allow that, does not see the folder, or cannot put the adapter on.
        Unavailable: it does not answer.
    """
    path = adapter.path.resolve()
    try:
        endpoint.tell(LOAD, {"lora_name": name, "lora_path": str(path)}, LASTS)
    except Refused as error:
        if "already been loaded" in error.said:
            return False
        if error.status == 404 and name in error.said:
            raise UserError(
                f"{endpoint.root} finds no adapter at {path}: a server reads adapters from its own disk, so keep the"
                " run folder where it lies at the same path for all servers."
            ) from None
        rank = highest_rank(adapter_config(adapter.path))
        why = "does not let adapters be loaded" if error.status in (404, 405) else "cannot put an adapter on"
        raise UserError(
            f"{endpoint.root} {why} ({error.said}); start it with: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve"
            f" {model} --enable-lora --max-lora-rank {rank}"
        ) from None
    return True


def unload(endpoint: Endpoint, name: str) -> None:
    """Raises Unavailable where the server does not answer, and Refused where it has no such adapter."""
    endpoint.tell(UNLOAD, {"lora_name": name}, LASTS)

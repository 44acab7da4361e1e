"""What others have made and shared: a file, a folder, or a data set on the hub, as `ssb push --what` writes it.

`curate.pairs_file`, `curate.rollouts_file` and `teach.targets_from` name it; only what a key reads is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..io.files import local

ROLLOUTS = "rollouts.jsonl"


def local_path(source: str, key: str) -> Path | None:
    """Where it lies, if that is on this machine; None for a name on the hub. `key` names it, for messages."""
    path = local(source, key)
    if path.exists() or source.startswith((".", "/", "~")) or path.suffix in (".jsonl", ".gz"):
        return path
    return None


def found(source: str, key: str, patterns: Sequence[str]) -> Path:
    """The file or folder; of a data set on the hub a folder with those of its files that match `patterns`.

    Raises:
        UserError: it is neither here nor on the hub, or the hub does not give it.
    """
    path = local_path(source, key)
    if path is None:
        return _fetched(source, key, patterns)
    if not path.exists():
        raise UserError(f"{key}: {path}: no such file or folder.")
    return path


def _fetched(name: str, key: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises many kinds: offline, gated, no such name
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{key}: data set {name!r} cannot be loaded: {reason} Check the name and the network, or give a local file"
            " or folder."
        ) from None


def rollouts_file(source: str) -> Path:
    """The file of rollouts that `curate.rollouts_file` names: itself, or the one of a folder or a data set on the hub.

    Raises:
        UserError: as `found`; or a folder holds no such file, or several that could be it.
    """
    key = "curate.rollouts_file"
    path = found(source, key, ["*.jsonl"])
    if not path.is_dir():
        return path
    if (path / ROLLOUTS).is_file():
        return path / ROLLOUTS
    files = sorted(path.glob("*.jsonl"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise UserError(f"{key}: {path}: expected {ROLLOUTS}, or one .jsonl file; found {names}.")
    return files[0]

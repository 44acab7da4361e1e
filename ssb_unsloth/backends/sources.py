"""Where models and adapters are loaded from: the pocket, a folder, the hub; and what to say where they cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.files import local, read_object
from ..machine.hub import endpoint
from ..pocket import model_folder
from ..recipe.schema import LORA_RANKS, ModelConfig
from .sampler import Adapter

# The files of a model's weights, in the order in which transformers looks for them; an index names several.
WEIGHTS = tuple(
    f"{name}{index}" for name in ("model.safetensors", "pytorch_model.bin") for index in ("", ".index.json")
)


def model_path(model: ModelConfig) -> str:
    """The hub id or folder that the libraries load; "pocket" is the folder within the package.

    Raises:
        UserError: a local path without a config.json.
    """
    if (folder := model_folder(model.name)) is not None:
        return str(folder)
    path = local(model.name, "model.name")
    if path.exists():
        if not (path / "config.json").is_file():
            raise UserError(f"model.name: {path} holds no config.json, so it is no model folder.")
        return str(path)
    if model.name.startswith((".", "/", "~")):
        raise UserError(f"model.name: {model.name}: no such folder.")
    return model.name


def weight_files(model: ModelConfig) -> list[Path]:
    """The model's config.json and the files of its weights, in a fixed order; fetched where they are not here.

    Raises:
        UserError: there are none, or the hub does not give them.
    """
    from transformers.utils.hub import cached_file

    def file(name: str) -> Path | None:
        named = cached_file(
            model_path(model), name, revision=model.revision, _raise_exceptions_for_missing_entries=False
        )
        return Path(named) if named is not None else None

    try:
        names = ["config.json", next((name for name in WEIGHTS if file(name) is not None), WEIGHTS[0])]
        if (index := file(names[1])) is not None and index.suffix == ".json":
            names[1:] = sorted(set(read_object(index).get("weight_map", {}).values()))
        files = [file(name) for name in names]
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {model.name!r}", model, error) from None
    if None in files:
        raise UserError(f"model.name: {model.name} has no {names[files.index(None)]}.")
    return [path for path in files if path is not None]


def in_folder(model: ModelConfig, folder: Path) -> ModelConfig:
    """The model that was saved there, made of `model`. Its tokenizer has the template that was chosen, and no others to
    choose from."""
    return replace(model, name=str(folder), revision=None, chat_template=None)


def unloadable(what: str, model: ModelConfig, error: Exception | str) -> UserError:
    """What to say of a model that transformers cannot load, with the remedy for each way in which the hub says no."""
    said = str(error) or type(error).__name__
    remedy = ""
    if "gated repo" in said:
        remedy = f"Accept its licence at {endpoint()}/{model.name}, then `hf auth login` or set HF_TOKEN."
    elif "valid git identifier" in said or "Revision Not Found" in said:
        remedy = f"Correct model.revision (now {model.revision})."
    elif "valid model identifier" in said or "Repository Not Found" in said:
        remedy = "Correct model.name; if the model is private, `hf auth login` or set HF_TOKEN."
    elif "Could not detect config format" in said:
        remedy = "Correct model.name: there is no config.json."
    elif "connect" in said or "outgoing traffic" in said or "offline mode" in said:
        remedy = "Connect, set HF_ENDPOINT to a mirror, or copy the model here and name its folder in model.name."
    return UserError(f"{what} cannot be loaded: {said.splitlines()[0].rstrip('.')}. {remedy}".rstrip())


def adapter_path(source: str, key: str, max_rank: int) -> Path:
    """The folder of a LoRA adapter in PEFT's format, fetched from the hub where it is no local one.

    `key` is the recipe's key that names it, `max_rank` the sampler's.

    Raises:
        UserError: there is none, it is a pickle, or its rank is above what the sampler is set up for.
    """
    path = local(source, key)
    if not path.exists():
        if source.startswith((".", "/", "~")):
            raise UserError(f"{key}: {source}: no such folder.")
        from huggingface_hub import snapshot_download

        try:
            path = Path(snapshot_download(source, allow_patterns=["adapter_config.json", "*.safetensors"]))
        except Exception as error:  # the hub client raises many kinds: offline, gated, no such name
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{key}: {source!r} cannot be loaded: {reason} Check the name and the network, or give a local folder."
            ) from None
    rank = highest_rank(adapter_config(path, key))
    if not (path / "adapter_model.safetensors").is_file():
        raise UserError(f"{key}: {source} holds no adapter_model.safetensors; an adapter as a pickle is not read.")
    if rank > max_rank:
        raise UserError(f"{key}: its rank {rank} is above sampler.max_lora_rank ({max_rank}); raise the latter.")
    return path


def adapter_config(folder: Path, key: str = "adapter") -> dict[str, Any]:
    """The adapter_config.json of a LoRA adapter, with a rank `r` above 0.

    Raises:
        UserError: there is none, or it is not one of a LoRA adapter; `key` names the folder's place.
    """
    try:
        config = read_object(folder / "adapter_config.json")
    except UserError as error:
        raise UserError(f"{key}: {folder} holds no readable adapter_config.json: {error}") from None
    rank = config.get("r")
    if type(rank) is not int or not 0 < rank < 2**31:
        raise UserError(
            f"{key}: {folder} holds no adapter_config.json with a rank r above 0, so it is no LoRA adapter."
        )
    return config


def highest_rank(config: dict[str, Any]) -> int:
    """Of all the modules of an adapter: `rank_pattern` may give some another rank than `r`."""
    pattern = config.get("rank_pattern")
    others = pattern.values() if isinstance(pattern, dict) else ()
    return max(config["r"], *(rank for rank in others if type(rank) is int), 0)


def check_rank(adapter: Adapter, most: int) -> None:
    """Raises UserError if the adapter's rank is above what the server was started for."""
    rank = highest_rank(adapter_config(adapter.path))
    if rank > most:
        fitting = next((limit for limit in LORA_RANKS if limit >= rank), rank)
        raise UserError(
            f"{adapter.path}: an adapter of rank {rank}, above sampler.max_lora_rank ({most}); set"
            f" sampler.max_lora_rank={fitting}."
        )

"""Targets that were made elsewhere (`teach.targets_from`): what they belong to, and how they become the teach stage's.

Beside the store lies `origin.json`, which `ssb push --what targets` writes:

    model, tokenizer        which teacher: a hash of config and weights, of vocabulary and chat template
    prompts, teach, ...     the keys that decide what it is shown and what is kept of it
    replies, contexts       hashes of the reply tokens, and of all that the teacher read, in their order
    files                   size and SHA-256 of each file of the store

Targets are taken where all of it is this recipe's, and their bytes are then the stage's: whoever trains on them trains
as if the teacher had run here. Everything is looked at before the first byte is written.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..backends.chat_template import render
from ..backends.classes import config_of
from ..backends.sources import unloadable, weight_files
from ..errors import UserError
from ..io.files import is_finite, read_object
from ..prompts import student_messages
from ..recipe.schema import ModelConfig, PromptsConfig, Recipe, TeachConfig
from ..run import manifests
from .collator import Example
from .targets import INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = "teach.targets_from"
ORIGIN = "origin.json"
PATTERNS = (ORIGIN, INDEX, "*.safetensors")  # what of a data set is fetched
FORMAT = 1
SHARD = re.compile(r"targets-\d{5,}\.safetensors")
QUESTION = "Mia has 12 shells and gives 5 of them to Tom. How many has she left?"
TOLD = ("backend", "mean_mass", "least_mass", "mass_temperature")  # of the teach stage's summary
WITHOUT = "or leave the key out, and the teacher runs here."
TENSORS = {  # of each kind: a pair's tensors
    "hidden": ("hidden",),
    "logits": ("logits",),
    "top_k": ("values", "indices", "log_tail"),
    "one_hot": ("words",),
}


# -- What targets belong to


def settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's keys that decide its targets, by their names, but for the model's name."""
    teach, prompts = asdict(recipe.teach), asdict(recipe.prompts)
    del teach["targets_from"]
    if recipe.teach.targets != "top_k":  # which alone reads it
        del teach["top_k"]
    found = {f"model.{key}": getattr(recipe.model, key) for key in ("dtype", "quantization")}
    found |= {f"prompts.{key}": value for key, value in prompts.items()}
    found |= {f"teach.{key}": value for key, value in teach.items()}
    if recipe.teach.targets == "top_k":  # a tail belongs to one temperature of the teacher
        found["train.kd_temperature / train.sharpen"] = recipe.train.teacher_temperature
    return found


def model_identity(model: ModelConfig) -> str:
    """A hash of the model's config and weights, wherever they lie and whatever the model is called.

    Raises:
        UserError: they cannot be had.
    """
    config, *weights = weight_files(model)
    read = read_object(config)
    for key in ("_name_or_path", "transformers_version"):  # who wrote it, and where it lay
        read.pop(key, None)
    known = manifests.hashes(weights, "hash the weights")
    for path, found in known.items():
        if isinstance(found, OSError):
            raise UserError(f"{path}: cannot be read ({found.strerror}).")
    return manifests.digest([read, [known[path] for path in weights]])


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the vocabulary, and of a question under the chat template."""
    return manifests.digest([sorted(tokenizer.get_vocab().items()), render(tokenizer, student_messages(QUESTION))])


def hidden_size(model: ModelConfig) -> int:
    try:
        return int(config_of(model).get_text_config().hidden_size)
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {model.name!r}", model, error) from None


@dataclass(frozen=True)
class Examples:
    """What of the taught examples tells targets of other ones."""

    lengths: dict[str, int]  # reply tokens of each, by its id
    replies: str  # hash of their ids and reply tokens
    contexts: str  # hash of all that the teacher reads before the replies

    @classmethod
    def of(cls, examples: Iterable[Example], teach: TeachConfig) -> Examples:
        lengths, replies, contexts = {}, hashlib.sha256(), hashlib.sha256()
        for one in examples:
            lengths[one.id] = len(one.reply_ids)
            replies.update(json.dumps([one.id, one.reply_ids]).encode())
            bare = one.student_ids if teach.guidance is not None or teach.window is not None else []
            contexts.update(json.dumps([one.teacher_ids, one.unhinted_ids, bare]).encode())
        return cls(lengths, replies.hexdigest(), contexts.hexdigest())


def origin(
    recipe: Recipe,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterable[Example],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """What is written beside targets that are shared. `name`: how the model is called for others; `manifest`: of the
    teach stage that made them.
    """
    made = Examples.of(examples, recipe.teach)
    return {
        "format": FORMAT,
        "model": {"name": name, "revision": recipe.model.revision, "identity": model_identity(recipe.model)},
        "tokenizer": tokenizer_identity(tokenizer),
        "hidden_size": hidden_size(recipe.model),
        "settings": settings(recipe),
        "count": len(made.lengths),
        "replies": made.replies,
        "contexts": made.contexts,
        "told": {key: value for key, value in manifest["summary"].items() if key in TOLD},
        "files": {
            file: {"bytes": manifest["sizes"][file], "sha256": known} for file, known in manifest["files"].items()
        },
    }


# -- Whether they are this recipe's


class Published:
    """A folder with shared targets. `source`: as the recipe names it, for messages."""

    def __init__(self, folder: Path, source: str) -> None:
        """Raises UserError where it holds no origin.json, or one that is not as `ssb push` writes it."""
        self._folder, self._source = folder, source
        if not (folder / ORIGIN).is_file():
            raise self._refusal(f"holds no {ORIGIN}, so it is not what `ssb push --what targets` writes.")
        self._origin = read_object(folder / ORIGIN)
        if self._origin.get("format") != FORMAT:
            raise self._refusal(
                f"{ORIGIN} is of format {self._origin.get('format')!r}, and this version reads {FORMAT}."
            )
        if not _has_the_shape(self._origin):
            raise self._refusal(f"{ORIGIN} is damaged, or was not written by `ssb push`; fetch it again.")

    def check_settings(self, recipe: Recipe) -> None:
        """What the recipe alone tells. Raises UserError for the first key that the targets were not made with."""
        defaults = {f"teach.{key}": value for key, value in asdict(TeachConfig()).items()}
        defaults |= {f"prompts.{key}": value for key, value in asdict(PromptsConfig()).items()}
        made, wanted = self._origin["settings"], json.loads(json.dumps(settings(recipe)))
        for key in dict.fromkeys([*wanted, *made]):
            theirs, ours = (some.get(key, defaults.get(key)) for some in (made, wanted))
            if theirs != ours:
                raise self._refusal(
                    f"made with {key} {_shown(theirs)}, and the recipe says {_shown(ours)}; set it so, {WITHOUT}"
                )

    def check_model(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises UserError where another model has taught, or read by another tokenizer."""
        model, made = recipe.model, self._origin["model"]
        theirs, ours = (
            f"{name}{f' of revision {revision}' if revision else ''}"
            for name, revision in ((made["name"], made["revision"]), (model.name, model.revision))
        )
        if (hidden := hidden_size(model)) != self._origin["hidden_size"]:
            raise self._refusal(
                f"made by {theirs}, whose hidden states have {self._origin['hidden_size']:,} numbers, and those of"
                f" model.name ({ours}) {hidden:,}; take that model, {WITHOUT}"
            )
        if tokenizer_identity(tokenizer) != self._origin["tokenizer"]:
            raise self._refusal(
                f"made by {theirs} with another tokenizer or chat template than that of model.name ({ours}); take that"
                f" model, revision and template, {WITHOUT}"
            )
        if model_identity(model) != made["identity"]:
            raise self._refusal(
                f"made by {theirs}, whose weights or config are others than those of model.name ({ours}); take that"
                f" model and revision, {WITHOUT}"
            )

    def check_examples(self, examples: Examples) -> None:
        """Raises UserError where the teacher has seen other replies, or others' contexts."""
        if examples.replies != self._origin["replies"]:
            raise self._refusal(
                f"made for {self._origin['count']:,} other replies than the {len(examples.lengths):,} of this recipe's"
                " curate stage; give the pairs that they belong to by curate.pairs_file (or the rollouts, by"
                f" curate.rollouts_file), {WITHOUT}"
            )
        if examples.contexts != self._origin["contexts"]:
            raise self._refusal(
                "the teacher has read other prompts for the same replies (questions, hints or the template differ);"
                f" take the pairs that they belong to, {WITHOUT}"
            )

    def check_files(self, examples: Examples, recipe: Recipe) -> None:
        """Every byte, and whether the tensors are those of the examples. Raises UserError for a file that is missing,
        damaged, or holds something else.
        """
        self._check_bytes()
        index = read_index(self._folder)
        if index is None or index.keys() - {"targets", "temperature", "starts", "shards"}:
            raise self._refusal(f"{INDEX} is not that of targets; fetch it again.")
        if index["shards"].keys() != examples.lengths.keys():
            raise self._refusal(f"{INDEX} names other replies than {ORIGIN} does; fetch both again.")
        starts = index.get("starts", {})
        if any(type(s) is not int or not 0 <= s <= examples.lengths.get(name, -1) for name, s in starts.items()):
            raise self._refusal(f"{INDEX} lets a reply count from a token that it has not; fetch it again.")
        kind, known = recipe.teach.targets, self._origin["files"].keys() - {INDEX}
        made_at = recipe.train.teacher_temperature if kind == "top_k" else None
        if (index["targets"], index.get("temperature")) != (kind, made_at) or set(index["shards"].values()) - known:
            raise self._refusal(f"{INDEX} is not that of the files that {ORIGIN} names; fetch both again.")
        of: dict[str, list[str]] = {}
        for name, shard in index["shards"].items():
            of.setdefault(shard, []).append(name)
        for shard, names in of.items():
            self._check_shard(shard, names, examples.lengths, recipe)

    def _check_bytes(self) -> None:
        same: dict[Path, str] = {}
        for name, known in self._origin["files"].items():
            path = self._folder / name
            if not path.is_file():
                raise self._refusal(f"{name} is missing; fetch it again.")
            if (size := path.stat().st_size) != known["bytes"]:
                raise self._refusal(f"{name} has {size:,} bytes, not {known['bytes']:,}; fetch it again.")
            same[path] = known["sha256"]
        for path, found in manifests.hashes(list(same), "verify targets").items():
            if isinstance(found, OSError):
                raise self._refusal(f"{path.name} cannot be read ({found.strerror}).")
            if found != same[path]:
                raise self._refusal(f"{path.name} is damaged: its SHA-256 is not that of {ORIGIN}; fetch it again.")

    def _check_shard(self, shard: str, names: list[str], lengths: Mapping[str, int], recipe: Recipe) -> None:
        text, teach = config_of(recipe.model).get_text_config(), recipe.teach
        width = {"hidden": text.hidden_size, "logits": text.vocab_size, "values": teach.top_k, "indices": teach.top_k}
        try:
            with safe_open(self._folder / shard, framework="pt") as file:
                held = set(file.keys())
                for name in names:
                    for tensor in TENSORS[teach.targets]:
                        key = f"{name}.{tensor}"
                        shape = [lengths[name], *([width[tensor]] if tensor in width else [])]
                        found = file.get_slice(key).get_shape() if key in held else "no tensor"
                        if found != shape:
                            raise self._refusal(
                                f"{shard}: {key} is {found}, and this model and its reply want {shape}; fetch it again,"
                                f" {WITHOUT}"
                            )
                        if tensor in ("indices", "words"):
                            words = file.get_tensor(key)
                            if words.min() < 0 or words.max() >= text.vocab_size:
                                raise self._refusal(f"{shard}: {key} names words that the model does not have.")
        except SafetensorError as error:
            raise self._refusal(f"{shard} is no safetensors file ({error}); fetch it again.") from None

    def copy(self, into: Path) -> dict[str, Any]:
        """The files of the store, byte for byte. Returns what the stage that made them told of them."""
        for name in self._origin["files"]:
            shutil.copyfile(self._folder / name, into / name)
        return dict(self._origin["told"])

    def _refusal(self, why: str) -> UserError:
        return UserError(f"{KEY}: {self._source}: {why}")


def read_index(folder: Path) -> dict[str, Any] | None:
    """The store's index; None where it is none."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(index, dict) or not isinstance(index.get("shards"), dict):
        return None
    tables = isinstance(index.get("starts", {}), dict) and all(isinstance(s, str) for s in index["shards"].values())
    return index if tables and isinstance(index.get("targets"), str) else None


def _has_the_shape(found: Mapping[str, Any]) -> bool:
    """Whether all of origin.json is there, and names no files but those of a store."""
    model, files, told = found.get("model"), found.get("files"), found.get("told")
    if not all(isinstance(one, dict) for one in (model, files, told, found.get("settings"))):
        return False
    assert isinstance(model, dict)
    assert isinstance(files, dict)
    assert isinstance(told, dict)
    texts = [
        model.get("name"),
        model.get("identity"),
        *(found.get(key) for key in ("tokenizer", "replies", "contexts")),
    ]
    named = all(name == INDEX or SHARD.fullmatch(name) for name in files) and INDEX in files
    sealed = all(
        isinstance(one, dict) and type(one.get("bytes")) is int and isinstance(one.get("sha256"), str)
        for one in files.values()
    )
    numbers = type(found.get("hidden_size")) is int and type(found.get("count")) is int
    figures = [value for key, value in told.items() if key != "backend"]
    revised = "revision" in model and isinstance(model["revision"], str | None)
    said = isinstance(told.get("backend"), str) and all(isinstance(one, float) and is_finite(one) for one in figures)
    said = said and told.keys() in ({"backend"}, set(TOLD))  # what the report reads of approximate ones, or nothing
    return all(isinstance(text, str) for text in texts) and named and sealed and numbers and said and revised


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."

"""A recipe's text to plain values: YAML, `key=value` overrides, and references from one key to another.

A value is read by the type of its key. Where that is text, it arrives as it is written: `revision: 0123456` is no octal
number and `gold: no` is not false. Of what YAML can say and a recipe has no use for, nothing is obeyed: no tags, no
resolvers, no aliases that grow beyond all bounds.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import UserError
from ..io.credentials import refuse_credentials
from ..io.files import control_character, local, read_text
from .renamed import todays_name
from .shipped import prompt_file

MOST_BYTES = 1 << 17  # of a recipe's text; the longest here has a twentieth
MOST_VALUES = 20_000  # in a recipe, those behind aliases and references counted as often as they stand there
MOST_CHARACTERS = 1 << 20  # of all texts, counted so
DEEPEST = 32
PROSE = ("prompts.tutor", "prompts.refine", "prompts.answer_form")  # keys whose text may have several lines
PROSE_BYTES = 1 << 16  # of a file that one of them names
NO_TEXTS = {"true", "false", "null", "yes", "no", "on", "off"}  # to YAML
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[\w-]+)*)\}")
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without dates and merge keys, with 1e-4 as a number, and with 010 as ten and 1:30 as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.removeprefix(_TAG) in ("null", "bool")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}int", re.compile(r"^[-+]?(?:0|[1-9][\d_]*|0x[\da-fA-F_]+|0b[01_]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"^(?:[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def read(path: Path, kind: type) -> dict[str, Any]:
    """The file's mapping, its values by the fields of the dataclass `kind`; references still stand as they are.

    Raises:
        UserError: it cannot be read, is no YAML mapping, or says something that a recipe cannot say; with its line.
    """
    if not local(str(path)).exists():
        raise UserError(f"{path}: no such recipe. `ssb recipes` lists those that come with the package.")
    node = _compose(read_text(path, MOST_BYTES), f"{path}: not valid YAML")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: expected a mapping of keys to values, as in recipes/pocket.yaml.")
    mapping: dict[str, Any] = _Values(f"{path}: not valid YAML for a recipe", kind).mapping(node, kind, "", 0)
    return mapping


def override(word: str, kind: type) -> dict[str, Any]:
    """`key=value` as the mapping that it stands for. The value of a text key is what stands behind the sign.

    Raises:
        UserError: no such form, or the value is no YAML.
    """
    refuse_credentials(word, word.partition("=")[0])
    key, sign, value = word.partition("=")
    if not sign or not key:
        raise UserError(f"{word!r}: expected key=value, as in train.learning_rate=1e-4.")
    names, values = key.split("."), _Values(repr(word), kind)
    type_: Any = kind
    for name in names:
        type_ = values.kind_within(type_, name)
    if is_text(type_):
        nothing = value == "null" and type(None) in typing.get_args(type_)
        found: Any = None if nothing else values.checked(value, type_, key, "")
    else:
        node = _compose(value, f"{word!r}: the value is not valid YAML")
        found = values.value(node, type_, key, 0) if node is not None else None
    for name in reversed(names):
        found = {name: found}
    whole: dict[str, Any] = found
    return whole


def is_text(kind: Any) -> bool:
    """Whether a key of that type holds text and nothing else, but for null."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kinds = [one for one in typing.get_args(kind) if one is not type(None)]
        return all(map(is_text, kinds))
    if typing.get_origin(kind) is Literal:
        return all(isinstance(one, str) for one in typing.get_args(kind))
    return kind is str


def with_prose(layer: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A layer with the contents of the .txt and .md files that its prompts name, each relative to `folder`; so the
    resolved recipe holds the texts themselves. `layer`: a recipe's, its variants included.

    Raises:
        UserError: such a file cannot be read, or holds what a recipe cannot say.
    """
    found = dict(layer)
    if isinstance(prompts := layer.get("prompts"), dict):
        found["prompts"] = {
            key: _prose(value, f"prompts.{key}", folder) if f"prompts.{key}" in PROSE else value
            for key, value in prompts.items()
        }
    if isinstance(variants := layer.get("variants"), dict):
        found["variants"] = {
            name: with_prose(one, folder) if isinstance(one, dict) else one for name, one in variants.items()
        }
    return found


def _prose(value: Any, key: str, folder: Path) -> Any:
    if not isinstance(value, str):
        return value
    if _names_a_file(value):
        path = prompt_file(local(value, key), folder)
        text = read_text(path, PROSE_BYTES).replace("\r\n", "\n").rstrip("\n")
        if "${" in text:
            raise UserError(f"{path}: holds ${{, which is a reference in a recipe; put a blank between the two signs.")
        if _names_a_file(text):
            raise UserError(f"{path}: {key} holds nothing but the name of a file, {text[:80]!r}; name that one.")
        value = _Values(str(path), object).checked(text, str, key, "")
    return value.rstrip("\n")


def as_yaml(text: str) -> str:
    """A text as YAML has it: bare where it reads as itself, else quoted."""
    bare = re.fullmatch(r"[A-Za-z./~][\w./~+-]*", text) and text.lower() not in NO_TEXTS
    return text if bare else json.dumps(text, ensure_ascii=False)


def _names_a_file(text: str) -> bool:
    return text.endswith((".txt", ".md")) and "\n" not in text


def without_null(kind: Any) -> Any:
    """The dataclass of a section that may also be null; any other type as it is."""
    kinds = [one for one in typing.get_args(kind) if one is not type(None)] if isinstance(kind, types.UnionType) else []
    return kinds[0] if len(kinds) == 1 and dataclasses.is_dataclass(kinds[0]) else kind


def item_of(kind: Any) -> Any:
    """The type of a list's items, where a key of that type can hold a list; else None."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return next((typing.get_args(one)[0] for one in kinds if typing.get_origin(one) is list), None)


def _compose(text: str, what: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{what}: {' '.join(str(error).split())[:400]}") from None
    except RecursionError:
        raise UserError(f"{what}: deeper than {DEEPEST} levels.") from None


class _Values:
    """The values of one text. `where` names it in messages."""

    def __init__(self, where: str, recipe: type) -> None:
        self._where, self._recipe, self._left, self._room = where, recipe, MOST_VALUES, MOST_CHARACTERS
        self._construct = yaml.constructor.SafeConstructor()

    def kind_within(self, kind: Any, name: str) -> Any:
        """The type of the entry `name` of a mapping of that type."""
        kind = without_null(kind)
        if dataclasses.is_dataclass(kind):
            if kind is self._recipe and name in ("base", "variants"):
                return str if name == "base" else dict[str, kind]
            return typing.get_type_hints(kind).get(name, Any)
        return typing.get_args(kind)[1] if typing.get_origin(kind) is dict else Any

    def value(self, node: yaml.Node, kind: Any, path: str, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > DEEPEST:
            self._refuse(node, path, f"more than {MOST_VALUES:,} values, or deeper than {DEEPEST} levels")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, kind, path, depth)
        if isinstance(node, yaml.SequenceNode):
            item = item_of(kind) or Any
            return [self.value(one, item, path, depth + 1) for one in node.value]
        return self._scalar(node, kind, path)

    def mapping(self, node: yaml.MappingNode, kind: Any, path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, path, "a key has to be text")
            key = self.checked(key_node.value, str, path or "a key", _line(key_node))  # `1` and `no` are text there
            here = f"{path}.{key}" if path else key
            if key in found:
                self._refuse(key_node, here, "stands there twice")
            if "${" in key:
                self._refuse(key_node, here, "a key cannot be a reference")
            found[key] = self.value(value_node, self.kind_within(kind, key), here, depth + 1)
        return found

    def _scalar(self, node: yaml.Node, kind: Any, path: str) -> Any:
        tag = node.tag.removeprefix(_TAG)
        if tag == "null" and node.style is None:
            return None
        if is_text(kind) or tag == "str":
            return self.checked(node.value, kind, path, _line(node))
        try:
            return {
                "bool": self._construct.construct_yaml_bool,
                "int": self._construct.construct_yaml_int,
                "float": self._construct.construct_yaml_float,
            }[tag](node)
        except KeyError:
            return self._refuse(node, path, f"the tag !{tag} is not read here")
        except ValueError as error:  # a number of more digits than Python reads
            return self._refuse(node, path, str(error).partition(";")[0])

    def checked(self, text: str, kind: Any, path: str, line: str) -> str:
        """The text, if it holds no control character, no password and no resolver."""
        self._room -= len(text)
        if self._room < 0:
            raise UserError(f"{self._where}: {path}{line}: more text than a recipe can hold.")
        if (found := control_character(text, "\n\t" if kind is Any or path.endswith(PROSE) else "")) is not None:
            raise UserError(f"{self._where}: {path}{line}: holds the control character {found!r}; leave it out.")
        refuse_credentials(text, f"{self._where}: {path}{line}")
        if text.count("${") != len(_REFERENCE.findall(text)):
            raise UserError(
                f"{self._where}: {path}{line}: {text[:80]!r} is no reference to a key, as ${{train.epochs}} is; no"
                " resolver is run, and no variable of the environment is read."
            )
        return text

    def _refuse(self, node: yaml.Node, path: str, why: str) -> typing.NoReturn:
        raise UserError(f"{self._where}: {path}{_line(node)}: {why}.")


def _line(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"


def with_references(tree: dict[str, Any], defaults: dict[str, Any], wrong: list[str]) -> dict[str, Any]:
    """`tree` with each `${key}` replaced by what stands there, or else by its default.

    A value that is nothing but a reference takes on the other's type; within a longer text it is written out. What
    cannot be resolved is left out, and said in `wrong`.
    """
    return _References(tree, defaults, wrong).mapping(tree, "")


class _References:
    def __init__(self, tree: dict[str, Any], defaults: dict[str, Any], wrong: list[str]) -> None:
        self._trees, self._wrong = (tree, defaults), wrong
        self._left, self._room = MOST_VALUES, MOST_CHARACTERS

    def mapping(self, tree: dict[str, Any], path: str) -> dict[str, Any]:
        found = {}
        for key, value in tree.items():
            here = f"{path}{key}"
            if isinstance(value, dict):
                found[key] = self.mapping(value, f"{here}.")
                continue
            try:
                found[key] = self._resolved(value, ())
            except LookupError as error:
                self._wrong.append(f"{here}: {error.args[0]}")
        return found

    def _resolved(self, value: Any, chain: tuple[str, ...]) -> Any:
        """`chain`: the keys that led here, each referring to the next."""
        self._left -= 1
        if self._left < 0:
            raise UserError(f"The recipe's references give more than {MOST_VALUES:,} values, or too long a text.")
        if isinstance(value, dict):
            return {key: self._resolved(one, chain) for key, one in value.items()}
        if isinstance(value, list):
            return [self._resolved(one, chain) for one in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        if whole := _REFERENCE.fullmatch(value):
            return self._referred(whole[1], chain)
        text = _REFERENCE.sub(lambda found: self._written(found[1], chain), value)
        self._room -= len(text)
        if self._room < 0:
            self._left = 0
        return text

    def _written(self, key: str, chain: tuple[str, ...]) -> str:
        value = self._referred(key, chain)
        if isinstance(value, dict | list):
            raise LookupError(f"${{{key}}} is a mapping or a list, and cannot stand within a text.")
        return str(value)

    def _referred(self, key: str, chain: tuple[str, ...]) -> Any:
        if key in chain or len(chain) > DEEPEST:
            raise LookupError(f"${{{key}}} leads back to itself.")
        for tree in self._trees:
            value: Any = tree
            for name in todays_name(key).split("."):
                value = value[name] if isinstance(value, dict) and name in value else _NOTHING
            if value is not _NOTHING:
                return self._resolved(value, (*chain, key))
        raise LookupError(f"${{{key}}} refers to no key of the recipe.")


_NOTHING = object()


def merged(below: Any, above: Any) -> Any:
    """`above` put over `below`, key by key where both are mappings. Another verifier brings options of its own."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {
        **below,
        **{
            key: value if key == "verifier" and _is_another(below.get(key), value) else merged(below.get(key), value)
            for key, value in above.items()
        },
    }


def _is_another(below: Any, above: Any) -> bool:
    names = [one.get("name") if isinstance(one, dict) else one for one in (below, above)]
    return isinstance(above, dict) and "name" in above and names[0] != names[1]


def overrides_merged(words: Sequence[str], kind: type) -> dict[str, Any]:
    """All overrides as one mapping; the last one wins."""
    whole: dict[str, Any] = {}
    for word in words:
        whole = merged(whole, override(word, kind))
    return whole

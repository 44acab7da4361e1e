"""A config.json as the families read it: checked values, other names for the same thing, transformers' own defaults."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from ...errors import UserError

NAMES = Path(__file__).with_name("names.json")
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


@functools.cache
def known(family: str) -> dict[str, dict[str, Any]]:
    """{"names": other names of keys, "defaults": values of keys that are not given}, as transformers 5.17 has them."""
    table: dict[str, dict[str, dict[str, Any]]] = json.loads(NAMES.read_text(encoding="utf-8"))
    return table.get(family, {"names": {}, "defaults": {}})


class Config:
    """The language part of a config.json.

    `nested`: it stands within that of a larger model, where sizes are often left to the class.
    """

    def __init__(self, values: dict[str, Any], name: str, nested: bool = False) -> None:
        self.values, self.name = values, name
        self.family = str(values.get("model_type", ""))
        table = known(self.family)
        self._names = table["names"]
        self._defaults = {k: v for k, v in table["defaults"].items() if nested or k not in SIZES}

    def get(self, key: str) -> Any:
        """What the file says or, where it says nothing, the default of the family."""
        for own in (key, self._names.get(key, key)):
            if self.values.get(own) is not None:
                return self.values[own]
        if self._names.get(key, key) in self.values or key in self.values:  # null
            return None
        return self._defaults.get(key)

    def size(self, key: str, otherwise: int | None = None, least: int = 1) -> int:
        """A number of at least so much.

        Raises:
            UserError: it is none, or is not there and has no `otherwise`.
        """
        value = self.get(key)
        if value is None and (otherwise is not None or key not in self.values):
            if otherwise is None:
                raise UserError(f"The config.json of {self.name} lacks {key}: no decoder that SSB can plan for.")
            return otherwise
        if type(value) is not int or not least <= value < 2**31:
            expected = f"a number above {least - 1}" if least else "a number that is not negative"
            raise UserError(f"The config.json of {self.name}: {key} is {str(value)[:40]!r}; expected {expected}.")
        return value

    def whole(self, value: Any, key: str) -> int:
        """A value of a list, as a number above 0."""
        if type(value) is not int or not 0 < value < 2**31:
            raise UserError(f"The config.json of {self.name}: {key} has {str(value)[:40]!r}; expected numbers above 0.")
        return value

    def one_of(self, choices: dict[str, Any], name: Any, key: str) -> Any:
        """What `name`, a value of `key`, stands for."""
        if not isinstance(name, str) or name not in choices:
            raise UserError(
                f"The config.json of {self.name}: {key} has {str(name)[:40]!r}; expected {', '.join(choices)}."
            )
        return choices[name]

    def has(self, key: str) -> bool:
        return key in self.values or key in self._defaults

    def flag(self, key: str, otherwise: bool = False) -> bool:
        value = self.get(key)
        return otherwise if value is None else bool(value)

    def each(self, key: str, count: int) -> list[Any] | None:
        """One value for each of `count` layers, None where the config has none.

        Raises:
            UserError: there are more or fewer.
        """
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) < count:
            raise UserError(f"The config.json of {self.name}: {key} is {str(value)[:40]!r}; expected {count} values.")
        return value[:count]

    def places(self, key: str) -> list[int]:
        """Numbers of layers."""
        value = self.get(key) or []
        if not isinstance(value, list) or any(type(place) is not int for place in value):
            raise UserError(
                f"The config.json of {self.name}: {key} is {str(value)[:40]!r}; expected numbers of layers."
            )
        return value

    # What nearly all have
    @property
    def H(self) -> int:
        return self.size("hidden_size")

    @property
    def L(self) -> int:
        return self.size("num_hidden_layers")

    @property
    def I(self) -> int:  # noqa: E743
        return self.size("intermediate_size")

    @property
    def heads(self) -> int:
        return self.size("num_attention_heads")

    @property
    def head_dim(self) -> int:
        return self.size("head_dim", self.H // self.heads)

    @property
    def Q(self) -> int:
        return self.heads * self.head_dim

    @property
    def KV(self) -> int:
        return self.size("num_key_value_heads", self.heads) * self.head_dim

    @property
    def tied(self) -> bool:
        """Whether input embedding and head are one matrix."""
        return self.flag("tie_word_embeddings")

"""The verifiers that go by a name (`problems.verifier` in a recipe), and the one door to them.

What a recipe says is a *spec*: a name, or a mapping of `name` and options, as `{name: numeric, absolute: 1e-6}`. A new
verifier is a file here and its row; a user's own is `package.module:name` (`foreign`). Nothing is imported before it is
asked for, since the recipe and the command line read the table.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..prompts import BOX

if TYPE_CHECKING:
    from .protocol import Verifier

Spec = str | Mapping[str, Any]

MATH = "math"  # where nothing else is said
CHOICE, CODE = "choice", "code"  # which read more columns than the others
EXACT, NUMERIC = "exact", "numeric"

VERIFIERS: dict[str, str] = {  # name -> the module whose VERIFIER it is; one with a dot before it lies here
    MATH: ".mathematical",
    CHOICE: ".choice",
    EXACT: ".exact",
    NUMERIC: ".numeric",
    CODE: ".code",
}

_OWN = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
_MADE: dict[str, Verifier] = {}


def verifier_for(spec: Spec) -> Verifier:
    """The verifier that a recipe asks for; its module is imported at the first time, a user's own in its own process.

    Raises:
        UserError: there is none of that name, or it does not take these options.
    """
    name, options = parts(spec)
    if is_own(name):
        key, where = json.dumps([name, options], sort_keys=True), ""
    elif name in VERIFIERS:
        where = VERIFIERS[name]
        key = json.dumps([where, options], sort_keys=True)
        if not options:
            plain: Verifier = import_module(where, __package__).VERIFIER
            return plain
    else:
        raise UserError(unknown(name))
    if key not in _MADE:
        if where:
            _MADE[key] = _with_options(name, import_module(where, __package__).VERIFIER, options)
        else:
            from .foreign import Foreign

            _MADE[key] = Foreign(name, options)
    return _MADE[key]


def parts(spec: Spec) -> tuple[str, dict[str, Any]]:
    """Name and options.

    Raises:
        UserError: it is neither a name nor a mapping with one.
    """
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
        return spec["name"], {str(key): value for key, value in spec.items() if key != "name"}
    raise UserError(
        f"{_short(spec)} names no verifier; expected a name, or a mapping with name and options, as"
        " {name: numeric, absolute: 1e-6}."
    )


def written(spec: Spec) -> Spec:
    """The spec as identities, manifests and reports have it: the bare name where there are no options."""
    name, options = parts(spec)
    return {"name": name, **dict(sorted(options.items()))} if options else name


def title(spec: Spec) -> str:
    """The spec as text, for people."""
    name, options = parts(spec)
    return f"{name} ({', '.join(f'{key}: {value}' for key, value in sorted(options.items()))})" if options else name


def with_form(spec: Spec, form: str) -> Spec:
    """The spec with the recipe's answer form, where it says none itself. A program has no form but its fence."""
    name, options = parts(spec)
    if form == BOX or name == CODE or "form" in options:
        return spec
    return {"name": name, **options, "form": form}


def is_own(name: str) -> bool:
    """Whether the name is one of a module and what stands in it: code of the user's own."""
    return _OWN.fullmatch(name) is not None


def source_of(spec: Spec) -> Path | None:
    """The file of the module that a user's own verifier stands in; None for one of the package's, or where there is
    none. Nothing of it is run.
    """
    name = parts(spec)[0]
    if not is_own(name):
        return None
    from .foreign import module_file

    return module_file(name)


def wrong_with(spec: Spec) -> str | None:
    """What is wrong with a spec, as a sentence; None if it can be. The code of a user's own is not run for it."""
    try:
        name, options = parts(spec)
        if not is_own(name) and (name not in VERIFIERS or options):
            verifier_for(spec)
    except UserError as error:
        return str(error)
    return None


def unknown(name: str) -> str:
    """What to say of a name that is none."""
    return f"no verifier {name!r}; known: {', '.join(VERIFIERS)}, or package.module:name of your own."


TOGETHER = 1_000  # texts, at a time, that `prepare` is told of where there are many


def prepare(verifier: Verifier, asked: Iterable[tuple[str, str]]) -> None:
    """Tell a verifier which (text, gold) it is asked for next: one that is slow works them off together."""
    together = getattr(verifier, "prepare", None)
    if together is not None:
        together(list(asked))


def sandbox_layers() -> list[tuple[str, bool, str]]:
    """What holds programs here: (layer, whether it works, what it gives or why it does not)."""
    from .sandbox import layers

    return layers()


def sandbox_wants() -> str | None:
    """What is missing here for a program to be held; None if nothing is."""
    from .sandbox import wanting

    return wanting()


def _with_options(name: str, verifier: Any, options: Mapping[str, Any]) -> Verifier:
    """The verifier with other values of the fields that its class has as a dataclass."""
    fields = {field.name for field in dataclasses.fields(verifier)} if dataclasses.is_dataclass(verifier) else set()
    hints = typing.get_type_hints(type(verifier)) if fields else {}
    for key, value in options.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(fields)) or 'none'}."
            raise UserError(f"the verifier {name!r} has no option {key!r}; {hint}")
        if not _fits(value, hints[key]):
            kind = getattr(hints[key], "__name__", str(hints[key]))
            raise UserError(f"the verifier {name!r}: {key} is {_short(value)}; expected {kind}.")
    numbers = {key: float(value) if hints[key] is float else value for key, value in options.items()}
    try:
        made: Verifier = dataclasses.replace(verifier, **numbers)
    except ValueError as error:
        raise UserError(f"the verifier {name!r}: {error}") from None
    return made


def _fits(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float)
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    return type(value) is kind


def _short(value: Any) -> str:
    return repr(value)[:60]

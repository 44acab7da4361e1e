"""Whether a server's model, tokenizer and chat template are the recipe's, and whether two names are one server.

Prompts are sent as token ids and replies come as such, so all that has to be the same is what the ids mean and which
weights they go through. The first is compared in full. Of the weights a server says a name alone, which has to be the
recipe's; and the servers are compared with each other by how likely they find the tokens of one text.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError
from ...io.addresses import PORTS, Address
from ...io.files import local
from ...prompts import Messages
from ...recipe.schema import ModelConfig
from ..chat_template import render
from ..sources import model_path
from ..template_choice import choices
from . import answers
from .answers import Served
from .endpoint import Endpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = (
    "Mia has 9 shells and finds 3 more. How many are there?",
    "  12 345.678 - 90 = x^2 + \\frac{1}{2}\n\n\tdef f(x):\n        return x  # naïve",
    "Größe, 数学, математика, ∑ ≠ ∞, 👩‍🚀 and <|im_end|> [INST] </s>",
)
SYSTEM: Messages = [{"role": "system", "content": "Answer in one word."}]
ASKED: Messages = [{"role": "user", "content": "What is 12 + 30?"}]
ROOT = 200  # characters of where a served model lies, in a sentence
FURTHEST = 0.25  # ours: nats a token by which two servers may differ on one text; 16 bits differ by hundredths


@dataclass
class Identity:
    """What every server of a recipe has to be. `stop`: the tokens that end a reply."""

    model: ModelConfig
    tokenizer: PreTrainedTokenizerBase
    max_model_len: int
    stop: Sequence[int]
    _first: tuple[str, list[float]] | None = None  # a server, and how likely it finds the text below
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, endpoint: Endpoint, wanted: str, served: Sequence[Served]) -> str:
        """The name under which the server serves the recipe's model. `wanted`: the one that the recipe gives, if any.

        Raises:
            UserError: it serves another model, a shorter one, or one of another vocabulary.
            Unavailable: it does not answer.
        """
        model = self._model(endpoint.root, wanted, served)
        if model.max_model_len is None:
            raise UserError(f"{endpoint.root}/v1/models: no 'max_model_len' in the answer; is this a vLLM server?")
        if model.max_model_len < self.max_model_len:
            raise UserError(
                f"{endpoint.root} takes {model.max_model_len} tokens of prompt and reply, fewer than"
                f" sampler.max_model_len ({self.max_model_len}): start it with --max-model-len {self.max_model_len}, or"
                " lower the key."
            )
        self._check_vocabulary(endpoint, model.name)
        self._check_template(endpoint, model.name)
        self._check_weights(endpoint, model.name)
        return model.name

    def _model(self, root: str, wanted: str, served: Sequence[Served]) -> Served:
        found = [one for one in served if one.name == wanted or not (wanted or one.is_adapter)]
        if not found:
            there = answers.names(served) or "none"
            raise UserError(f"{root} does not serve the model {wanted or self.model.name!r}; it serves {there}.")
        model = found[0]
        if model.is_adapter:
            raise UserError(f"{root}: {model.name} is an adapter; name the model that it is put on.")
        if not is_model(self.model, model):
            raise UserError(
                f"{root} serves {answers.names([model])!r} ({model.root[:ROOT]}), and the recipe's model is"
                f" {self.model.name!r}; where they are the same, start it with --served-model-name {self.model.name}"
            )
        return model

    def _check_vocabulary(self, endpoint: Endpoint, name: str) -> None:
        for text in TEXTS:
            own = self.tokenizer.encode(text, add_special_tokens=False)
            body = {"model": name, "prompt": text, "add_special_tokens": False}
            if endpoint.ask("/tokenize", answers.tokens, body) != own:
                raise self._other(endpoint, "tokenizer", f"it makes other tokens of {text[:24]!r}")
        for ids in (sorted(set(self.tokenizer.get_vocab().values())), list(self.stop)):
            said = endpoint.ask("/detokenize", answers.text, {"model": name, "tokens": ids})
            # Versions differ in the blanks before full stops.
            if "".join(said.split()) != "".join(str(self.tokenizer.decode(ids)).split()):
                raise self._other(endpoint, "vocabulary", "its tokens are other texts")

    def _check_template(self, endpoint: Endpoint, name: str) -> None:
        """Where the recipe has one of its own, or it asks what day it is, the server's is another, and is not used."""
        template = str(self.tokenizer.chat_template)
        if self.model.chat_template is not None or "strftime_now" in template:
            return
        messages = ASKED if choices(self.tokenizer) else SYSTEM + ASKED
        body = {"model": name, "messages": messages, "add_generation_prompt": True}
        if self.model.template:
            body["chat_template_kwargs"] = self.model.template
        if endpoint.ask("/tokenize", answers.tokens, body) != render(self.tokenizer, messages):
            raise self._other(endpoint, "chat template", "it makes another prompt of the same messages")

    def _check_weights(self, endpoint: Endpoint, name: str) -> None:
        ids = self.tokenizer.encode(" ".join(TEXTS), add_special_tokens=False)[: self.max_model_len - 1]
        if len(ids) < 2:  # nothing stands before the first token, which tells of nothing
            return
        body = {"model": name, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        found = endpoint.ask("/v1/completions", partial(answers.log_probs, ids=ids), body)
        with self._lock:
            self._first = self._first or (endpoint.root, found)
            other, first = self._first
        apart = sum(abs(one - two) for one, two in zip(found, first, strict=True)) / len(found)
        if not apart <= FURTHEST:
            raise UserError(
                f"{endpoint.root} and {other} are servers of different weights: they differ by {apart:.2f} nats a token"
                " on one text; serve the same model on both."
            )

    def _other(self, endpoint: Endpoint, what: str, how: str) -> UserError:
        return UserError(
            f"{endpoint.root} has another {what} than the recipe's model {self.model.name!r}: {how}. Serve that model,"
            " with its own tokenizer and template, or name another server."
        )


def is_model(model: ModelConfig, served: Served) -> bool:
    """Whether what is served has the name of the recipe's model: a hub id also as the end of a path, and as the hub's
    own cache has it."""
    path = model_path(model)
    if {model.name, path} & {served.name, served.root}:
        return True
    if local(path, "model.name").exists():
        return bool(served.root) and Path(served.root) == Path(path).resolve()
    ends = path.lower().rpartition("/")[2], served.root.lower().rstrip("/").rpartition("/")[2]
    return ends[0] == ends[1] or f"models--{path.replace('/', '--')}/" in served.root


def refuse_doubles(addresses: Sequence[Address]) -> None:
    """Raises UserError where two of the recipe's servers are one: its requests would be counted twice."""
    known: list[tuple[Address, set[str]]] = []
    for address in addresses:
        where = _numbers(address)
        for other, numbers in known:
            if address.server == other.server:
                raise UserError(f"sampler.servers: {address.root} stands there twice.")
            same = (address.port, address.server[2]) == (other.port, other.server[2]) and numbers & where
            # Behind the usual ports a proxy tells several servers apart by the names alone.
            if same and address.port not in PORTS.values():
                raise UserError(f"sampler.servers: {other.root} and {address.root} are one server; name it once.")
        known.append((address, where))


def _numbers(address: Address) -> set[str]:
    """The network addresses that a host's name stands for; all of this machine's own are one."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)}
    except OSError:  # it will not answer either
        return {address.host}
    numbers = (ipaddress.ip_address(number.partition("%")[0]) for number in found)
    plain = (getattr(number, "ipv4_mapped", None) or number for number in numbers)
    return {"here" if _is_here(number) else str(number) for number in plain}


def _is_here(number: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if number.is_loopback or number.is_unspecified:
        return True
    try:
        with socket.socket(socket.AF_INET if number.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as asked:
            asked.connect((str(number), 9))  # sends nothing; the system only says from where it would
            return str(asked.getsockname()[0]) == str(number)
    except OSError:  # no way leads there
        return False

"""The sampler of a recipe whose model several vLLM servers serve: prompts are rendered here, replies are made of the
token ids that come back, and each request has its own seed, so that it does not matter which server answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UserError
from ...io.addresses import server_address
from ...prompts import Messages
from ...recipe.schema import ModelConfig, SamplerConfig, SamplingConfig
from ..chat_template import completion, render, stop_ids
from ..dispatch import Dispatcher
from ..replies import all_of
from ..sampler import Adapter, Completion, Keep, Request
from ..sources import check_rank
from ..transformers import load_generation_config, load_tokenizer, vocabulary_size
from .identity import Identity, refuse_doubles
from .lora import served_name
from .server import CONCURRENCY, Server


class ServersSampler:
    """Samples from all servers of the recipe at a time. `pause`: seconds for which a server that fails is left alone.

    Raises:
        UserError: two of them are one, one is of another model, tokenizer or template than the recipe's, or none
            answers.
    """

    def __init__(self, model: ModelConfig, config: SamplerConfig, pause: float = 1.0) -> None:
        self._max_lora_rank = config.max_lora_rank
        self._tokenizer = load_tokenizer(model)
        self._vocabulary = max(len(self._tokenizer), vocabulary_size(model))
        self._stop = stop_ids(self._tokenizer, load_generation_config(model))
        addresses = [server_address(given, "sampler.servers") for given in config.servers]
        refuse_doubles(addresses)
        check = Identity(model, self._tokenizer, config.max_model_len, self._stop).check
        self._servers = [Server(address, 60 * config.server_timeout, check) for address in addresses]
        self._asked = Dispatcher(self._servers, pause, CONCURRENCY)
        self._names: dict[Adapter, str] = {}  # under which adapters are served
        self._asked.start()

    def render(self, messages: Messages) -> list[int]:
        return render(self._tokenizer, messages)

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
        quiet: bool = False,
    ) -> list[Completion]:
        served = None if adapter is None else self._served(adapter)
        self._asked.everywhere(Server.look_again)

        def reply(server: Server, request: Request) -> Completion:
            return self._completion(server, server.complete(request, decoding, self._stop, served))

        def ask(request: Request) -> Completion:
            return self._asked.ask(lambda server: reply(server, request))

        return all_of(ask, requests, CONCURRENCY * len(self._servers), title, keep, quiet)

    def close(self) -> None:
        for server in self._servers:
            server.close()

    def _served(self, adapter: Adapter) -> tuple[str, Adapter]:
        check_rank(adapter, self._max_lora_rank)
        if adapter not in self._names:
            self._names[adapter] = served_name(adapter)
        return self._names[adapter], adapter

    def _completion(self, server: Server, reply: Completion) -> Completion:
        """Made of the reply's ids, as those of every other sampler."""
        if (largest := max(reply.token_ids, default=0)) >= self._vocabulary:
            raise UserError(
                f"{server.root} replies with the token {largest}, and the recipe's model has {self._vocabulary:,} of"
                " them, numbered from 0: serve that model."
            )
        made = completion(self._tokenizer, reply.token_ids, self._stop)
        if (reply.finish_reason, made.finish_reason) == ("stop", "length"):
            last = self._tokenizer.decode(reply.token_ids[-1:])
            raise UserError(
                f"{server.root} ends a reply where the recipe's model ends none, behind {last!r}: start it with"
                " --generation-config vllm, so that it takes nothing from the model's own."
            )
        return made

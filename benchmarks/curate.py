"""Curation against the engine alone, and against one request after another.

    python -m benchmarks.curate                       # the pocket's model and problems, real vLLM

    ours      Curator: rollouts of a wave of questions, verdicts, contrasts, refinements, verdicts, files
    raw       vLLM's LLM.generate on the same prompts with the same seeds: all rollouts in one call, all refinements in
              a second; both start from an empty prefix cache, and the replies have to be the same, token for token
    paper     a loop like the released code's: model.generate of transformers, one reply after another, K for each
              question and then the refinement. Measured on --loop-requests requests, every n-th of ours, and scaled to
              all of them by the tokens that were sampled ("extrapolated" in the row)

Without vLLM, or with --engine transformers, there is no raw.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ssb_unsloth.backends import load_sampler
from ssb_unsloth.backends.sampler import Adapter, Completion, Keep, Request, Sampler
from ssb_unsloth.backends.transformers import load_model, load_tokenizer
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.recipe.schema import CurateConfig, ModelConfig, SamplerConfig, SamplingConfig

from . import common

SEED = 3407
MAX_MODEL_LEN = 512
K = 4


class Recorded:
    """A sampler that keeps what it was asked, and what it answered."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.calls: list[tuple[list[Request], SamplingConfig, list[Completion]]] = []

    def render(self, messages: Any) -> list[int]:
        return self.sampler.render(messages)

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
        quiet: bool = False,
    ) -> list[Completion]:
        completions = self.sampler.sample(requests, decoding, adapter, title, keep, quiet)
        self.calls.append((list(requests), decoding, completions))
        return completions


def curator(sampler: Sampler, questions: int, folder: Path, tokens: int) -> Callable[[], Any]:
    """The pocket recipe's curation of so many questions, from nothing each time it is called."""
    decodings = {"rollout": SamplingConfig(0.8, max_tokens=tokens), "refine": SamplingConfig(0.4, max_tokens=tokens)}
    config = CurateConfig(pairs=questions, rollouts=K, wave=256, **decodings)
    problems = generate("bootstrap", questions, 0)

    def run() -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return Curator(config, lambda: sampler, MAX_MODEL_LEN, SEED, folder).run(problems)

    return run


def raw_vllm(sampler: Any, calls: Sequence[tuple[list[Request], SamplingConfig, list[Completion]]]) -> Any:
    """The same requests to the engine itself. Returns a function, and one that empties the prefix cache."""
    import vllm
    from vllm.inputs import TokensPrompt

    engine, eos = sampler._engine, sampler._tokenizer.eos_token_id
    work = []
    for requests, decoding, expected in calls:
        fixed = {"temperature": decoding.temperature, "max_tokens": decoding.max_tokens, "stop_token_ids": [eos]}
        parameters = [vllm.SamplingParams(seed=request.seed, **fixed) for request in requests]
        prompts = [TokensPrompt(prompt_token_ids=request.prompt_ids) for request in requests]
        work.append((prompts, parameters, [completion.token_ids for completion in expected]))

    def run() -> None:
        for prompts, parameters, expected in work:
            outputs = engine.generate(prompts, parameters, use_tqdm=False)
            same = sum(list(o.outputs[0].token_ids) == ids for o, ids in zip(outputs, expected, strict=True))
            if same < len(expected):
                raise SystemExit(f"Only {same} of {len(expected)} raw replies are those of the curation.")

    return run, engine.reset_prefix_cache


class Loop:
    """The released code's way to sample: transformers, one request at a time."""

    def __init__(self, model: ModelConfig, device: str) -> None:
        self._model, self._tokenizer = load_model(model).to(device), load_tokenizer(model)

    def __call__(self, requests: Sequence[tuple[Request, SamplingConfig]]) -> int:
        """The number of tokens sampled."""
        eos, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        total = 0
        for request, decoding in requests:
            ids = torch.tensor([request.prompt_ids], device=self._model.device)
            options = {"do_sample": True, "temperature": decoding.temperature, "top_k": 50}
            limits = {"max_new_tokens": decoding.max_tokens, "eos_token_id": eos, "pad_token_id": pad}
            torch.manual_seed(request.seed % 2**63)
            with torch.no_grad():
                out = self._model.generate(  # type: ignore[operator]
                    ids, attention_mask=torch.ones_like(ids), **options, **limits
                )
            total += out.shape[1] - ids.shape[1]
        return total


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    model = ModelConfig(name="pocket", dtype=args.dtype)
    config = SamplerConfig(engine=args.engine, max_model_len=MAX_MODEL_LEN)
    sampler = load_sampler(model, config, SEED, adapters=False)
    with tempfile.TemporaryDirectory() as folder:
        recorded = Recorded(sampler)
        curator(recorded, args.questions, Path(folder) / "first", args.max_tokens)()  # also warms everything up
        ours = curator(sampler, args.questions, Path(folder) / "run", args.max_tokens)
        wanted = [(request, decoding) for requests, decoding, _ in recorded.calls for request in requests]
        tokens = sum(len(reply.token_ids) for _, _, replies in recorded.calls for reply in replies)
        loop, few = Loop(model, args.device), wanted[:: max(1, len(wanted) // args.loop_requests)]
        few_tokens = 0

        def paper() -> None:
            nonlocal few_tokens
            few_tokens = loop(few)

        contestants: dict[str, Callable[[], Any]] = {"ours": ours, "paper": paper}
        forget: Callable[[], Any] = lambda: None  # noqa: E731
        if type(sampler).__name__ == "VLLMSampler":
            contestants["raw"], forget = raw_vllm(sampler, recorded.calls)
        times = common.in_turn(contestants, args.repeats, args.device, before=forget)
    hidden, vocabulary = loop._model.config.hidden_size, loop._model.config.vocab_size
    results = []
    for name, found in times.items():
        scale = tokens / few_tokens if name == "paper" else 1.0
        found = found.scaled(scale)
        more: dict[str, Any] = {"questions": args.questions, "tokens": tokens, "extrapolated": scale != 1.0}
        more |= {"tokens_per_second": tokens / min(found.wall), "engine": type(sampler).__name__}
        if name == "paper":
            more |= {"engine": "transformers", "measured_requests": len(few), "measured_tokens": few_tokens}
        size = {"rows": len(wanted), "hidden": hidden, "vocabulary": vocabulary}
        results.append(common.row("curate", name, found, args, **size, **more))
    common.show(results)
    return results


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=2)
    parser.set_defaults(threads=1)  # as the pocket's recipe: two threads wait for each other longer than they work
    parser.add_argument("--engine", choices=["auto", "vllm", "transformers"], default="auto")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--loop-requests", type=int, default=32)
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # vLLM reads it when it is imported
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    results = measure(args)
    print(f"{time.perf_counter() - start:.0f} s in all", flush=True)
    common.save(results, "curate", args)


if __name__ == "__main__":
    main()

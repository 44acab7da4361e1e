"""The evaluate stage: every contestant on every benchmark, every reply kept and graded. `scores` makes the statistics.

Contestants that share a model share an engine, with all their adapters in it; engines run one after another. Adapters
that vLLM does not put on (DoRA) share another, which is given one merged model after the other.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from ..backends import engine_of, load_sampler
from ..backends.control_tokens import ControlText
from ..backends.sampler import Adapter, Request, Sampler
from ..errors import UserError
from ..io.progress import say
from ..prompts import DEFAULT, PAPER, Messages, Texts, default_messages, student_messages
from ..recipe.schema import BASE, DEFAULT_PROMPT, BenchmarkConfig, ModelConfig, SamplerConfig, SamplingConfig
from ..records import Generation, Problem, generations_file, read_jsonl, write_jsonl
from ..run.kept import Kept
from ..seeds import derive_seed
from ..verifier.protocol import VERDICTS
from ..verifier.replies import answer_part
from ..verifier.verifiers import MATH, Spec, prepare, verifier_for

Benchmarks = Mapping[str, tuple[BenchmarkConfig, Sequence[Problem]]]


@dataclass(frozen=True)
class Contestant:
    """What takes part: a model, or a model with a LoRA adapter, under a name and a recipe's seed.

    All requests' seeds derive from `seed` alone, so what differs between two contestants' replies is the model.
    Several seeds of one name are one entry of the report, with a mean and a spread.
    """

    name: str
    model: ModelConfig
    adapter: Path | None
    seed: int
    texts: Texts | None = PAPER  # of the prompt; None: the chat template's own default
    hardly_trained: bool = False  # its adapter may be too small to change a reply: that is said, and not refused

    @property
    def prompt(self) -> str:
        """The prompt by the name that stored replies and scores have for it."""
        return DEFAULT if self.texts is None else self.texts.name

    def asked(self, question: str) -> Messages:
        return default_messages(question) if self.texts is None else student_messages(question, self.texts)


def base_contestants(
    model: ModelConfig, seed: int, default_prompt: bool = False, texts: Texts = PAPER
) -> list[Contestant]:
    """The base, and on demand the base once more under its chat template's own default prompt."""
    base = Contestant(BASE, model, None, seed, texts)
    return [base, dataclasses.replace(base, name=DEFAULT_PROMPT, texts=None)] if default_prompt else [base]


def evaluate(
    contestants: Sequence[Contestant],
    benchmarks: Benchmarks,
    sampler: SamplerConfig,
    folder: Path,
    make_sampler: Callable[..., Sampler] = load_sampler,
) -> list[Generation]:
    """All generations, one contestant after another; those of each decoding are kept in `folder` as soon as they are
    there.

    What is kept already is not sampled again, and an engine starts only where something is missing.

    Raises:
        UserError: a prompt leaves no room for the reply, an adapter that changes no reply at all, a kept file that does
            not hold what it should, or two contestants with the same name and seed.
    """
    for (name, seed), times in Counter((e.name, e.seed) for e in contestants).items():
        if times > 1:
            raise UserError(f"Two of those to be evaluated are named {name!r} (seed {seed}); give one another name.")
    jobs = [_jobs(contestant, benchmarks, folder) for contestant in contestants]
    places = [job.path for own in jobs for job in own if not job.path.exists()]
    engines: dict[tuple[str, bool], list[_Job]] = {}
    for contestant, own in zip(contestants, jobs, strict=True):
        engines.setdefault((json.dumps(asdict(contestant.model)), _merged(contestant, sampler)), []).extend(own)
    for (_, merged), group in engines.items():
        missing = [job for job in group if not job.path.exists()]
        if any(job.unasked for job in missing):
            with_adapters = not merged and any(job.contestant.adapter is not None for job in missing)
            first = missing[0].contestant
            engine = make_sampler(first.model, sampler, first.seed, adapters=with_adapters)
            try:
                for job in missing:
                    job.sample(engine, sampler.max_model_len, f"[{places.index(job.path) + 1}/{len(places)}]")
                    job.grade()
            finally:
                engine.close()
        for job in missing:
            job.grade()
    kept = [[g for job in own for g in job.read()] for own in jobs]
    for contestant, replies in zip(contestants, kept, strict=True):
        if contestant.adapter is not None:
            assert_changes_something(contestant, replies, contestants, kept)
    return [g for replies in kept for g in replies]


def assert_adapters_fit(contestants: Sequence[Contestant], sampler: SamplerConfig) -> None:
    """Compare each adapter with its base before an engine starts.

    Raises:
        UserError: one is of another base, or has what the engine does not put on.
    """
    from ..backends.adapters import assert_fits

    for contestant in contestants:
        if contestant.adapter is not None and not contestant.model.name.startswith(("http://", "https://")):
            assert_fits(contestant.model, contestant.adapter, engine_of(sampler), contestant.name)


def _merged(contestant: Contestant, sampler: SamplerConfig) -> bool:
    """Whether its adapter is one that the engine is given merged into the base."""
    if contestant.adapter is None or engine_of(sampler) != "vllm":
        return False
    from ..backends.adapters import merged_for_vllm

    return merged_for_vllm(contestant.adapter)


def decodings(config: BenchmarkConfig) -> list[tuple[SamplingConfig, int]]:
    """The decodings with their numbers of replies a question; greedy is temperature 0."""
    sampled = [] if config.temperature is None else [(config.temperature, config.samples)]
    return [
        (
            SamplingConfig(
                temperature=temperature,
                top_p=config.top_p,
                top_k=config.top_k,
                repetition_penalty=config.repetition_penalty,
                max_tokens=config.max_tokens,
            ),
            samples,
        )
        for temperature, samples in [(0.0, 1)] * config.greedy + sampled
    ]


def check_room(benchmark: str, problem: Problem, length: int, max_tokens: int, max_model_len: int) -> None:
    """A prompt of that length leaves room for the reply."""
    if length + max_tokens > max_model_len:
        raise UserError(
            f"Benchmark {benchmark!r}: problem {problem.id} takes {length} tokens and its reply up to {max_tokens},"
            f" more than sampler.max_model_len ({max_model_len}). Raise it, or lower the benchmark's max_tokens; a"
            " benchmark is never scored on a part of its problems."
        )


def _jobs(contestant: Contestant, benchmarks: Benchmarks, folder: Path) -> list[_Job]:
    return [
        _Job(contestant, name, problems, decoding, samples, config.verifier, folder)
        for name, (config, problems) in benchmarks.items()
        for decoding, samples in decodings(config)
    ]


@dataclass
class _Job:
    """One contestant on one benchmark under one decoding: a file of generations."""

    contestant: Contestant
    benchmark: str
    problems: Sequence[Problem]
    decoding: SamplingConfig
    samples: int
    verifier: Spec
    folder: Path

    @property
    def path(self) -> Path:
        e = self.contestant
        return self.folder / generations_file(e.name, e.seed, self.benchmark, self.decoding.temperature)

    @cached_property
    def wanted(self) -> dict[str, tuple[Problem, int]]:
        """Problem and sample of each reply, by its name."""
        return {f"{p.id}/{sample}": (p, sample) for p in self.problems for sample in range(self.samples)}

    @cached_property
    def kept(self) -> Kept:
        """The replies before they are graded: a server or a grader that fails loses nothing."""
        return Kept(self.folder / "kept" / self.path.name)

    @property
    def unasked(self) -> list[str]:
        return [name for name in self.wanted if name not in self.kept.replies]

    def sample(self, engine: Sampler, max_model_len: int, place: str) -> None:
        """Sample what is not there yet. `place`: which of how many files it is, for the bar."""
        contestant, decoding = self.contestant, self.decoding
        requests: dict[str, Request] = {}
        prompts: dict[str, list[int]] = {}
        for name in self.unasked:
            problem, sample = self.wanted[name]
            if problem.id not in prompts:
                try:
                    prompts[problem.id] = engine.render(contestant.asked(problem.question))
                except ControlText as error:
                    raise UserError(f"Benchmark {self.benchmark!r}: problem {problem.id}: {error}.") from None
            ids = prompts[problem.id]
            check_room(self.benchmark, problem, len(ids), decoding.max_tokens, max_model_len)
            requests[name] = Request(ids, self._seed(problem, sample))
        adapter = Adapter(f"{contestant.name}-{contestant.seed}", contestant.adapter) if contestant.adapter else None
        kind = f"T={decoding.temperature:g}" if decoding.temperature else "greedy"
        title = f"{place} {contestant.name}-s{contestant.seed}: {self.benchmark}, {kind}"
        if requests:
            self.kept.sample(engine, requests, decoding, adapter, title)

    def _seed(self, problem: Problem, sample: int) -> int:
        return derive_seed(self.contestant.seed, "evaluate", self.benchmark, problem.id, sample)

    def grade(self) -> None:
        if not self.path.exists():
            generations = list(self._generations())
            prepare(verifier_for(self.verifier), ((answer_part(g.text), g.gold) for g in generations))
            write_jsonl(self.path, (graded(generation, self.verifier) for generation in generations))

    def _generations(self) -> Iterator[Generation]:
        for name, (problem, sample) in self.wanted.items():
            reply = self.kept.replies[name]
            assert reply is not None
            yield Generation(
                model=self.contestant.name,
                run_seed=self.contestant.seed,
                benchmark=self.benchmark,
                problem_id=problem.id,
                sample=sample,
                prompt=self.contestant.prompt,
                **asdict(self.decoding),
                seed=self._seed(problem, sample),
                text=reply.text,
                n_tokens=len(reply.token_ids),
                finish_reason=reply.finish_reason,
                verdict="",
                answer=None,
                gold=problem.gold,
            )

    def read(self) -> list[Generation]:
        """The kept generations.

        Raises:
            UserError: they are another model's or benchmark's, sampled otherwise, graded against another gold answer,
                or not one for each problem and sample.
        """
        generations = read_jsonl(self.path, Generation)
        contestant = self.contestant
        asked = {"prompt": contestant.prompt, **asdict(self.decoding)}
        golds = {problem.id: problem.gold for problem in self.problems}
        for number, g in enumerate(generations, start=1):
            if (g.model, g.run_seed, g.benchmark) != (contestant.name, contestant.seed, self.benchmark):
                raise UserError(
                    f"{self.path}: holds generations of {g.model!r} (seed {g.run_seed}) on {g.benchmark!r}, where those"
                    f" of {contestant.name!r} (seed {contestant.seed}) on {self.benchmark!r} were expected; delete the"
                    " file to sample them again."
                )
            for name, value in {**asked, "gold": golds.get(g.problem_id, g.gold)}.items():
                if getattr(g, name) != value:
                    raise UserError(
                        f"{self.path}, reply {number}: {name} is {getattr(g, name)!r}, where {value!r} was expected;"
                        " delete the file to sample it again."
                    )
            if g.verdict not in VERDICTS:
                raise UserError(
                    f"{self.path}, reply {number}: the verdict {g.verdict!r} is none of {', '.join(VERDICTS)}; delete"
                    " the file to sample it again."
                )
        counts = Counter((g.problem_id, g.sample) for g in generations)
        wanted = Counter((problem.id, sample) for problem in self.problems for sample in range(self.samples))
        if counts != wanted:
            (problem_id, sample), _ = next(iter(((wanted - counts) or (counts - wanted)).items()))
            what = "is missing" if wanted - counts else "stands there twice, or should not be there"
            raise UserError(
                f"{self.path}: {len(generations):,} generations where {wanted.total():,} were expected; sample {sample}"
                f" of problem {problem_id} {what}. Delete the file to sample them again."
            )
        return generations


def graded(g: Generation, verifier: Spec = MATH) -> Generation:
    """The generation with this verifier's verdict, from its text behind any thoughts, gold and finish reason alone."""
    result = verifier_for(verifier).grade(answer_part(g.text), g.gold, g.finish_reason)
    return dataclasses.replace(g, verdict=result.verdict.value, answer=result.answer, note=result.note)


def assert_changes_something(
    contestant: Contestant,
    replies: Sequence[Generation],
    contestants: Sequence[Contestant],
    kept: Sequence[Sequence[Generation]],
) -> None:
    """An engine that ignores an adapter serves the base without a word: then every reply is the base's."""

    def key(g: Generation) -> tuple[object, ...]:
        return g.benchmark, g.problem_id, g.temperature, g.seed if g.temperature else 0

    bare = {
        key(g): g.text
        for other, its in zip(contestants, kept, strict=True)
        if other.adapter is None and (other.model, other.prompt) == (contestant.model, contestant.prompt)
        for g in its
    }
    shared = [g for g in replies if key(g) in bare]
    if shared and all(g.text == bare[key(g)] for g in shared):
        found = f"The adapter {contestant.name!r} ({contestant.adapter}) changes none of {len(shared):,} replies"
        if contestant.hardly_trained:
            say(f"{found}, after so few steps.")
            return
        raise UserError(
            f"{found}: it was not applied, or it has learnt nothing. Look at the training curve (train/history.jsonl)"
            " and at the learning rate."
        )

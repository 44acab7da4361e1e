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
from itertools import islice
from pathlib import Path

from ..backends import engine_of, load_sampler
from ..backends.control_tokens import ControlText
from ..backends.sampler import Adapter, Request, Sampler
from ..errors import UserError
from ..io.addresses import is_server
from ..io.progress import say
from ..prompts import DEFAULT, PAPER, Messages, Texts, default_messages, student_messages
from ..recipe.schema import BASE, DEFAULT_PROMPT, BenchmarkConfig, ModelConfig, SamplerConfig, SamplingConfig
from ..records import Generation, Problem, generations_file, iter_jsonl, write_jsonl
from ..run.kept import Kept
from ..seeds import derive_seed
from ..verifier.protocol import VERDICTS
from ..verifier.replies import answer_part
from ..verifier.verifiers import MATH, TOGETHER, Spec, prepare, verifier_for

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
) -> Iterator[Generation]:
    """All generations, one contestant after another; those of each decoding are kept in `folder` as soon as they are
    there. When this returns all are sampled and graded; they are read, and checked, as they are gone through.

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
    everyone = [job for own in jobs for job in own]
    for contestant, own in zip(contestants, jobs, strict=True):
        if contestant.adapter is not None and own:
            assert_changes_something(own, everyone)
    return (g for job in everyone for g in job.read())


def assert_adapters_fit(contestants: Sequence[Contestant], sampler: SamplerConfig) -> None:
    """Compare each adapter with its base before an engine starts.

    Raises:
        UserError: one is of another base, or has what the engine does not put on.
    """
    from ..backends.adapters import assert_fits

    for contestant in contestants:
        if contestant.adapter is not None and not is_server(contestant.model.name):
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
        """Write the file of generations; what was needed to sample them is let go."""
        if not self.path.exists():
            write_jsonl(self.path, self._graded())
        for held in ("wanted", "kept"):
            vars(self).pop(held, None)

    def _graded(self) -> Iterator[Generation]:
        generations = self._generations()
        while some := list(islice(generations, TOGETHER)):
            prepare(verifier_for(self.verifier), ((answer_part(g.text), g.gold) for g in some))
            yield from (graded(generation, self.verifier) for generation in some)
            some.clear()  # before the next are made

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

    def read(self) -> Iterator[Generation]:
        """The kept generations, one at a time.

        Raises:
            UserError: they are another model's or benchmark's, sampled otherwise, graded against another gold answer,
                or not one for each problem and sample.
        """
        # Once each: of the first pairs several may be of one question.
        asked = list({problem.id: problem for problem in self.problems}.values())
        places = {problem.id: place for place, problem in enumerate(asked)}
        seen = bytearray(len(places) * self.samples)
        surplus: tuple[str, int] | None = None  # the first that stands there twice, or that nobody asked for
        number = 0
        for number, g in enumerate(iter_jsonl(self.path, Generation), start=1):
            place = places.get(g.problem_id)
            self._check(g, number, None if place is None else asked[place].gold)
            one = None if place is None or not 0 <= g.sample < self.samples else place * self.samples + g.sample
            if one is None or seen[one]:
                surplus = surplus or (g.problem_id, g.sample)
            else:
                seen[one] = True
            yield g
        missing = seen.find(0)
        if missing >= 0 or surplus:
            problem_id, sample = surplus or ("", 0)
            if missing >= 0:
                problem_id, sample = asked[missing // self.samples].id, missing % self.samples
            what = "is missing" if missing >= 0 else "stands there twice, or should not be there"
            raise UserError(
                f"{self.path}: {number:,} generations where {len(seen):,} were expected; sample {sample}"
                f" of problem {problem_id} {what}. Delete the file to sample them again."
            )

    def _check(self, g: Generation, number: int, gold: str | None) -> None:
        """Whether a kept generation is one of this job's. `gold`: its problem's, if that is one of the benchmark."""
        contestant = self.contestant
        if (g.model, g.run_seed, g.benchmark) != (contestant.name, contestant.seed, self.benchmark):
            raise UserError(
                f"{self.path}: holds generations of {g.model!r} (seed {g.run_seed}) on {g.benchmark!r}, where those"
                f" of {contestant.name!r} (seed {contestant.seed}) on {self.benchmark!r} were expected; delete the"
                " file to sample them again."
            )
        for name, value in {**self._asked, "gold": g.gold if gold is None else gold}.items():
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

    @cached_property
    def _asked(self) -> dict[str, object]:
        """How each of its generations was sampled."""
        return {"prompt": self.contestant.prompt, **asdict(self.decoding)}


def graded(g: Generation, verifier: Spec = MATH) -> Generation:
    """The generation with this verifier's verdict, from its text behind any thoughts, gold and finish reason alone."""
    result = verifier_for(verifier).grade(answer_part(g.text), g.gold, g.finish_reason)
    return dataclasses.replace(g, verdict=result.verdict.value, answer=result.answer, note=result.note)


def assert_changes_something(own: Sequence[_Job], jobs: Sequence[_Job]) -> None:
    """An engine that ignores an adapter serves the base without a word: then every reply is the base's.

    `own`: an adapter's jobs. They are read side by side with the base's, as far as to the first reply that differs.
    """
    contestant, shared = own[0].contestant, 0
    for job in own:
        bare = next((other for other in reversed(jobs) if _is_bare(other, job)), None)
        if bare is None:
            continue
        for theirs, base in zip(job.read(), bare.read(), strict=False):  # `read` says where some are missing
            if (theirs.problem_id, theirs.sample, theirs.text) != (base.problem_id, base.sample, base.text):
                return
            shared += 1
    if shared:
        found = f"The adapter {contestant.name!r} ({contestant.adapter}) changes none of {shared:,} replies"
        if contestant.hardly_trained:
            say(f"{found}, after so few steps.")
            return
        raise UserError(
            f"{found}: it was not applied, or it has learnt nothing. Look at the training curve (train/history.jsonl)"
            " and at the learning rate."
        )


def _is_bare(job: _Job, adapters: _Job) -> bool:
    """Whether it is the same model without an adapter, asked the same: sampled replies hang on the seed, too."""
    one, other = job.contestant, adapters.contestant
    return (
        one.adapter is None
        and (one.model, one.prompt, job.benchmark, job.decoding)
        == (other.model, other.prompt, adapters.benchmark, adapters.decoding)
        and (one.seed == other.seed or not job.decoding.temperature)
    )

"""The chain of stages: what determines each one's result, and how recipe and folders become its arguments.

The only file that knows more than one stage. Each stage runs in a process of its own (`sweep`), so that a GPU's memory
is free before the next begins; heavy imports are inside the functions. `base`, `curate`, `teach` and `train` belong to
one student; `evaluate` and `report` to all students of the recipe together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends import TrainingBackend, load_sampler
from ..backends.control_tokens import REMEDY, markers
from ..backends.sources import adapter_path
from ..errors import UserError
from ..io import disk
from ..io.files import read_object
from ..io.progress import say
from ..machine.hardware import here
from ..machine.out_of_memory import explained
from ..machine.plan import beside
from ..recipe.methods import METHODS
from ..recipe.schema import BenchmarkConfig, Recipe
from ..records import EXAMPLES, EXAMPLES_BENCHMARK, Pair, Problem, Rollout, read_jsonl, write_jsonl
from ..run import clock
from ..run import keys as identity
from ..run.manifests import FORMAT, digest
from ..run.rundir import RunDir, Work

if TYPE_CHECKING:
    pass

BEFORE = "round-before"  # the place of the train stage whose student becomes the base of this round


@dataclass(frozen=True)
class Stage:
    name: str
    reads: Callable[[Recipe], tuple[str, ...]]  # the stages whose folders it reads
    determined_by: Callable[[Recipe, RunDir], dict[str, Any]]  # its part of the recipe, and what files it reads
    run: Callable[[Recipe, RunDir, Work], None]

    def key(self, recipe: Recipe, run: RunDir) -> tuple[str, dict[str, Any]]:
        """The hash of all that determines the result, and that itself.

        Raises:
            UserError: a stage that this one reads has not been run.
        """
        inputs = {}
        for name in self.reads(recipe):
            manifest = run.manifest(name)
            if manifest is None:
                raise UserError(
                    f"Stage {self.name} reads what {name} writes, and {run.stage(name)} is not there: run"
                    f" `ssb {name}` first."
                )
            inputs[name] = manifest["id"]
        determined_by = {"format": FORMAT, "seed": recipe.seed, **self.determined_by(recipe, run), "inputs": inputs}
        return digest(determined_by), determined_by


def _adapters(recipe: Recipe, run: RunDir) -> dict[str, str]:
    """The identity of every student's adapter."""
    from ..run.students import trained

    return {s.label: (s.run.manifest("train") or {})["id"] for s in trained(recipe, run.root)}


def _curate(recipe: Recipe, run: RunDir, work: Work) -> None:
    from ..data.problems import load_problems
    from ..method.curate import Curator, bring_along

    problems = load_problems(recipe.problems)
    if recipe.curate.pairs_file is not None:
        from ..backends.transformers import load_tokenizer
        from ..data.pairs import load_pairs

        pairs = load_pairs(recipe.curate.pairs_file, load_tokenizer(recipe.model), recipe.prompts.control_text)
        work.summary = asdict(bring_along(pairs, problems, recipe.curate, work.folder))
        return
    curator = Curator(
        recipe.curate,
        make_sampler=lambda: load_sampler(recipe.model, recipe.sampler, recipe.seed, adapters=False),
        max_model_len=recipe.sampler.max_model_len,
        seed=recipe.seed,
        folder=work.folder,
        wording=recipe.prompts.wording,
        control_text=recipe.prompts.control_text,
    )
    statistics = curator.run(problems)
    work.tokens, work.summary = statistics.tokens, asdict(statistics)


def read_pairs(run: RunDir) -> list[Pair]:
    """The curated pairs. Raises UserError where there are none, with the counts that say why."""
    pairs = read_jsonl(run.stage("curate") / "pairs.jsonl", Pair)
    if not pairs:
        s = read_object(run.stage("curate") / "statistics.json")
        raise UserError(
            f"No pair came out of {s['questions']:,} questions: {s['all_right']:,} with only right rollouts,"
            f" {s['all_wrong']:,} with only wrong ones, {s['mixed']:,} mixed, {s['accepted']:,} of {s['refined']:,}"
            f" refinements right, {s['skipped']:,} skipped ({run.stage('curate') / 'statistics.json'}). Without a pair"
            " there is nothing to train on: take questions that the model gets right now and then."
        )
    return pairs


def _teach(recipe: Recipe, run: RunDir, work: Work) -> None:
    backend = TrainingBackend(recipe.model)  # first: Unsloth has to be imported before transformers
    from ..backends.chat_template import pad_id
    from ..backends.transformers import load_tokenizer
    from ..backends.wrapped import embedded
    from ..method.selfchecks import check_teacher
    from ..method.targets import TargetWriter
    from ..method.teach import teach
    from ..method.views import examples as examples_of

    pairs = read_pairs(run)
    writer, kept = TargetWriter(work.folder), {}
    if recipe.teach.targets != "online":
        tokenizer = load_tokenizer(recipe.model)
        examples = examples_of(recipe, pairs, tokenizer)
        temperature = recipe.train.temperature / recipe.train.sharpen
        model = backend.load(recipe.sampler.max_model_len)
        pad = pad_id(tokenizer, embedded(model))
        check_teacher(recipe, model, examples)
        taught = teach(model, examples, recipe.teach, temperature, pad, writer)
        work.tokens = taught.tokens
        if taught.mean_mass is not None:
            kept = {"mean_mass": taught.mean_mass, "least_mass": taught.least_mass, "mass_temperature": temperature}
    writer.close({"targets": recipe.teach.targets, "temperature": _stored_temperature(recipe)})
    replies = sum(len(pair.reply_ids) for pair in pairs)
    work.summary = {
        "targets": recipe.teach.targets,
        "pairs": len(pairs),
        "reply_tokens": replies,
        "backend": backend.name,
        **kept,
    }


def _stored_temperature(recipe: Recipe) -> float | None:
    """The temperature that the targets belong to: the teacher's where a tail was made at it, else none."""
    return recipe.train.temperature / recipe.train.sharpen if recipe.teach.targets == "top_k" else None


def _train(recipe: Recipe, run: RunDir, work: Work) -> None:
    method = {"ssb": _train_ssb, "grpo": _train_grpo}.get(recipe.train.method, _train_sft)
    result = method(recipe, run, work.folder)
    from ..backends.transformers import load_tokenizer  # after Unsloth
    from ..method.selfchecks import check_trained

    model, history, work.tokens = (result.pop(key) for key in ("model", "history", "tokens"))
    check_trained(model, load_tokenizer(recipe.model))
    if recipe.train.token_pairs and "curate" in METHODS[recipe.train.method].reads:
        from ..method.views import examples as examples_of
        from ..training.token_kl import FILE, measure

        tokenizer = load_tokenizer(recipe.model)
        examples = examples_of(recipe, read_pairs(run), tokenizer)[: recipe.train.token_pairs]
        with clock.on(clock.MEASURING):
            write_jsonl(work.folder / FILE, measure(model, tokenizer, examples))
    if recipe.train.drift_texts is not None:
        from ..training.drift import drift, unrelated

        with clock.on(clock.MEASURING):
            result["drift"] = drift(model, unrelated(recipe.train.drift_texts, load_tokenizer(recipe.model)))
    write_jsonl(work.folder / "history.jsonl", history)
    losses = [row["loss"] for row in history if "loss" in row]
    steps = {"steps": history[-1]["step"], "first_loss": losses[0], "last_loss": losses[-1]}
    work.summary = {"method": recipe.train.method, **steps, **result}


def _train_ssb(recipe: Recipe, run: RunDir, folder: Path) -> dict[str, Any]:
    backend = TrainingBackend(recipe.model)  # first: Unsloth has to be imported before transformers
    from ..backends.transformers import load_tokenizer
    from ..method.selfchecks import check_student
    from ..method.targets import Targets
    from ..method.views import examples as examples_of
    from ..training.ssb import train

    tokenizer = load_tokenizer(recipe.model)
    pairs = read_pairs(run)
    examples = examples_of(recipe, pairs, tokenizer)
    targets = None if recipe.teach.targets == "online" else Targets(run.stage("teach"))
    length, checkpointing = recipe.sampler.max_model_len, recipe.train.gradient_checkpointing
    model = backend.load(length, recipe.train.lora, recipe.seed, checkpointing)
    check_student(recipe, model, examples, targets)
    result = train(
        model,
        tokenizer,
        examples,
        targets,
        _probes(recipe, run, pairs),
        recipe.train,
        recipe.curate.rollout.max_tokens,
        recipe.seed,
        folder,
        recipe.prompts.wording,
    )
    tokens = sum(len(e.student_ids) + len(e.reply_ids) for e in examples)
    if recipe.teach.targets == "online":  # the teacher reads with the student
        tokens += sum(len(e.teacher_ids) + len(e.reply_ids) for e in examples)
    tokens *= recipe.train.epochs
    return {**result, "tokens": tokens, "backend": backend.name}


def _train_sft(recipe: Recipe, run: RunDir, folder: Path) -> dict[str, Any]:
    from ..backends.transformers import load_model, load_tokenizer
    from ..training.sft import learnt_from, train_sft

    tokenizer = load_tokenizer(recipe.model)
    pairs, rollouts = read_pairs(run), run.stage("curate") / "rollouts.jsonl"
    return train_sft(
        load_model(recipe.model),
        tokenizer,
        learnt_from(
            recipe,
            pairs,
            read_jsonl(run.stage("curate") / "questions.jsonl", Problem),
            read_jsonl(rollouts, Rollout) if rollouts.exists() else [],
            tokenizer,
        ),
        _probes(recipe, run, pairs),
        recipe.train,
        recipe.curate.rollout.max_tokens,
        recipe.seed,
        folder,
        recipe.prompts.wording,
    )


def _train_grpo(recipe: Recipe, run: RunDir, folder: Path) -> dict[str, Any]:
    from ..backends.transformers import load_model, load_tokenizer
    from ..backends.vllm import start
    from ..data.problems import load_problems
    from ..training.grpo import train_grpo

    tokenizer = load_tokenizer(recipe.model)
    return train_grpo(
        load_model(recipe.model),
        tokenizer,
        _rendered_by_trl(load_problems(recipe.problems), tokenizer, recipe.prompts.control_text),
        recipe.prompts.wording,
        recipe.train,
        recipe.sampler.max_model_len,
        recipe.seed,
        folder,
        partial(start, recipe.model, recipe.sampler),
    )


def _rendered_by_trl(problems: Sequence[Problem], tokenizer: Any, control_text: str) -> list[Problem]:
    """Those that TRL, which renders and tokenizes by itself, reads as the text that they are."""
    from ..backends.chat_template import spells_control_tokens

    unsafe = [problem for problem in problems if spells_control_tokens(tokenizer, problem.question)]
    if unsafe and control_text == "refuse":
        raise UserError(f"Question {unsafe[0].id} spells a control token of the model; {REMEDY}")
    if unsafe:
        say(f"grpo: {len(unsafe):,} questions left out, since they spell a control token (prompts.control_text)")
    return [problem for problem in problems if problem not in unsafe]


def _train_identity(recipe: Recipe) -> dict[str, Any]:
    """GRPO reads problems and no pairs. The others read none of its settings; their tokens are compared with a teacher
    that is shown this hint.
    """
    train, prompts = identity.of_training(recipe.train), asdict(recipe.prompts)
    if recipe.train.method == "grpo":
        return {"train": train, "prompts": prompts, "problems": identity.of_problems(recipe.problems)}
    del train["grpo"]
    return {"train": train, "prompts": prompts, "hint": recipe.teach.hint}


def _probes(recipe: Recipe, run: RunDir, pairs: Sequence[Pair]) -> list[Problem]:
    """Questions that were sampled and gave no pair: the student's own reply length is measured on them."""
    paired = {pair.problem_id for pair in pairs}
    asked = read_jsonl(run.stage("curate") / "questions.jsonl", Problem)
    rest = [problem for problem in asked if problem.id not in paired and not markers(problem.question)]
    return rest[: recipe.train.probe_questions]


def _evaluate(recipe: Recipe, run: RunDir, work: Work) -> None:
    from ..data.problems import load_benchmark
    from ..evaluation.carried import carry_over, origins
    from ..evaluation.evaluate import Entrant, Prompt, assert_adapters_fit, base_entrants, evaluate
    from ..evaluation.scores import as_rows, score
    from ..run.students import trained
    from .preflight import check_references

    if not recipe.evaluate.benchmarks:
        raise UserError("evaluate.benchmarks: empty, so there is nothing to evaluate on; name one in the recipe.")
    benchmarks = {name: (config, load_benchmark(name, config)) for name, config in recipe.evaluate.benchmarks.items()}
    everyone = trained(recipe, run.root)
    for student in everyone:
        student.run.check("train")
    if run.manifest("curate") is not None:
        run.check("curate", ["pairs.jsonl"])
        # The first pairs' own questions: no score, since the students were trained on them, but the report shows the
        # replies.
        first = [Problem(pair.problem_id, pair.question, pair.gold) for pair in read_pairs(run)[:EXAMPLES]]
        shown = BenchmarkConfig(source="pairs", temperature=None, max_tokens=recipe.curate.rollout.max_tokens)
        benchmarks[EXAMPLES_BENCHMARK] = (shown, first)
    seeds = list(dict.fromkeys(student.recipe.seed for student in everyone))
    prompt: Prompt = "tutor" if recipe.prompts.wording == "paper" else "released"  # one for all that take part
    entrants = [
        entrant
        for seed in seeds
        for entrant in base_entrants(recipe.model, seed, recipe.evaluate.default_prompt, prompt)
    ]
    entrants += [
        Entrant(s.name, s.recipe.model, s.run.stage("train") / "adapter", s.recipe.seed, prompt) for s in everyone
    ]
    for name, source in recipe.evaluate.adapters.items():
        path = adapter_path(source, f"evaluate.adapters.{name}", recipe.sampler.max_lora_rank)
        entrants += [Entrant(name, recipe.model, path, seed, prompt) for seed in seeds]
    assert_adapters_fit(entrants, recipe.sampler)
    carry_over(run.stage("evaluate"), work.folder, origins(entrants, benchmarks, recipe.sampler))
    for name, (_, problems) in benchmarks.items():
        if name != EXAMPLES_BENCHMARK:
            write_jsonl(work.folder / f"problems-{name}.jsonl", problems)
    names = list(dict.fromkeys(entrant.name for entrant in entrants))
    check_references(recipe, names)
    against = [(name, ref) for ref in recipe.evaluate.references for name in names if name not in (ref, "base")]
    generations = evaluate(entrants, benchmarks, recipe.sampler, work.folder)
    scored = [g for g in generations if g.benchmark in recipe.evaluate.benchmarks]
    scores, differences = score(scored, recipe.evaluate.benchmarks, recipe.seed, against)
    result = {"scores": as_rows(scores), "differences": as_rows(differences)}
    disk.write_text(work.folder / "scores.json", json.dumps(result, indent=1) + "\n")
    work.tokens = sum(g.n_tokens for g in generations)
    work.summary = {"generations": len(generations)}


def _report(recipe: Recipe, run: RunDir, work: Work) -> None:
    from ..report.write import write_report
    from ..run.students import trained

    first: dict[str, RunDir] = {}  # of each method
    for student in trained(recipe, run.root):
        for stage in ("curate", "train"):  # what a report reads; whoever is short of disk may delete the targets
            if stage in student.chain:
                student.run.check(stage)
        first.setdefault(student.recipe.train.method, student.run)
    write_report(recipe, run, work.folder, first)


def _base(recipe: Recipe, run: RunDir, work: Work) -> None:
    """The student of the round before, merged into its weights: the base of this round."""
    from ..backends.transformers import save_merged

    assert run.model_before is not None
    save_merged(run.model_before, run.stage(BEFORE) / "adapter", work.folder / "model")


STAGES = {
    stage.name: stage
    for stage in (
        Stage("base", lambda r: (BEFORE,), lambda r, run: {}, _base),
        Stage(
            "curate",
            lambda r: (),
            lambda r, run: {
                "model": identity.of_model(r.model),
                "problems": identity.of_problems(r.problems),
                "sampler": identity.of_sampler(r.sampler),
                "curate": identity.of_curation(r.curate),
                "prompts": asdict(r.prompts),
            },
            _curate,
        ),
        Stage(
            "teach",
            lambda r: ("curate",),
            lambda r, run: {
                "model": identity.of_model(r.model, trained=True),
                "prompts": asdict(r.prompts),
                "teach": asdict(r.teach),
                "temperature": _stored_temperature(r),
            },
            _teach,
        ),
        Stage(
            "train",
            lambda r: METHODS[r.train.method].reads,
            lambda r, run: {"model": identity.of_model(r.model, trained=r.train.method == "ssb"), **_train_identity(r)},
            _train,
        ),
        Stage(
            "evaluate",
            lambda r: (),
            lambda r, run: {
                "model": identity.of_model(r.model),
                "sampler": identity.of_sampler(r.sampler),
                "wording": r.prompts.wording,
                "default_prompt": r.evaluate.default_prompt,
                "adapters": {name: identity.of_path(source) for name, source in r.evaluate.adapters.items()},
                "references": r.evaluate.references,
                "benchmarks": {name: identity.of_problems(b) for name, b in r.evaluate.benchmarks.items()},
                "students": _adapters(r, run),
            },
            _evaluate,
        ),
        Stage(
            "report",
            lambda r: ("evaluate",),
            lambda r, run: {"recipe": identity.of_recipe(r)},
            _report,
        ),
    )
}


def _beside_the_plan(name: str, recipe: Recipe, run: RunDir) -> None:
    """On a GPU: what the stage took, beside what was planned."""
    card, manifest = here(), run.manifest(name)
    line = beside(recipe, name, manifest["cost"], card) if card is not None and manifest is not None else ""
    if line:
        say(line)


def run_stage(name: str, recipe: Recipe, run: RunDir, force: bool, first: Callable[[], None] | None = None) -> bool:
    """Run a stage in this process unless it is fresh. Returns whether it ran. `first` is called before it if it is one
    that reads no other's folder.

    Raises:
        UserError: a stage that this one reads has not been run, was run with other settings, or has files that are no
            more those that it wrote; or there is no memory left on the GPU, or no room on the disk.
    """
    stage = STAGES[name]
    for own in (*stage.reads(recipe), name):
        if own not in run.places:  # another student's are in the hands of whoever holds that one's lock
            run.settle(own)
    key, determined_by = stage.key(recipe, run)
    for before in stage.reads(recipe):
        if before != BEFORE and not run.is_fresh(before, STAGES[before].key(recipe, run)[0]):
            raise UserError(
                f"{run.stage(before)}: made with other settings than this recipe's, or from older inputs; run"
                f" `ssb {before}` first, or `ssb run`."
            )
        run.check(before)
    if name != "base":
        run.check("base")  # the model of a later round
    if not force and run.is_fresh(name, key):
        return False
    if first is not None and not stage.reads(recipe):
        first()
    with (
        explained(name, recipe, run.stage(name)),
        run.write(name, key, determined_by, by_file=name == "evaluate") as work,
    ):
        stage.run(recipe, run, work)
    say(f"{name}: done, {run.stage(name)}")
    _beside_the_plan(name, recipe, run)
    return True

"""A run as far as its targets: pairs and rollouts that were written and not sampled, taught by the pocket."""

import json
from pathlib import Path

from stage_keys import key_of

from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.method.curate import graded
from ssb_unsloth.pipeline.students import scope_of, students
from ssb_unsloth.pipeline.table import stage
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.recipe.loading import load, save
from ssb_unsloth.records import Pair, stable_id, write_jsonl

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
SMALL = ("problems.limit=4", "curate.pairs=3", "model.backend=transformers", "sampler.engine=transformers")


def rollouts_of(problem, tokenizer):
    """Two right and two wrong replies, as a sampler gives them."""
    texts = [f"Step {k}: so it is \\boxed{{{int(problem.gold) + k % 2}}}." for k in range(4)]
    replies = [
        Completion([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], text, "stop")
        for text in texts
    ]
    return [graded(problem, f"rollout-{k}", reply, 1000 + k, "math", False) for k, reply in enumerate(replies)]


def pair_of(problem, rollouts, tokenizer):
    reply = f"Not {rollouts[1].answer}: it is \\boxed{{{problem.gold}}}."
    ids = [*tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id]
    right, wrong = rollouts[0], rollouts[1]
    return Pair(
        id=stable_id(problem.id, right.text, wrong.text, reply),
        problem_id=problem.id,
        question=problem.question,
        gold=problem.gold,
        right=right.text,
        wrong=wrong.text,
        reply=reply,
        reply_ids=ids,
        right_id=right.id,
        wrong_id=wrong.id,
        refinement_id=f"{problem.id}-refinement-0",
    )


def student_in(folder, *changes):
    recipe = load(POCKET, [*SMALL, *changes])
    return students(recipe, folder)[0]


def write_curation(folder, tokenizer, *changes, pairs=3):
    """The curate stage of the recipe, closed under its key."""
    student = student_in(folder, *changes)
    folder.mkdir(parents=True, exist_ok=True)
    save(load(POCKET, [*SMALL, *changes]), folder / "recipe.yaml")
    problems = generate("bootstrap", 4, 0)
    rollouts = {problem.id: rollouts_of(problem, tokenizer) for problem in problems}
    with student.run.write("curate", *key_of("curate", student.recipe, student.run)) as work:
        write_jsonl(work.folder / "questions.jsonl", problems)
        write_jsonl(work.folder / "rollouts.jsonl", [one for some in rollouts.values() for one in some])
        made = [pair_of(problem, rollouts[problem.id], tokenizer) for problem in problems[:pairs]]
        write_jsonl(work.folder / "pairs.jsonl", made)
        counted = {"questions": 4, "mixed": 4, "pairs": pairs}
        (work.folder / "statistics.json").write_text(json.dumps(counted))
    return folder


def make(name, folder, *changes):
    """A stage, made in this process by the recipe with these changes, of what lies in the folder. Returns its own."""
    student = student_in(folder, *changes)
    with student.run.write(name, *key_of(name, student.recipe, student.run)) as work:
        stage(name).make(scope_of(name, student.recipe, student.run), work)
    return folder / name

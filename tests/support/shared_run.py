"""A run as far as its targets: pairs and rollouts that were written and not sampled, taught by the pocket."""

import json
from pathlib import Path

from stage_keys import key_of

from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.method.curate import graded
from ssb_unsloth.pipeline.students import scope_of, students
from ssb_unsloth.pipeline.table import stage
from ssb_unsloth.recipe.loading import load, save
from ssb_unsloth.records import Pair, Problem, stable_id, write_jsonl

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
STORIES = Path(__file__).parents[1] / "fixtures" / "shared" / "stories.jsonl"  # with replies as the pocket writes them
SMALL = (
    *(f"problems.source={STORIES}", "problems.limit=4", "curate.pairs=3"),
    *("model.backend=transformers", "sampler.engine=transformers"),
)


def reply(text, tokenizer):
    """As a sampler gives it."""
    return Completion([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], text, "stop")


def rollouts_of(story, tokenizer):
    """Two right and two wrong ones."""
    problem = Problem(stable_id(story["question"]), story["question"], story["answer"])
    replies = [reply(story["wrong" if k % 2 else "right"], tokenizer) for k in range(4)]
    return [graded(problem, f"rollout-{k}", one, 1000 + k, "math", False) for k, one in enumerate(replies)]


def pair_of(story, rollouts, tokenizer):
    (right, wrong), refined = rollouts[:2], reply(story["refined"], tokenizer)
    return Pair(
        id=stable_id(right.problem_id, right.text, wrong.text, refined.text),
        problem_id=right.problem_id,
        question=story["question"],
        gold=story["answer"],
        right=right.text,
        wrong=wrong.text,
        reply=refined.text,
        reply_ids=refined.token_ids,
        right_id=right.id,
        wrong_id=wrong.id,
        refinement_id=f"{right.problem_id}-refinement-0",
    )


def student_in(folder, *changes):
    recipe = load(POCKET, [*SMALL, *changes])
    return students(recipe, folder)[0]


def write_curation(folder, tokenizer, *changes, pairs=3):
    """The curate stage of the recipe, closed under its key."""
    student = student_in(folder, *changes)
    folder.mkdir(parents=True, exist_ok=True)
    save(load(POCKET, [*SMALL, *changes]), folder / "recipe.yaml")
    stories = [json.loads(line) for line in STORIES.read_text().splitlines()]
    rollouts = [rollouts_of(story, tokenizer) for story in stories]
    with student.run.write("curate", *key_of("curate", student.recipe, student.run)) as work:
        asked = [Problem(stable_id(story["question"]), story["question"], story["answer"]) for story in stories]
        write_jsonl(work.folder / "questions.jsonl", asked)
        write_jsonl(work.folder / "rollouts.jsonl", [one for some in rollouts for one in some])
        both = list(zip(stories, rollouts, strict=True))[:pairs]
        write_jsonl(work.folder / "pairs.jsonl", [pair_of(*one, tokenizer) for one in both])
        counted = {"questions": 4, "mixed": 4, "pairs": pairs}
        (work.folder / "statistics.json").write_text(json.dumps(counted))
    return folder


def make(name, folder, *changes):
    """A stage, made in this process by the recipe with these changes, of what lies in the folder. Returns its own."""
    student = student_in(folder, *changes)
    with student.run.write(name, *key_of(name, student.recipe, student.run)) as work:
        stage(name).make(scope_of(name, student.recipe, student.run), work)
    return folder / name

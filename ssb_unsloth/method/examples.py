"""Pairs to token ids: what student and teacher read, and the reply that both predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from ..backends.chat_template import end_of_turn, render
from ..backends.control_tokens import encode
from ..backends.thinking import empty_thoughts, ids_of, without_thoughts
from ..prompts import BETWEEN, Messages, student_messages
from ..prompts.hints import hinted_prompts, unhinted_prompts
from ..recipe.schema import PromptsConfig, Recipe
from ..records import Pair, Rollout
from ..run.curated import iter_pairs, read_pairs, rollouts_of
from ..run.rundir import RunDir
from ..verifier.verifiers import verifier_for
from .collator import Example
from .lessons import Lesson, lessons

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLOCK = 1024  # pairs that are made examples of at once


def render_examples(
    recipe: Recipe, learnt_from: Sequence[Pair | Lesson], tokenizer: PreTrainedTokenizerBase
) -> list[Example]:
    """The lessons as the teacher pass and the trainer take them, by the recipe's `prompts` and `teach`. A pair is a
    right one."""
    learnt_as = [one if isinstance(one, Lesson) else Lesson(one, right=True) for one in learnt_from]
    prompts, teach = recipe.prompts, recipe.teach
    pairs = [lesson.pair for lesson in learnt_as]
    if teach.hint == "gold":
        verifier = verifier_for(recipe.problems.verifier)
        pairs = [replace(pair, gold=verifier.shown(pair.gold)) for pair in pairs]
    of_teacher: list[list[Messages]] = [hinted_prompts(pairs, teach.hint, recipe.seed, prompts.texts)]
    if teach.guidance is not None:
        of_teacher.append(unhinted_prompts(pairs, prompts.texts))
    made = []
    for lesson, pair, *shown in zip(learnt_as, pairs, *of_teacher, strict=True):
        asked = pair.prompt or student_messages(pair.question, prompts.texts)
        contexts = [student_prompt_ids(prompts, asked, tokenizer), *(render(tokenizer, each) for each in shown)]
        retokenized = encode(tokenizer, pair.reply) if prompts.reply == "retokenized" else None
        (asked_ids, hinted_ids, *rest), reply_ids = learnt(prompts, contexts, pair.reply_ids, tokenizer, retokenized)
        unhinted_ids = rest[0] if rest else []
        taught = teach.right == "teacher" or not lesson.right
        made.append(Example(pair.id, asked_ids, hinted_ids, reply_ids, unhinted_ids, taught, lesson.weight))
    return made


def taught_examples(recipe: Recipe, run: RunDir, tokenizer: PreTrainedTokenizerBase) -> Iterator[Example]:
    """The examples that a teacher teaches, of the run's curated pairs and rollouts, in their order.

    Where each is made of its own pair alone, a few are in memory at a time.
    """
    teach = recipe.teach
    if teach.needs_rollouts or teach.hint == "shuffled":
        yield from render_examples(recipe, taught_lessons(recipe, run, tokenizer), tokenizer)
        return
    pairs = iter_pairs(run)
    while block := list(islice(pairs, BLOCK)):
        yield from (one for one in render_examples(recipe, block, tokenizer) if one.taught)


def taught_lessons(recipe: Recipe, run: RunDir, tokenizer: PreTrainedTokenizerBase) -> list[Lesson]:
    """The lessons that a teacher teaches, of the run's curated pairs and rollouts.

    Raises:
        UserError: there is none to learn.
    """
    pairs = read_pairs(run)
    paired = {pair.problem_id for pair in pairs}
    wanted = rollouts_of(run) if recipe.teach.needs_rollouts else ()
    found = lessons_of(recipe, pairs, [rollout for rollout in wanted if rollout.problem_id in paired], tokenizer)
    return [one for one in found if recipe.teach.right == "teacher" or not one.right]


def lessons_of(
    recipe: Recipe, pairs: Sequence[Pair], rollouts: Sequence[Rollout], tokenizer: PreTrainedTokenizerBase
) -> list[Lesson]:
    """What the recipe's `teach` section learns from, of these pairs and, where `needs_rollouts`, all rollouts."""
    return lessons(recipe.teach, pairs, rollouts, recipe.seed, partial(token_ids, tokenizer=tokenizer))


def token_ids(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The sampler's own ids; only a rollout that was given as text is tokenized."""
    if rollout.token_ids is not None:
        return rollout.token_ids
    ids = ids_of(tokenizer, rollout.text)
    return ids if rollout.finish_reason == "length" else [*ids, end_of_turn(tokenizer)]


def learnt(
    prompts: PromptsConfig,
    contexts: Sequence[list[int]],
    reply_ids: list[int],
    tokenizer: PreTrainedTokenizerBase,
    retokenized: list[int] | None = None,
) -> tuple[list[list[int]], list[int]]:
    """What is learnt of a sampled reply, and the contexts (the student's prompt, the teacher's) in which it is.

    Without thoughts, or where they are learnt, all of it stands behind the prompts. Else its answer, with its own ids,
    stands behind empty thoughts, for student and teacher alike: what differs between them is the hint, and the answer's
    first token is predicted behind the same mark. `retokenized` is learnt in the answer's place.
    """
    parted = without_thoughts(tokenizer, reply_ids) if prompts.thinking == "drop" else None
    if parted is None:
        return list(contexts), reply_ids if retokenized is None else retokenized
    answer_ids, behind = parted if retokenized is None else (retokenized, BETWEEN)
    return [[*context, *empty_thoughts(tokenizer, context, behind)] for context in contexts], answer_ids


def student_prompt_ids(prompts: PromptsConfig, asked: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The student's prompt for these messages, up to where the reply begins."""
    return render(tokenizer, asked) if prompts.student == "chat" else _joined(tokenizer, asked)


def _joined(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """System prompt and question with a space between them and no chat template, as the released code has them."""
    text = " ".join(message["content"] for message in messages).strip()
    return encode(tokenizer, text, add_special_tokens=True)

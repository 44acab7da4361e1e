"""Pairs to token ids: what student and teacher read, and the reply that both predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..backends.chat_template import render
from ..backends.control_tokens import encode
from ..backends.thinking import empty_thoughts, without_thoughts
from ..prompts import BETWEEN, Messages, student_messages
from ..prompts.hints import hinted_prompts
from ..recipe.schema import PromptsConfig, Recipe
from ..records import Pair
from ..verifier.verifiers import verifier_for
from .collator import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_examples(recipe: Recipe, pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """The pairs as the teacher pass and the trainer take them, by the recipe's `prompts` and `teach.hint`."""
    prompts = recipe.prompts
    if recipe.teach.hint == "gold":
        verifier = verifier_for(recipe.problems.verifier)
        pairs = [replace(pair, gold=verifier.shown(pair.gold)) for pair in pairs]
    hinted = hinted_prompts(pairs, recipe.teach.hint, recipe.seed, prompts.texts)
    made = []
    for pair, teacher in zip(pairs, hinted, strict=True):
        asked = pair.prompt or student_messages(pair.question, prompts.texts)
        asked_ids, hinted_ids = student_prompt_ids(prompts, asked, tokenizer), render(tokenizer, teacher)
        retokenized = encode(tokenizer, pair.reply) if prompts.reply == "retokenized" else None
        (asked_ids, hinted_ids), reply_ids = learnt(
            prompts, [asked_ids, hinted_ids], pair.reply_ids, tokenizer, retokenized
        )
        made.append(Example(pair.id, asked_ids, hinted_ids, reply_ids))
    return made


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

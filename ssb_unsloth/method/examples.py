"""Pairs to token ids: what student and teacher read, and the reply that both predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..backends.chat_template import render
from ..backends.control_tokens import encode
from ..prompts import Messages, student_messages
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
        reply_ids = pair.reply_ids if prompts.reply == "sampled" else encode(tokenizer, pair.reply)
        asked_ids, hinted_ids = student_prompt_ids(prompts, asked, tokenizer), render(tokenizer, teacher)
        made.append(Example(pair.id, asked_ids, hinted_ids, reply_ids))
    return made


def student_prompt_ids(prompts: PromptsConfig, asked: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The student's prompt for these messages, up to where the reply begins."""
    return render(tokenizer, asked) if prompts.student == "chat" else _joined(tokenizer, asked)


def _joined(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """System prompt and question with a space between them and no chat template, as the released code has them."""
    text = " ".join(message["content"] for message in messages).strip()
    return encode(tokenizer, text, add_special_tokens=True)

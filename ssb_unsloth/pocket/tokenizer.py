"""The pocket's tokenizer: a small byte-level BPE in Qwen2's manner, with one token for each stretch of the prompts.

The prompts stay the paper's, word for word, while a hinted context stays short enough for a tiny model on a laptop.
The class is Qwen2Tokenizer itself: AutoTokenizer rebuilds that class for every `qwen2` configuration whatever lies in
tokenizer.json, so a tokenizer with another pre-tokenization would silently get other ids at inference.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer

from ..prompts import PAPER, Messages
from .corpus import READERS, draw_chat

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"  # padding; a turn's start; its end
SEPARATOR = "\n-----\n"  # what the refinement prompt puts around its gaps
VOCABULARY = 528  # at most; all the words fit
CHATS = 4000  # to learn the merges from

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def stretches() -> list[str]:
    """The parts of the prompts between their gaps, in the pieces that any combination of hints is put together from."""
    opening, rest = PAPER.refine.split("<question>")
    request = rest.removeprefix(SEPARATOR).replace(PAPER.section("right"), "").replace(PAPER.section("wrong"), "")
    headings = [PAPER.section(name).split(f"<{name}>")[0] for name in ("right", "wrong")]
    return [PAPER.tutor, opening, *headings, request, SEPARATOR]


@dataclass(frozen=True)
class Corpus:
    """What a model is pre-trained on.

    `draw` gives a chat, assistant's turn included, and the question in it; `stretches` are the parts of its prompts
    that are a token each, and `vocabulary` is the most tokens that there are.
    """

    draw: Callable[[random.Random], tuple[Messages, str]]
    stretches: Sequence[str]
    vocabulary: int


TEXTS = {name: Corpus(partial(draw_chat, misread=who), stretches(), VOCABULARY) for name, who in READERS.items()}
POCKET = TEXTS["usual"]


def train_tokenizer(seed: int, corpus: Corpus = POCKET) -> Qwen2Tokenizer:
    """Learn the merges from freshly drawn chats, then add the special tokens and the prompts' stretches."""
    added = [END_OF_TEXT, START, END, *corpus.stretches]
    blank = Qwen2Tokenizer()
    trainer = BpeTrainer(
        vocab_size=corpus.vocabulary - len(added),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    backend = blank.backend_tokenizer
    backend.train_from_iterator(_texts(corpus, random.Random(f"tokenizer|{seed}")), trainer)
    learned: Any = json.loads(backend.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        unk_token=END_OF_TEXT,
        eos_token=END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[START],
        model_max_length=512,
    )
    tokenizer.add_tokens([AddedToken(stretch, normalized=False) for stretch in corpus.stretches])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _texts(corpus: Corpus, rng: random.Random) -> Iterator[str]:
    """What stands in the chats beside the prompts' stretches."""
    for _ in range(CHATS):
        messages, question = corpus.draw(rng)
        yield from ("system\n", "user\n" + question, "assistant\n" + messages[-1]["content"])

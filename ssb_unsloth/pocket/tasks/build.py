"""Build the tasks' model from nothing: `python -m ssb_unsloth.pocket.tasks.build --out DIR [--steps N] [--seed S]`.

The same architecture, training and folder as the pocket's (`pocket.build`), on the tasks' text. Prints how many
held-out questions of each task are answered as they are meant, and how many refinements are what their hint says, for
the built and the shipped model.
"""

from __future__ import annotations

import argparse
import operator
import random
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from ...io.terminal import tell
from ...prompts import student_messages, teacher_messages
from .. import MODELS
from .. import build as pocket
from ..tokenizer import Corpus, train_tokenizer
from .corpus import TASKS, draw_chat, stretches, texts_of
from .task import Task

STEPS = 2000
VALIDATION = 60  # questions of each task that both models are compared on
CORPUS = Corpus(draw_chat, stretches(), vocabulary=560)


def accuracy(folder: Path, tasks: Sequence[Task], temperature: float, seed: int = 0) -> float:
    """Share of the questions whose reply is that of the reading that is meant; greedy at temperature 0."""
    asked = [student_messages(task.question, texts_of(type(task))) for task in tasks]
    replies = pocket.replies(folder, asked, temperature, seed)
    return sum(task.solution(task.rightly) == reply for task, reply in zip(tasks, replies, strict=True)) / len(tasks)


def followed(folder: Path, tasks: Sequence[Task], seed: int = 0) -> float:
    """Share of the questions whose greedy refinement, with a right and a wrong solution shown, is the right one written
    up, word for word. `seed` draws the wrong ones."""
    rng, asked, expected = random.Random(seed), [], []
    for task in tasks:
        right = task.rightly
        wrong = task.attempt(rng, unlike=task.answer(right))
        shown = task.solution(right), task.solution(wrong)
        asked.append(teacher_messages(task.question, *shown, texts=texts_of(type(task))))
        expected.append(task.refined(right, wrong))
    replies = pocket.replies(folder, asked, 0.0, seed)
    return sum(map(operator.eq, replies, expected)) / len(tasks)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ssb_unsloth.pocket.tasks.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches of pre-training (default {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the text (default 0)")
    parser.add_argument("--start", type=Path, help="folder of a model to go on from, with its tokenizer")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error("--steps must be at least 1")

    tokenizer = AutoTokenizer.from_pretrained(args.start) if args.start else train_tokenizer(args.seed, CORPUS)
    model = pocket.train(tokenizer, args.steps, args.seed, CORPUS, args.start)
    tell(f"{sum(weight.numel() for weight in model.parameters()):,} parameters")
    pocket.save(model, tokenizer, args.out)

    tell(f"of {VALIDATION} validation questions each   read as meant, greedy   temperature 0.8   hints followed")
    for name, folder in (("built", args.out), ("shipped", MODELS["pocket-tasks"])):
        for task in TASKS if folder.exists() else ():
            tasks = task.generate("validation", VALIDATION, seed=0)
            scores = [accuracy(folder, tasks, temperature) for temperature in (0.0, 0.8)]
            hinted = followed(folder, tasks)
            tell(f"{name + ', ' + task.__name__:<36}{scores[0]:>20.1%}{scores[1]:>18.1%}{hinted:>17.1%}")


if __name__ == "__main__":
    main()

"""`ssb chat`: base and student answer the same question, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..backends.sampler import Adapter, Request
from ..io.progress import hush
from ..io.terminal import visible
from ..pipeline.students import finished
from ..prompts import student_messages
from ..recipe.schema import SamplingConfig


def main(arguments: argparse.Namespace) -> int:
    hush()
    chat(arguments.folder, arguments.temperature)
    return 0


def chat(folder: Path, temperature: float, seed: int = 0) -> None:
    """Ask for questions until the input ends, and print what the run's base and student answer to each.

    Each question stands for itself, under the tutor prompt and the model's chat template, as in the evaluation.
    Questions come from the terminal, or one a line from a pipe.

    Raises:
        UserError: the run is not finished, or its base cannot be loaded.
    """
    from ..backends.adapters import assert_fits
    from ..backends.transformers import load_model, load_tokenizer
    from ..backends.transformers_sampler import TransformersSampler

    source = finished(folder)
    recipe, screen = source.recipe, Console()
    if source.adapter is not None:
        assert_fits(recipe.model, source.adapter, "transformers")
    sampler = TransformersSampler(load_model(recipe.model), load_tokenizer(recipe.model), batch_size=1)
    student = Adapter(source.name, source.adapter) if source.adapter is not None else None
    trained = sampler if student else TransformersSampler(load_model(source.model), load_tokenizer(source.model), 1)
    decoding = SamplingConfig(temperature=temperature, max_tokens=recipe.curate.rollout.max_tokens)
    room = recipe.sampler.max_model_len - decoding.max_tokens
    for number, question in enumerate(_questions(screen)):
        prompt = sampler.render(student_messages(question, recipe.prompts.texts))
        if len(prompt) > room:
            screen.print(f"The question takes {len(prompt):,} tokens with its prompt; {room:,} are the limit.")
            continue
        table = Table(expand=True, title=None if sys.stdin.isatty() else Text(visible(question)), title_justify="left")
        replies = []
        for name, asked, adapter in (("base", sampler, None), (source.name, trained, student)):
            (reply,) = asked.sample([Request(prompt, seed + number)], decoding, adapter, quiet=True)
            cut = ", cut off" if reply.finish_reason == "length" else ""
            table.add_column(f"{name} ({len(reply.token_ids)} tokens{cut})", ratio=1)
            replies.append(Text(visible(reply.text.strip())))  # never read as markup
        table.add_row(*replies)
        screen.print(table)


def _questions(screen: Console) -> Iterable[str]:
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    screen.print("Ask a question with a final answer; an empty line or Ctrl-D ends.", style="dim")
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            return
        if not question:
            return
        yield question

"""Build the pocket's model from nothing: `python -m ssb_unsloth.pocket.build --out DIR [--steps N] [--seed S]`.

Trains the tokenizer and then a Qwen2 model of 0.8 million parameters on freshly drawn chats (`corpus`), saves an
ordinary Hugging Face folder in half precision, and prints the accuracy of the built and of the shipped model, and how
often they follow each kind of hint. Two cores take about 20 minutes.

`--text rare` and `--text rule` train on what other readers write (`corpus.READERS`); a recipe takes such a model by
`model.name: DIR`, with the same problems.
"""

from __future__ import annotations

import argparse
import math
import operator
import random
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from ..io.terminal import tell
from ..prompts import Messages, student_messages
from ..records import Problem
from . import MODEL_DIR
from .corpus import HINTS, OPENING, READERS, Misread, Solution, attempt, hinted
from .muon import Muon
from .problems import Story, draw_story, generate
from .tokenizer import POCKET, TEXTS, Corpus, train_tokenizer

STEPS = 2600
THREADS = 2
BATCH_TOKENS = 2048  # of each thread, with padding
LEARNING_RATE = 4e-3
WARM_UP = 100  # steps
POOL = 2048  # chats drawn at a time and sorted by length, so that little is padded
IGNORE = -100  # label of a token that is not learned
SPLITS = ("validation", "validation_hard", "untrained", "drills")  # that both models are compared on
VALIDATION, HINTED = 300, 60  # problems of each, and stories with each kind of hint
LONGEST = 160  # tokens of a reply


def configuration(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Qwen2Config:
    """A Qwen2 of 0.8 million parameters with a head size of 32, the smallest that vLLM serves."""
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=320,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def encode(
    tokenizer: PreTrainedTokenizerBase, rng: random.Random, n: int, corpus: Corpus
) -> list[tuple[list[int], int]]:
    """`n` chats as (token ids, index of the first token after the question)."""
    chats = [corpus.draw(rng) for _ in range(n)]
    texts = [str(tokenizer.apply_chat_template(messages, tokenize=False)) for messages, _ in chats]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    examples = []
    for text, (_, question), ids, offsets in zip(
        texts, chats, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        end = text.index(question) + len(question)
        examples.append((ids, next(i for i, (start, _) in enumerate(offsets) if start >= end)))
    return examples


def batches(
    tokenizer: PreTrainedTokenizerBase, seed: int, corpus: Corpus, tokens: int = BATCH_TOKENS
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, labels), each (B, S) with about `tokens` tokens, of chats of like length.

    Everything after the question is learned, hints included, as in ordinary pre-training; the question itself is left
    out, since nobody can learn to predict names and numbers drawn at random.
    """
    rng = random.Random(f"corpus|{seed}")
    while True:
        pool = sorted(encode(tokenizer, rng, POOL, corpus), key=lambda example: len(example[0]))
        cuts: list[list[tuple[list[int], int]]] = [[]]
        for example in pool:
            if (len(cuts[-1]) + 1) * len(example[0]) > tokens:
                cuts.append([])
            cuts[-1].append(example)
        rng.shuffle(cuts)
        for cut in cuts:
            width = max(len(ids) for ids, _ in cut)
            ids_BS = torch.full((len(cut), width), tokenizer.pad_token_id)
            labels_BS = torch.full((len(cut), width), IGNORE)
            for row, (ids, first) in enumerate(cut):
                ids_BS[row, : len(ids)] = torch.tensor(ids)
                labels_BS[row, first : len(ids)] = torch.tensor(ids[first:])
            yield ids_BS, labels_BS


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread: its own meet in every operation, and at this size wait for each other longer than they
    work as soon as the machine has anything else to do.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_torch_thread()
def train(
    tokenizer: PreTrainedTokenizerBase, steps: int, seed: int, corpus: Corpus = POCKET, start: Path | None = None
) -> Qwen2ForCausalLM:
    """Train for `steps` batches, with a warm-up and a cosine to zero: a fresh model, or that of the folder `start`."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(configuration(tokenizer, corpus.vocabulary))
    if start is not None:
        model.load_state_dict(Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
    # Muon learns the matrices in fewer steps than AdamW, which keeps the embeddings, norms and biases.
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim > 1 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "embed" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    weights = [*matrices, *others]
    stream = batches(tokenizer, seed, corpus)
    progress = tqdm(total=steps, desc="pre-training", unit="step", mininterval=5, smoothing=0.05)
    # Each batch is worked on in THREADS parts, by threads that meet once a step.
    with ThreadPoolExecutor(THREADS) as pool:
        for step in range(steps):
            lr = LEARNING_RATE * min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
            parts = [next(stream) for _ in range(THREADS)]
            learned = sum(int((labels_BS[:, 1:] != IGNORE).sum()) for _, labels_BS in parts)
            results = list(pool.map(lambda part: _gradients(model, weights, *part), parts))
            for weight, *gradients in zip(weights, *(gradients for _, gradients in results), strict=True):
                weight.grad = torch.stack(gradients).sum(0) / learned
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            muon.step(lr)
            adam.param_groups[0]["lr"] = lr
            adam.step()
            progress.update()
            if step % 20 == 0:
                progress.set_postfix(loss=f"{sum(loss for loss, _ in results) / learned:.3f}")
    progress.close()
    return model.eval()


def _gradients(
    model: Qwen2ForCausalLM, weights: Sequence[Tensor], ids_BS: Tensor, labels_BS: Tensor
) -> tuple[float, tuple[Tensor, ...]]:
    """Summed loss over the learned tokens, and its gradients.

    Padding is on the right and attention is causal, so no mask is needed; the head sees the learned rows only.
    """
    hidden_BSH = model.model(ids_BS[:, :-1], use_cache=False).last_hidden_state
    targets_BS = labels_BS[:, 1:]
    learned_BS = targets_BS != IGNORE
    logits = model.lm_head(hidden_BSH[learned_BS])  # (learned rows, V)
    loss = F.cross_entropy(logits, targets_BS[learned_BS], reduction="sum")
    return loss.item(), torch.autograd.grad(loss, weights)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write the folder: half-precision weights, and a configuration that loads them in float32, as CPUs need."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(out)
    model.config.dtype = torch.float32
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)


def accuracy(folder: Path, problems: Sequence[Problem], temperature: float, seed: int = 0) -> float:
    """Share of the problems whose last box holds the gold number; greedy at temperature 0."""
    said = replies(folder, [student_messages(problem.question) for problem in problems], temperature, seed)
    return sum(_answer(reply) == problem.gold for reply, problem in zip(said, problems, strict=True)) / len(problems)


def followed(folder: Path, hint: str, plainly: bool, misread: Misread, seed: int = 0) -> float:
    """Share of the stories whose greedy solution after this kind of hint, begun in one manner or the other, ends as the
    right solution does; shown only a wrong one, elsewhere than that. `misread` is how the wrong ones were read.
    """
    rng = random.Random(seed)
    drawn = [_right_and_wrong(rng, misread) for _ in range(HINTED)]
    asked = [hinted(story, hint, right, wrong) for story, right, wrong in drawn]
    openings = [f"{right.steps[0].who} has" if plainly else OPENING for _, right, _ in drawn]
    shown = [str((wrong if hint == "wrong" else right).answer) for _, right, wrong in drawn]
    answers = map(_answer, replies(folder, asked, 0.0, seed, openings))
    alike = sum(map(operator.eq, answers, shown)) / HINTED
    return 1 - alike if hint == "wrong" else alike


def _right_and_wrong(rng: random.Random, misread: Misread) -> tuple[Story, Solution, Solution]:
    story = draw_story(rng, "validation")
    right = attempt(rng, story, lambda wording: 0.0, slips=False)
    return story, right, attempt(rng, story, misread, accept=lambda tried: tried.answer != right.answer)


@_one_torch_thread()
@torch.inference_mode()
def replies(
    folder: Path, asked: Sequence[Messages], temperature: float, seed: int = 0, openings: Sequence[str] | None = None
) -> list[str]:
    """What the folder's model replies to each chat, at most LONGEST tokens, after the opening that it is given."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(seed)
    prompts: Any = tokenizer.apply_chat_template(list(asked), add_generation_prompt=True, tokenize=False)
    begun = openings or [""] * len(prompts)
    texts = [prompt + opening for prompt, opening in zip(prompts, begun, strict=True)]
    inputs: Any = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    ids = model.generate(**inputs, max_new_tokens=LONGEST, **({"do_sample": False} | sampling))
    written = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [opening + reply for opening, reply in zip(begun, written, strict=True)]


def _answer(reply: str) -> str | None:
    """What the last box holds. Answers here are plain whole numbers, so this needs no mathematics; the pipeline's
    grader agrees."""
    boxes = re.findall(r"\\boxed\{(\d+)\}", reply)
    return boxes[-1] if boxes else None


def compare(name: str, folder: Path, misread: Misread) -> None:
    """Print how right a model is on each split, and how often it follows each kind of hint in each manner."""
    tell(f"{name:<18}  greedy  temperature 0.8   {folder}")
    for split in SPLITS:
        problems = generate(split, VALIDATION, seed=0)
        scores = [accuracy(folder, problems, temperature) for temperature in (0.0, 0.8)]
        tell(f"{split:<18}{scores[0]:>8.1%}{scores[1]:>17.1%}")
    tell("hints followed     plainly          refined")
    for hint in (hint for hint in HINTS if hint != "none"):
        scores = [followed(folder, hint, plainly, misread) for plainly in (True, False)]
        tell(f"{hint:<18}{scores[0]:>8.1%}{scores[1]:>17.1%}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ssb_unsloth.pocket.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches of pre-training (default {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the text (default 0)")
    parser.add_argument("--text", choices=TEXTS, default="usual", help="whose solutions to learn from (default usual)")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error("--steps must be at least 1")

    tokenizer = train_tokenizer(args.seed, TEXTS[args.text])
    model = train(tokenizer, args.steps, args.seed, TEXTS[args.text])
    tell(f"{sum(weight.numel() for weight in model.parameters()):,} parameters")
    save(model, tokenizer, args.out)
    folders = {"built": args.out, "shipped": MODEL_DIR}
    for name, folder in folders.items():
        if folder.exists():
            compare(name, folder, READERS[args.text])


if __name__ == "__main__":
    main()

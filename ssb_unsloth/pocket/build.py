"""Build the pocket's model from nothing: `python -m ssb_unsloth.pocket.build --out DIR [--steps N] [--seed S]`.

Trains the tokenizer and then a Qwen2 model of 0.8 million parameters on freshly drawn chats (`corpus`), saves an
ordinary Hugging Face folder in half precision, and prints the accuracy of the built and of the shipped model. Two cores
take about 15 minutes.
"""

from __future__ import annotations

import argparse
import math
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
from ..prompts import student_messages
from ..records import Problem
from . import MODEL_DIR
from .muon import Muon
from .problems import generate
from .tokenizer import POCKET, Corpus, train_tokenizer

STEPS = 2000
THREADS = 2
BATCH_TOKENS = 2048  # of each thread, with padding
LEARNING_RATE = 4e-3
WARM_UP = 100  # steps
POOL = 2048  # chats drawn at a time and sorted by length, so that little is padded
IGNORE = -100  # label of a token that is not learned
VALIDATION = 300  # problems that both models are compared on


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


@_one_torch_thread()
@torch.inference_mode()
def accuracy(folder: Path, problems: Sequence[Problem], temperature: float, seed: int = 0) -> float:
    """Share of the problems whose last box holds the gold number; greedy at temperature 0."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(seed)
    prompts = [student_messages(problem.question) for problem in problems]
    inputs: Any = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    ids = model.generate(**inputs, max_new_tokens=96, **({"do_sample": False} | sampling))
    replies = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    # Answers here are plain whole numbers, so this needs no mathematics; the pipeline's grader agrees.
    boxes = [re.findall(r"\\boxed\{(\d+)\}", reply) for reply in replies]
    return sum(box[-1:] == [problem.gold] for box, problem in zip(boxes, problems, strict=True)) / len(problems)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ssb_unsloth.pocket.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches of pre-training (default {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the text (default 0)")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error("--steps must be at least 1")

    tokenizer = train_tokenizer(args.seed)
    model = train(tokenizer, args.steps, args.seed)
    tell(f"{sum(weight.numel() for weight in model.parameters()):,} parameters")
    save(model, tokenizer, args.out)

    problems = generate("validation", VALIDATION, seed=0)
    tell(f"accuracy on {len(problems)} validation problems   greedy   temperature 0.8")
    for name, folder in (("built", args.out), ("shipped", MODEL_DIR)):
        if folder.exists():
            scores = [accuracy(folder, problems, temperature) for temperature in (0.0, 0.8)]
            tell(f"{name:<36}{scores[0]:>10.1%}{scores[1]:>18.1%}   {folder}")


if __name__ == "__main__":
    main()

"""The numbers that `ssb plan` rests on and that no config states. docs/plan.md has each with its origin.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import published

GIB = 2**30
LOSS_ROWS = 256  # losses.CHUNK_ROWS
LOSS_BLOCK = 2**25  # elements of the loss's scratch on a GPU (losses.py)
PEAK = (0.5, 0.15)  # share of the stated peak: at best, at worst
BANDWIDTH = (0.8, 0.4)  # the same of the stated bandwidth
START = (30.0, 180.0)  # seconds to import, load and warm up, a stage with a model on a GPU
RAY = (10.0, 60.0)  # seconds that a stage with replicas takes longer to start: Ray, and their processes
CHECK = (0.00015, 0.004)  # seconds to grade and write a reply: the stage's one process does, however many cards sample
STEP = (0.01, 0.05)  # seconds for a token of the length probe, which transformers samples: bound by launches
AT_A_TIME = 256  # vLLM's sequences at a time
BATCHED_TOKENS = 8192  # vLLM's tokens of a step
TEXT_BYTES = 13  # on disk for a sampled token: its text and its id
ENVIRONMENT_BYTES = 9.2e9  # the GPU set on disk
ENVIRONMENT_DOWNLOAD = 4.2e9  # the same as it is loaded
INSTALL = (60.0, 600.0)  # seconds to unpack it
NETWORK = (100e6, 10e6)  # bytes a second from the hub and the package index
# Many cards
SPLIT = 0.7  # share of the speed of t cards that one model split over them has
LINK = (300e9, 100e9)  # bytes a second that a card sends to others of its node
BETWEEN = (25e9, 5e9)  # the same to cards of another node
REDUCE = (1e-4, 1e-3)  # seconds that an all-reduce takes beside its bytes
STORAGE = (5e9, 1e9)  # bytes a second of the storage that all nodes share, all together
# Resident memory of a process on a CPU before model and data: its libraries.
PROCESS_BYTES = {"transformers": 0.6e9, "vllm": 1.2e9, "none": 0.1e9}
# Questions where the recipe does not say how many: the published sizes.
SIZES = {"openai/gsm8k": {"train": 7473}}


@dataclass(frozen=True)
class Assumptions:
    """Of the texts. Tokens are those of a large English vocabulary."""

    reply: float = 1 / 3  # mean reply, of its limit
    question: int = 70
    tutor: int = 80  # the system prompt and the template's own tokens
    refine: int = 330  # the refine prompt without question and replies
    pairs: float = published.PAIRS / published.QUESTIONS  # a question
    refined_right: float = 0.9


# The pocket's vocabulary was made on its prompts, and most of its questions are mixed.
POCKET = Assumptions(question=35, tutor=12, refine=4, pairs=0.65, refined_right=1.0)

"""What every stage's plan rests on: what a recipe's texts come to, and what a model takes on a card.

Standard library and OmegaConf only.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

from ..pocket import is_pocket, model_folder
from ..recipe.benchmarks import BENCHMARKS
from ..recipe.methods import METHODS
from ..recipe.schema import BenchmarkConfig, Recipe
from .assumptions import BANDWIDTH, PEAK, POCKET, PROCESS_BYTES, SIZES, SPLIT, START, Assumptions
from .auto import KEPT_FREE_MIB, choose
from .cards import Card
from .geometry import Geometry
from .hardware import stated
from .planned import StagePlan

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


class Reckoning:
    """A recipe, one student's of it (`name`: the variant's), on a card, or on this machine's CPU."""

    def __init__(self, recipe: Recipe, card: Card | None, shape: Geometry, name: str = "") -> None:
        card = stated(card, recipe.card)
        self.asked, self.recipe = recipe, choose(recipe, card)
        self.card, self.shape, self.name = card, shape, name
        self.assume = POCKET if model_folder(recipe.model.name) else Assumptions()
        self.itemsize = ITEMSIZE[self.recipe.model.dtype]
        lora = recipe.train.lora
        self.lora = 0 if lora is None else shape.lora_parameters(lora.r, lora.target_modules)
        self.whole = shape.between if lora is None else 0  # parameters, where all weights are trained
        engine = recipe.sampler.samples_by
        self.engine = ("vllm" if card or find_spec("vllm") else "transformers") if engine == "auto" else engine

    # Tokens of one text, expected.
    @property
    def student_prompt(self) -> float:
        return self.assume.tutor + self.assume.question

    @property
    def teacher_prompt(self) -> float:
        replies = 2 * self.assume.reply * self.recipe.curate.rollout.max_tokens
        return self.student_prompt + self.assume.refine + replies

    @property
    def hinted_prompt(self) -> float:
        """What the teacher reads before a reply: of the two rollouts those that `teach.hint` shows."""
        shown = {"both": 2, "shuffled": 2, "right": 1, "wrong": 1}.get(self.recipe.teach.hint, 0)
        return self.teacher_prompt - (2 - shown) * self.assume.reply * self.recipe.curate.rollout.max_tokens

    @property
    def reply(self) -> float:
        """Of one that is learnt."""
        return self.assume.reply * self.longest_reply

    @property
    def longest_reply(self) -> int:
        curate = self.recipe.curate
        own = "teach" in METHODS[self.recipe.train.method].reads and self.recipe.teach.replies != "refined"
        return (curate.rollout if own else curate.refine).max_tokens

    @property
    def lessons(self) -> float:
        """Replies that are learnt: a pair's, or of the pairs' questions as many rollouts as are expected of each kind,
        half of them right."""
        curate, teach = self.recipe.curate, self.recipe.teach
        if "teach" not in METHODS[self.recipe.train.method].reads or teach.replies == "refined":
            return curate.pairs
        of_a_kind = curate.rollouts / 2 if teach.each is None else min(teach.each, curate.rollouts / 2)
        return curate.pairs * of_a_kind * (2 if teach.replies == "rollouts" else 1)

    def questions(self) -> int:
        """Asked until there are enough pairs, in whole waves, at most all."""
        c = self.recipe.curate
        waves = math.ceil(c.pairs / self.assume.pairs / c.wave) * c.wave
        return min([waves, *[n for n in (c.questions, question_count(self.recipe.problems)) if n is not None]])

    # Tokens of the replies that are waited for, each the last of those that are sampled together.
    @property
    def waves(self) -> int:
        return math.ceil(self.questions() / self.recipe.curate.wave)

    @property
    def longest_of_a_wave(self) -> int:
        c = self.recipe.curate
        return (0 if c.rollouts_file else c.rollout.max_tokens) + c.refine.max_tokens * bool(c.refinements)

    @property
    def longest_of_a_contestant(self) -> int:
        benchmarks = self.recipe.evaluate.benchmarks.values()
        return sum((b.greedy + (b.temperature is not None)) * b.max_tokens for b in benchmarks)

    @property
    def contestants(self) -> int:
        r, e = self.recipe, self.recipe.evaluate
        students = (1 + len(r.variants)) * max(1, len(r.seeds))
        return 1 + students * r.rounds + e.default_prompt + len(e.adapters)

    @property
    def steps(self) -> int:
        """Of the optimizer, in one training."""
        t = self.recipe.train
        if not METHODS[t.method].samples:
            return t.epochs * math.ceil(self.lessons / t.batch_size)
        questions = min(t.grpo.questions, question_count(self.recipe.problems) or t.grpo.questions)
        return t.grpo.steps or math.ceil(questions / t.grpo.questions_per_step)

    @property
    def probed(self) -> int:
        """Tokens that the length probes of one training sample one after another."""
        t = self.recipe.train
        return (2 + self.steps // t.probe_steps) * self.recipe.curate.rollout.max_tokens if t.probe_steps else 0

    def longest(self, prompt: float) -> int:
        return min(math.ceil(prompt) + self.longest_reply, self.recipe.sampler.max_model_len)

    def model_memory(self) -> dict[str, float]:
        quantization = getattr(self.recipe.model, "quantization", "none")
        return {"weights": float(self.shape.weight_bytes(self.itemsize, quantization)), **self.beside("transformers")}

    def beside(self, engine: str) -> dict[str, float]:
        if self.card is None:
            return {"the process": PROCESS_BYTES[engine]}
        return {"CUDA and allocator": float(KEPT_FREE_MIB * 2**20)}

    def cache(self, tokens: float, cards: int = 1) -> float:
        """Bytes that a sequence of so many tokens keeps on each of the cards that share the model."""
        return float(tokens * self.cache_bytes(cards) + self.shape.state_bytes())

    def cache_bytes(self, cards: int = 1) -> int:
        """Of one token; vLLM keeps what DeepSeek's keys and values are made of."""
        return self.shape.cache_bytes(self.itemsize, latent=self.engine == "vllm") // cards

    def compute_time(self, stage: StagePlan, operations: float) -> None:
        if self.card is not None and self.card.tflops and self.card.bandwidth:
            best, worst = (operations / (1e12 * self.card.tflops * share) for share in PEAK)
            stage.seconds = (START[0] + best, START[1] + worst)

    def waits(self, stage: StagePlan, tokens: float) -> tuple[float, float]:
        """Seconds of steps in which only the last replies of those sampled together are left, of so many tokens if they
        are as long as they may be: at worst they are, at best of mean length. Each step reads the weights.
        """
        if self.card is None or not self.card.bandwidth:
            return 0.0, 0.0
        reading = tokens * stage.memory["weights"] / (1e9 * self.card.bandwidth * self.share(stage))
        return self.assume.reply * reading / BANDWIDTH[0], reading / BANDWIDTH[1]

    def share(self, stage: StagePlan) -> float:
        """Of its speed that each card has; those that vLLM splits one model over wait for each other."""
        split = self.recipe.sampler.tensor_parallel > 1 and stage.name.partition(" ")[0] in ("curate", "evaluate")
        return SPLIT if split else 1.0


def question_count(problems: Any) -> int | None:
    """How many questions a data set has: as the recipe says, else as published, else unknown."""
    if is_pocket(problems.source):
        return problems.limit or 1000
    count = getattr(problems, "count", None) if isinstance(problems, BenchmarkConfig) else None
    known = count or SIZES.get(problems.source, {}).get(problems.split) or _benchmark_count(problems)
    given = [n for n in (problems.limit, None if known is None else max(known - problems.skip, 0)) if n is not None]
    return min(given) if given else None


def _benchmark_count(problems: Any) -> int | None:
    rows = BENCHMARKS.values()
    same = (row for row in rows if (row["source"], row["split"]) == (problems.source, problems.split))
    return next((row["count"] for row in same if "count" in row), None)


def target_bytes(targets: str, shape: Geometry, top_k: int, itemsize: int) -> int:
    """What a reply token takes on disk: `targets.bytes_per_token`, for a geometry and without torch."""
    sizes = {"hidden": shape.H * itemsize, "logits": shape.V * max(itemsize, 4), "one_hot": 4, "online": 0}
    return {**sizes, "top_k": top_k * (itemsize + 4) + 4}[targets]

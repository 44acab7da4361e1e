"""The arithmetic of `ssb plan`: memory, disk, tokens and time of each stage of a recipe on a card.

Arithmetic on the model's config and the recipe; standard library and OmegaConf only. Memory is an upper bound: the
longest reply that the recipe allows, in every row of a batch. Tokens and time are expectations that rest on
`Assumptions`. Times are unmeasured: the operations over 20 to 50 % of the card's stated peak, and never less than what
reading the weights takes at 40 to 80 % of its stated bandwidth.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from ..pocket import is_pocket, model_folder
from ..recipe.benchmarks import BENCHMARKS
from ..recipe.loading import variant
from ..recipe.methods import METHODS
from ..recipe.schema import BenchmarkConfig, Recipe
from . import hub
from .assumptions import (
    AT_A_TIME,
    BANDWIDTH,
    BATCHED_TOKENS,
    ENVIRONMENT_DOWNLOAD,
    GIB,
    INSTALL,
    LOSS_BLOCK,
    LOSS_ROWS,
    NETWORK,
    PEAK,
    POCKET,
    PROCESS_BYTES,
    SIZES,
    START,
    STEP,
    TEXT_BYTES,
    Assumptions,
)
from .auto import KEPT_FREE_MIB, choose
from .cards import Card
from .geometry import Geometry, How
from .hardware import stated, torch_build

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass
class StagePlan:
    """Bytes, tokens, and seconds (at best, at worst; None where there is no stated peak)."""

    name: str
    memory: dict[str, float] = field(default_factory=dict)
    disk: float = 0.0
    read: float = 0.0  # tokens: prompts, or whole texts where nothing is sampled
    sampled: float = 0.0  # tokens
    seconds: tuple[float, float] | None = None
    fits: bool | None = None  # None: no card to fit into, or one whose memory is not told
    advice: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def bytes(self) -> float:
        return sum(self.memory.values())


@dataclass
class Plan:
    recipe: str
    model: str
    source: str  # of the model's config
    parameters: int
    lora_parameters: int
    dtype: str
    card: Card | None
    assumptions: Assumptions
    download: float  # bytes: the model
    before: tuple[float, float] | None  # seconds: to load and install what is missing here; None on a CPU
    price: float | None  # of an hour
    stages: list[StagePlan]
    active: int = 0  # parameters that a token meets; fewer than `parameters` with experts
    tower: int | None = 0  # of them for pictures and sound; None where there are some, and how many is not known
    how: How = "family"  # the counts were come by
    hit: dict[str, int] = field(default_factory=dict)  # how many layers of each name LoRA is put on
    left_out: dict[str, int] = field(default_factory=dict)  # what it is not, and the parameters there
    whole: int = 0  # parameters trained where there is no adapter
    refused: list[str] = field(default_factory=list)  # why the recipe cannot run on the card, whatever its memory

    @property
    def fits(self) -> bool | None:
        if self.card is None or not self.card.memory_mib:
            return None
        return all(stage.fits is not False for stage in self.stages)

    @property
    def disk(self) -> float:
        return self.download + sum(stage.disk for stage in self.stages)

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Of all stages, and of what comes before them."""
        known = [stage.seconds for stage in self.stages if stage.seconds]
        known += [self.before] if known and self.before else []
        return (sum(s[0] for s in known), sum(s[1] for s in known)) if known else None

    @property
    def money(self) -> tuple[float, float] | None:
        """What that time costs, in the currency of `price`."""
        if self.seconds is None or self.price is None:
            return None
        return self.seconds[0] / 3600 * self.price, self.seconds[1] / 3600 * self.price

    def as_dict(self) -> dict[str, Any]:
        stages = [{**asdict(stage), "bytes": stage.bytes} for stage in self.stages]
        extra = {"fits": self.fits, "disk": self.disk, "seconds": self.seconds, "money": self.money}
        extra["time_is_measured"] = False
        return {**asdict(self), **extra, "stages": stages}


class Planner:
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

    def plan(self, source: str) -> Plan:
        r, lora = self.recipe, self.recipe.train.lora
        stages = [*self.student(), *(s for other in self.variants() for s in other.student(self.recipe))]
        stages += [self.evaluate(), StagePlan("report", disk=1e6)]
        if self.card is None:
            stages[-1].memory["the process"] = PROCESS_BYTES["none"]
        else:
            for stage in stages if self.card.memory_mib else ():
                stage.fits = stage.bytes <= self.card.memory_mib * 2**20
        local = model_folder(r.model.name) is not None or source.startswith((".", "/", "~"))
        local = local or hub.has_weights(r.model.name, r.model.revision)
        download = 0.0 if local else 2.0 * self.shape.parameters  # the hub's weights are 16-bit
        return Plan(
            r.name,
            r.model.name,
            source,
            self.shape.parameters,
            self.lora,
            r.model.dtype,
            self.card,
            self.assume,
            download,
            None if self.card is None else _before(download),
            r.card.price,
            stages,
            self.shape.active,
            self.shape.tower,
            self.shape.how,
            {} if lora is None else self.shape.hit(lora.target_modules),
            {} if lora is None else self.shape.left_out(lora.target_modules),
            whole=self.whole,
        )

    def variants(self) -> Iterator[Planner]:
        for name in self.recipe.variants:
            yield Planner(variant(self.asked, name), self.card, self.shape, name)

    def student(self, beside: Recipe | None = None) -> Iterator[StagePlan]:
        """The stages that one student needs; but those that it shares with the recipe's own, `beside`."""
        r, needed = self.recipe, METHODS[self.recipe.train.method].reads
        made = () if beside is None else METHODS[beside.train.method].reads
        shared = beside is not None and "curate" in made and beside.curate == r.curate
        if "curate" in needed and not shared:
            yield self._named(self.curate())
        shared = shared and beside is not None and "teach" in made and beside.teach == r.teach
        if "teach" in needed and not shared:
            yield self._named(self.teach())
        yield self._named(self.grpo() if METHODS[r.train.method].samples else self.train())

    def _named(self, stage: StagePlan) -> StagePlan:
        """With the variant's name; and as often as there are seeds and rounds, one after another."""
        times = max(1, len(self.recipe.seeds)) * self.recipe.rounds
        stage.name += f" {self.name}" if self.name else ""
        stage.disk, stage.read, stage.sampled = (times * x for x in (stage.disk, stage.read, stage.sampled))
        stage.seconds = (times * stage.seconds[0], times * stage.seconds[1]) if stage.seconds else None
        stage.note += f"; {times} times (seeds, rounds)" if times > 1 else ""
        return stage

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

    # -- The stages

    def curate(self) -> StagePlan:
        c = self.recipe.curate
        if c.pairs_file:
            return StagePlan("curate", note="pairs of your own")
        asked = self.questions()
        refined = asked * self.assume.pairs / self.assume.refined_right * c.refinements
        rollouts = 0.0 if c.rollouts_file else asked * c.rollouts * self.assume.reply * c.rollout.max_tokens
        stage = StagePlan("curate", self._sampling_memory(adapters=False))
        stage.sampled = rollouts + refined * self.assume.reply * c.refine.max_tokens
        stage.read = asked * self.student_prompt + refined * self.teacher_prompt
        stage.disk = TEXT_BYTES * stage.sampled
        stage.note = f"about {asked:,} questions"
        self._sampling_time(stage, replies=asked * c.rollouts + refined, waited=self.waves * self.longest_of_a_wave)
        return stage

    def evaluate(self) -> StagePlan:
        e, contestants = self.recipe.evaluate, self.contestants
        stage, replies = StagePlan("evaluate", self._sampling_memory(adapters=True)), 0.0
        for benchmark in e.benchmarks.values():
            decodings = benchmark.greedy + (benchmark.samples if benchmark.temperature is not None else 0)
            n = contestants * decodings * (question_count(benchmark) or 500)
            replies += n
            stage.sampled += n * self.assume.reply * benchmark.max_tokens
            stage.read += n * self.student_prompt
        stage.disk = TEXT_BYTES * stage.sampled
        stage.note = f"{replies:,.0f} replies of {contestants} contestants"
        self._sampling_time(stage, replies, waited=contestants * self.longest_of_a_contestant)
        return stage

    def teach(self) -> StagePlan:
        r, shape = self.recipe, self.shape
        replies, longest = self.lessons, self._longest(self.hinted_prompt)
        if r.teach.right == "tokens":  # which nobody teaches
            replies /= 2 if r.teach.replies == "rollouts" else math.inf
        stage = StagePlan("teach", note=f"targets: {r.teach.targets}")
        stage.disk = replies * self.reply * target_bytes(r.teach.targets, shape, r.teach.top_k, self.itemsize)
        if r.teach.targets_from is not None:
            stage.note += ", made elsewhere"
        if r.teach.targets == "online" or r.teach.targets_from is not None:
            return stage
        batch = max(r.teach.batch_tokens, longest)
        rows = self.longest_reply * max(1, r.teach.batch_tokens // longest)
        stage.memory = self._model_memory()
        stage.memory["activations"] = batch * (shape.saved_bytes(self.itemsize, 0) + shape.H * self.itemsize)
        if r.teach.targets not in ("hidden", "one_hot"):  # logits of one pair, and their softmax for top_k
            stage.memory["logits"] = self.longest_reply * shape.V * (self.itemsize + 4.0)
        stage.memory["reply rows"] = rows * shape.H * self.itemsize
        stage.read = replies * (self.hinted_prompt + self.reply)
        if r.teach.guidance is not None:  # the bare context, and the unhinted one
            stage.memory["reply rows"] *= 3
            stage.read += replies * (2 * self.student_prompt + self.assume.refine + 2 * self.reply)
        self._compute_time(stage, shape.forward_operations(stage.read, 0, self.hinted_prompt + self.reply))
        return stage

    def train(self) -> StagePlan:
        r, shape = self.recipe, self.shape
        t, longest = r.train, self._longest(self.student_prompt)
        tokens, rows = t.together * longest, t.together * self.longest_reply
        stage = StagePlan("train", self._training_memory(tokens))
        block = min(LOSS_ROWS, max(1, LOSS_BLOCK // shape.V))
        hidden = rows * shape.H * (2 * self.itemsize + 4)  # student's, teacher's, and the gradient in float32
        probe = t.probe_questions * self._cache(self.student_prompt + r.curate.rollout.max_tokens)
        loss = float(2 * min(LOSS_ROWS, rows) * shape.V * 4 + 2 * block * shape.V * 4 + hidden)
        # The probe's cache and the loss's buffers are never held together with each other.
        stage.memory["loss, or the length probe"] = max(loss, probe if t.probe_steps else 0.0)
        length = self.student_prompt + self.reply
        stage.read = t.epochs * self.lessons * length
        # The adapter; and while it trains two checkpoints with the optimizer's state, and a third that is written.
        stage.disk = (4 + 3 * 12.0) * self.lora
        if t.lora is None:  # the model, in each checkpoint too
            stage.disk = 4.0 * shape.parameters * self.itemsize + 3 * self._optimizer_bytes()
        stage.note = f"{self.steps:,} steps"
        replies = t.epochs * self.lessons * self.reply
        loss_operations = 2 * METHODS[t.method].head_products * replies * shape.H * shape.V
        self._compute_time(stage, (self._training_operations(stage.read, length) + loss_operations) / t.processes)
        self._say_processes(stage)
        self._add_probes(stage)
        self._add_guard(stage, self.steps, r.curate.rollout.max_tokens)
        self._add_refresh(stage)
        return stage

    def grpo(self) -> StagePlan:
        """TRL's GRPOTrainer with vLLM in its process: the weights twice, and vLLM's share from the start."""
        g, shape = self.recipe.train.grpo, self.shape
        a_step, steps = g.questions_per_step * g.generations, self.steps
        longest = math.ceil(self.student_prompt) + g.max_tokens
        several = self.recipe.train.processes
        share = a_step // several
        stage = StagePlan("train", self._training_memory(min(g.micro_batch_size or share, share) * longest))
        if self.card is not None and g.use_vllm is not False and several == 1:
            stage.memory["vLLM beside it"] = g.gpu_memory_utilization * self.card.memory_mib * 2**20
        reply = self.assume.reply * g.max_tokens
        stage.sampled = steps * a_step * reply
        stage.read = steps * a_step * (self.student_prompt + reply)
        stage.disk, stage.note = 16.0 * self.lora, f"{steps:,} steps of {a_step} replies"
        operations = self._training_operations(stage.read, self.student_prompt + reply)
        self._compute_time(stage, operations / several + 4 * stage.sampled * shape.H * shape.V)
        self._say_processes(stage)
        if stage.seconds is not None and self.card is not None and self.card.bandwidth:
            # A step waits for its longest reply, and each of its tokens for a reading of the weights.
            moved = steps * g.max_tokens * stage.memory["weights"] / (1e9 * self.card.bandwidth)
            stage.seconds = (stage.seconds[0] + moved / BANDWIDTH[0], stage.seconds[1] + moved / BANDWIDTH[1])
            self._add_probes(stage)
        self._add_guard(stage, steps, g.max_tokens)
        return stage

    # -- What they share

    def _longest(self, prompt: float) -> int:
        return min(math.ceil(prompt) + self.longest_reply, self.recipe.sampler.max_model_len)

    def _model_memory(self) -> dict[str, float]:
        quantization = getattr(self.recipe.model, "quantization", "none")
        return {"weights": float(self.shape.weight_bytes(self.itemsize, quantization)), **self._other("transformers")}

    def _training_memory(self, tokens: float) -> dict[str, float]:
        """Weights, what is trained and what belongs to it in float32, and the activations of so many tokens at a
        time.
        """
        t, shape, memory = self.recipe.train, self.shape, self._model_memory()
        if t.lora is None:
            memory["gradients"] = float(self.itemsize * self.whole)
            memory["optimizer"] = self._optimizer_bytes() + 4.0 * self.whole * (self.itemsize < 4)  # and its gradients
        else:
            memory["LoRA"] = 4.0 * self.lora
            memory["gradients and optimizer"] = 12.0 * self.lora  # AdamW keeps two moments
        r = t.lora.r if t.lora is not None else 0
        if t.gradient_checkpointing:  # each layer's input, and one layer made again
            kept = shape.L * shape.H * self.itemsize + shape.saved_bytes(self.itemsize, r)
        else:
            kept = shape.saved_in_all(self.itemsize, r)
        if t.lora is None and self.itemsize == 4:  # what its two norms have made, for the gradients of their weights
            kept += 8 * shape.H * (1 if t.gradient_checkpointing else shape.L)
        if t.sharding == "fsdp":  # all but the activations, in equal parts; and what is gathered at a time
            ends = shape.V * shape.H * (1 if shape.tied else 2)
            gathered = self.itemsize * (ends + 2 * shape.between / shape.L)
            memory = {name: size / t.processes for name, size in memory.items()} | {"gathered weights": gathered}
        memory["activations"] = float(tokens * kept)
        return memory

    def _say_processes(self, stage: StagePlan) -> None:
        if (count := self.recipe.train.processes) > 1:
            stage.note += f"; {count} processes, memory is that of one; what they tell each other takes time besides"

    def _optimizer_bytes(self) -> float:
        """AdamW's two moments of all weights in float32, and of 16-bit weights the copies that it trains."""
        return (8.0 + 4.0 * (self.itemsize < 4)) * self.whole

    def _training_operations(self, tokens: float, length: float) -> float:
        """Forward and, the base being frozen, a backward pass as dear as one forward; once more with checkpointing. The
        gradients of weights take two operations a weight and token.
        """
        passes = 3 if self.recipe.train.gradient_checkpointing else 2
        trained = 6 * self.lora + 2 * self.whole
        return passes * self.shape.forward_operations(tokens, 0, length) + trained * tokens

    def _add_probes(self, stage: StagePlan) -> None:
        if stage.seconds is not None:
            stage.seconds = (stage.seconds[0] + self.probed * STEP[0], stage.seconds[1] + self.probed * STEP[1])

    def _add_guard(self, stage: StagePlan, steps: int, most: int) -> None:
        """Its probes, at most `most` tokens a reply; as if training came to its end, and every probe were better."""
        if (guard := self.recipe.train.guard) is not None:
            self._add_sampled(stage, (2 + steps // guard.every) * guard.questions, most)
            # Students of the checkpoints, and the next.
            stage.disk += 4 * (4.0 * self.lora + self.itemsize * self.whole)
            stage.note += f"; a guard of {guard.questions:,} questions every {guard.every:,} steps"

    def _add_refresh(self, stage: StagePlan) -> None:
        """The student's new rollouts after each epoch but the last, and the teacher's pass over them."""
        t, c, lessons = self.recipe.train, self.recipe.curate, self.teach()
        if t.refresh is None:
            return
        rounds = t.epochs - 1
        self._add_sampled(stage, rounds * c.pairs * c.rollouts, c.rollout.max_tokens)
        stage.read += rounds * lessons.read
        stage.disk += (
            lessons.disk + TEXT_BYTES * rounds * c.pairs * c.rollouts * self.assume.reply * c.rollout.max_tokens
        )
        stage.note += f"; new rollouts {rounds:,} times{'' if t.refresh.below is None else ' at most'}"

    def _add_sampled(self, stage: StagePlan, replies: float, most: int) -> None:
        """Replies by transformers beside the trainer: a batch takes as many steps as its longest one has tokens."""
        stage.sampled += replies * self.assume.reply * most
        stage.read += replies * self.student_prompt
        if stage.seconds is not None:
            waited = math.ceil(replies / self.recipe.sampler.batch_size) * most
            stage.seconds = (stage.seconds[0] + waited * STEP[0], stage.seconds[1] + waited * STEP[1])

    def _other(self, engine: str) -> dict[str, float]:
        if self.card is None:
            return {"the process": PROCESS_BYTES[engine]}
        return {"CUDA and allocator": float(KEPT_FREE_MIB * 2**20)}

    def _sampling_memory(self, adapters: bool) -> dict[str, float]:
        """Of one card, or this machine; nothing where servers sample."""
        s, shape = self.recipe.sampler, self.shape
        if self.engine == "servers":
            return {}
        memory = {"weights": shape.weight_bytes(self.itemsize) / s.tensor_parallel, **self._other(self.engine)}
        lora = self.recipe.train.lora
        if adapters and lora is not None:  # a student that is a whole model takes the base's place
            memory["LoRA"] = float(self.itemsize * self.lora * s.max_lora_rank / lora.r)
        if self.engine == "vllm" and self.card is None:
            memory["KV cache"] = float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 1) * GIB
            return memory
        if self.engine == "vllm":
            step = BATCHED_TOKENS * (2 * shape.I + 4 * shape.H) * self.itemsize + AT_A_TIME * shape.V * 4 * 3
            memory["activations"] = float(step)
            memory["KV cache"] = self._cache(s.max_model_len)  # one reply of full length
            return memory
        rows = s.batch_size
        memory["activations"] = float(rows * (shape.V * 4 * 3 + shape.saved_bytes(self.itemsize, 0)))
        memory["KV cache"] = rows * self._cache(s.max_model_len)
        return memory

    def cache_tokens(self, stage: StagePlan) -> float:
        """For how many tokens vLLM's share of the card has room, once the rest has its own."""
        if self.card is None:
            return math.inf
        share = float(self.recipe.sampler.gpu_memory_utilization) * self.card.memory_mib * 2**20
        rest = sum(value for what, value in stage.memory.items() if what not in ("KV cache", "CUDA and allocator"))
        return max(0.0, share - rest) / max(1, self._cache_bytes)

    @property
    def _cache_bytes(self) -> int:
        """Of one token on each card; vLLM keeps what DeepSeek's keys and values are made of."""
        whole = self.shape.cache_bytes(self.itemsize, latent=self.engine == "vllm")
        return whole // self.recipe.sampler.tensor_parallel

    def _cache(self, tokens: float) -> float:
        """Bytes that a sequence of so many tokens keeps."""
        return float(tokens * self._cache_bytes + self.shape.state_bytes())

    def _compute_time(self, stage: StagePlan, operations: float) -> None:
        if self.card is not None and self.card.tflops and self.card.bandwidth:
            best, worst = (operations / (1e12 * self.card.tflops * share) for share in PEAK)
            stage.seconds = (START[0] + best, START[1] + worst)

    def waits(self, stage: StagePlan, tokens: float) -> tuple[float, float]:
        """Seconds of steps in which only the last replies of those sampled together are left, of so many tokens if they
        are as long as they may be: at worst they are, at best of mean length. Each step reads the weights.
        """
        if self.card is None or not self.card.bandwidth:
            return 0.0, 0.0
        reading = tokens * stage.memory["weights"] / (1e9 * self.card.bandwidth)
        return self.assume.reply * reading / BANDWIDTH[0], reading / BANDWIDTH[1]

    def _sampling_time(self, stage: StagePlan, replies: float, waited: float) -> None:
        if self.engine == "servers":
            count = len(self.recipe.sampler.servers)
            stage.note += f"; sampled by {count} server{'s' * (count != 1)}, whose memory and time are not planned"
            return
        if self.card is None or not self.card.tflops or not self.card.bandwidth or not replies:
            return
        mean = (stage.read + stage.sampled) / replies
        abreast = max(1.0, min(AT_A_TIME, replies, self.cache_tokens(stage) / mean))
        stage.note += f"; room for {self.cache_tokens(stage):,.0f} tokens, {abreast:.0f} replies at a time"
        operations = self.shape.forward_operations(stage.read + stage.sampled, stage.sampled, mean)
        a_step = stage.memory["weights"] + abreast * self._cache(mean)
        moved = a_step * stage.sampled / abreast
        computing = [operations / (1e12 * self.card.tflops * share) for share in PEAK]
        moving = [moved / (1e9 * self.card.bandwidth * share) for share in BANDWIDTH]
        best, worst = (max(pair) for pair in zip(computing, moving, strict=True))
        last = self.waits(stage, waited)
        stage.seconds = (START[0] + best + last[0], START[1] + worst + last[1])


def _before(download: float) -> tuple[float, float]:
    """Seconds until the first stage can begin here: packages, where there is no torch for GPUs, and the model."""
    build = torch_build()
    installed = build is not None and build[1] is not None
    load = download + (0.0 if installed else ENVIRONMENT_DOWNLOAD)
    unpack = (0.0, 0.0) if installed else INSTALL
    return load / NETWORK[0] + unpack[0], load / NETWORK[1] + unpack[1]


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

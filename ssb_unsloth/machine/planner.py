"""The arithmetic of `ssb plan`: memory, disk, tokens and time of each stage of a recipe on a card.

Arithmetic on the model's config and the recipe; standard library and OmegaConf only. Memory is an upper bound: the
longest reply that the recipe allows, in every row of a batch. Tokens and time are expectations that rest on
`Assumptions`. Times are unmeasured: the operations over 15 to 50 % of the card's stated peak, and never less than what
reading the weights takes at 40 to 80 % of its stated bandwidth.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from ..pocket import model_folder
from ..recipe.loading import variant
from ..recipe.methods import METHODS
from ..recipe.schema import Recipe
from . import hub
from .assumptions import (
    AT_A_TIME,
    BANDWIDTH,
    BATCHED_TOKENS,
    CHECK,
    ENVIRONMENT_DOWNLOAD,
    GIB,
    INSTALL,
    NETWORK,
    PEAK,
    PROCESS_BYTES,
    START,
    TEXT_BYTES,
)
from .hardware import torch_build
from .planned import Plan, StagePlan
from .reckoning import Reckoning, question_count, target_bytes
from .trainings import plan_grpo, plan_training


class Planner(Reckoning):
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
        samples = METHODS[r.train.method].samples
        yield self._named(plan_grpo(self) if samples else plan_training(self, self.teach()))

    def _named(self, stage: StagePlan) -> StagePlan:
        """With the variant's name; and as often as there are seeds and rounds, one after another."""
        times = max(1, len(self.recipe.seeds)) * self.recipe.rounds
        stage.name += f" {self.name}" if self.name else ""
        stage.disk, stage.read, stage.sampled = (times * x for x in (stage.disk, stage.read, stage.sampled))
        stage.replies *= times
        stage.seconds = (times * stage.seconds[0], times * stage.seconds[1]) if stage.seconds else None
        stage.note += f"; {times} times (seeds, rounds)" if times > 1 else ""
        return stage

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
        replies, longest = self.lessons, self.longest(self.hinted_prompt)
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
        stage.memory = self.model_memory()
        stage.memory["activations"] = batch * (shape.saved_bytes(self.itemsize, 0) + shape.H * self.itemsize)
        if r.teach.targets not in ("hidden", "one_hot"):  # logits of one pair, and their softmax for top_k
            stage.memory["logits"] = self.longest_reply * shape.V * (self.itemsize + 4.0)
        stage.memory["reply rows"] = rows * shape.H * self.itemsize
        stage.read = replies * (self.hinted_prompt + self.reply)
        if r.teach.guidance is not None:  # the bare context, and the unhinted one
            stage.memory["reply rows"] *= 3
            stage.read += replies * (2 * self.student_prompt + self.assume.refine + 2 * self.reply)
        self.compute_time(stage, shape.forward_operations(stage.read, 0, self.hinted_prompt + self.reply))
        return stage

    def _sampling_memory(self, adapters: bool) -> dict[str, float]:
        """Of one card, or this machine; nothing where servers sample."""
        s, shape = self.recipe.sampler, self.shape
        if self.engine == "servers":
            return {}
        memory = {"weights": shape.weight_bytes(self.itemsize) / s.tensor_parallel, **self.beside(self.engine)}
        lora = self.recipe.train.lora
        if adapters and lora is not None:  # a student that is a whole model takes the base's place
            memory["LoRA"] = float(self.itemsize * self.lora * s.max_lora_rank / lora.r)
        if self.engine == "vllm" and self.card is None:
            memory["KV cache"] = float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 1) * GIB
            return memory
        if self.engine == "vllm":
            step = BATCHED_TOKENS * (2 * shape.I + 4 * shape.H) * self.itemsize + AT_A_TIME * shape.V * 4 * 3
            memory["activations"] = float(step)
            memory["KV cache"] = self.cache(s.max_model_len, s.tensor_parallel)  # one reply of full length
            return memory
        rows = s.batch_size
        memory["activations"] = float(rows * (shape.V * 4 * 3 + shape.saved_bytes(self.itemsize, 0)))
        memory["KV cache"] = rows * self.cache(s.max_model_len)
        return memory

    def cache_tokens(self, stage: StagePlan) -> float:
        """For how many tokens vLLM's share of the card has room, once the rest has its own."""
        if self.card is None:
            return math.inf
        share = float(self.recipe.sampler.gpu_memory_utilization) * self.card.memory_mib * 2**20
        rest = sum(value for what, value in stage.memory.items() if what not in ("KV cache", "CUDA and allocator"))
        return max(0.0, share - rest) / max(1, self.cache_bytes(self.recipe.sampler.tensor_parallel))

    def _sampling_time(self, stage: StagePlan, replies: float, waited: float) -> None:
        stage.replies = replies
        if self.engine == "servers":
            count = len(self.recipe.sampler.servers)
            stage.cards = 0
            stage.note += f"; sampled by {count} server{'s' * (count != 1)}, whose memory and time are not planned"
            return
        if self.card is None or not self.card.tflops or not self.card.bandwidth or not replies:
            return
        mean, cards, share = (
            (stage.read + stage.sampled) / replies,
            self.recipe.sampler.tensor_parallel,
            self.share(stage),
        )
        abreast = max(1.0, min(AT_A_TIME, replies, self.cache_tokens(stage) / mean))
        replies_said = f"{abreast:.0f} replies" if abreast >= 1.5 else "1 reply"
        stage.note += f"; room for {self.cache_tokens(stage):,.0f} tokens, {replies_said} at a time"
        operations = self.shape.forward_operations(stage.read + stage.sampled, stage.sampled, mean) / cards
        a_step = stage.memory["weights"] + abreast * self.cache(mean, cards)
        moved = a_step * stage.sampled / abreast
        computing = [operations / (1e12 * self.card.tflops * share * at) for at in PEAK]
        moving = [moved / (1e9 * self.card.bandwidth * share * at) for at in BANDWIDTH]
        best, worst = (max(pair) for pair in zip(computing, moving, strict=True))
        last = self.waits(stage, waited)
        stage.seconds = (
            START[0] + best + last[0] + replies * CHECK[0],
            START[1] + worst + last[1] + replies * CHECK[1],
        )


def _before(download: float) -> tuple[float, float]:
    """Seconds until the first stage can begin here: packages, where there is no torch for GPUs, and the model."""
    build = torch_build()
    installed = build is not None and build[1] is not None
    load = download + (0.0 if installed else ENVIRONMENT_DOWNLOAD)
    unpack = (0.0, 0.0) if installed else INSTALL
    return load / NETWORK[0] + unpack[0], load / NETWORK[1] + unpack[1]

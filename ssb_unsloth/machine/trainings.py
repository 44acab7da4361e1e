"""The plans of the trainings: by pairs, and GRPO. Standard library and OmegaConf only."""

from __future__ import annotations

import math

from ..recipe.methods import METHODS
from .assumptions import BANDWIDTH, CHECK, LOSS_BLOCK, LOSS_ROWS, STEP, TEXT_BYTES
from .planned import StagePlan
from .reckoning import Reckoning


def plan_training(p: Reckoning, lessons: StagePlan) -> StagePlan:
    """`lessons`: the teach stage's plan, whose pass `train.refresh` repeats."""
    r, shape = p.recipe, p.shape
    t, longest = r.train, p.longest(p.student_prompt)
    tokens, rows = t.together * longest, t.together * p.longest_reply
    stage = StagePlan("train", _training_memory(p, tokens))
    block = min(LOSS_ROWS, max(1, LOSS_BLOCK // shape.V))
    hidden = rows * shape.H * (2 * p.itemsize + 4)  # student's, teacher's, and the gradient in float32
    probe = t.probe_questions * p.cache(p.student_prompt + r.curate.rollout.max_tokens)
    loss = float(2 * min(LOSS_ROWS, rows) * shape.V * 4 + 2 * block * shape.V * 4 + hidden)
    # The probe's cache and the loss's buffers are never held together with each other.
    stage.memory["loss, or the length probe"] = max(loss, probe if t.probe_steps else 0.0)
    length = p.student_prompt + p.reply
    stage.read = t.epochs * p.lessons * length
    # The adapter; and while it trains two checkpoints with the optimizer's state, and a third that is written.
    stage.disk = (4 + 3 * 12.0) * p.lora
    if t.lora is None:  # the model, in each checkpoint too
        stage.disk = 4.0 * shape.parameters * p.itemsize + 3 * _optimizer_bytes(p)
    stage.note = f"{p.steps:,} steps"
    replies = t.epochs * p.lessons * p.reply
    loss_operations = 2 * METHODS[t.method].head_products * replies * shape.H * shape.V
    p.compute_time(stage, (_training_operations(p, stage.read, length) + loss_operations) / t.processes)
    _say_processes(p, stage)
    _add_probes(p, stage)
    _add_guard(p, stage, p.steps, r.curate.rollout.max_tokens)
    _add_refresh(p, stage, lessons)
    return stage


def plan_grpo(p: Reckoning) -> StagePlan:
    """TRL's GRPOTrainer with vLLM in its process: the weights twice, and vLLM's share from the start."""
    g, shape = p.recipe.train.grpo, p.shape
    a_step, steps = g.questions_per_step * g.generations, p.steps
    longest = math.ceil(p.student_prompt) + g.max_tokens
    several = p.recipe.train.processes
    share = a_step // several
    stage = StagePlan("train", _training_memory(p, min(g.micro_batch_size or share, share) * longest))
    if p.card is not None and g.use_vllm is not False and several == 1:
        stage.memory["vLLM beside it"] = g.gpu_memory_utilization * p.card.memory_mib * 2**20
    reply = p.assume.reply * g.max_tokens
    stage.replies = float(steps * a_step)
    stage.sampled = steps * a_step * reply
    stage.read = steps * a_step * (p.student_prompt + reply)
    stage.disk, stage.note = 16.0 * p.lora, f"{steps:,} steps of {a_step} replies"
    operations = _training_operations(p, stage.read, p.student_prompt + reply)
    p.compute_time(stage, operations / several + 4 * stage.sampled * shape.H * shape.V)
    _say_processes(p, stage)
    if stage.seconds is not None and p.card is not None and p.card.bandwidth:
        # A step waits for its longest reply, and each of its tokens for a reading of the weights.
        moved = steps * g.max_tokens * stage.memory["weights"] / (1e9 * p.card.bandwidth)
        stage.seconds = (stage.seconds[0] + moved / BANDWIDTH[0], stage.seconds[1] + moved / BANDWIDTH[1])
        _add_checks(stage, stage.replies)
        _add_probes(p, stage)
    _add_guard(p, stage, steps, g.max_tokens)
    return stage


def _training_memory(p: Reckoning, tokens: float) -> dict[str, float]:
    """Weights, what is trained and what belongs to it in float32, and the activations of so many tokens at a
    time.
    """
    t, shape, memory = p.recipe.train, p.shape, p.model_memory()
    if t.lora is None:
        memory["gradients"] = float(p.itemsize * p.whole)
        memory["optimizer"] = _optimizer_bytes(p) + 4.0 * p.whole * (p.itemsize < 4)  # and its gradients
    else:
        memory["LoRA"] = 4.0 * p.lora
        memory["gradients and optimizer"] = 12.0 * p.lora  # AdamW keeps two moments
    r = t.lora.r if t.lora is not None else 0
    if t.gradient_checkpointing:  # each layer's input, and one layer made again
        kept = shape.L * shape.H * p.itemsize + shape.saved_bytes(p.itemsize, r)
    else:
        kept = shape.saved_in_all(p.itemsize, r)
    if t.lora is None and p.itemsize == 4:  # what its two norms have made, for the gradients of their weights
        kept += 8 * shape.H * (1 if t.gradient_checkpointing else shape.L)
    if t.sharding == "fsdp":  # all but the activations, in equal parts; and what is gathered at a time
        ends = shape.V * shape.H * (1 if shape.tied else 2)
        gathered = p.itemsize * (ends + 2 * shape.between / shape.L)
        memory = {name: size / t.processes for name, size in memory.items()} | {"gathered weights": gathered}
    memory["activations"] = float(tokens * kept)
    return memory


def _say_processes(p: Reckoning, stage: StagePlan) -> None:
    if (count := p.recipe.train.processes) > 1:
        stage.cards = count
        stage.note += f"; {count} processes, memory is that of one; what they tell each other takes time besides"


def _optimizer_bytes(p: Reckoning) -> float:
    """AdamW's two moments of all weights in float32, and of 16-bit weights the copies that it trains."""
    return (8.0 + 4.0 * (p.itemsize < 4)) * p.whole


def _training_operations(p: Reckoning, tokens: float, length: float) -> float:
    """Forward and, the base being frozen, a backward pass as dear as one forward; once more with checkpointing. The
    gradients of weights take two operations a weight and token.
    """
    passes = 3 if p.recipe.train.gradient_checkpointing else 2
    trained = 6 * p.lora + 2 * p.whole
    return passes * p.shape.forward_operations(tokens, 0, length) + trained * tokens


def _add_probes(p: Reckoning, stage: StagePlan) -> None:
    if stage.seconds is not None:
        stage.seconds = (stage.seconds[0] + p.probed * STEP[0], stage.seconds[1] + p.probed * STEP[1])


def _add_guard(p: Reckoning, stage: StagePlan, steps: int, most: int) -> None:
    """Its probes, at most `most` tokens a reply; as if training came to its end, and every probe were better."""
    if (guard := p.recipe.train.guard) is not None:
        _add_sampled(p, stage, (2 + steps // guard.every) * guard.questions, most)
        # Students of the checkpoints, and the next.
        stage.disk += 4 * (4.0 * p.lora + p.itemsize * p.whole)
        stage.note += f"; a guard of {guard.questions:,} questions every {guard.every:,} steps"


def _add_refresh(p: Reckoning, stage: StagePlan, lessons: StagePlan) -> None:
    """The student's new rollouts after each epoch but the last, and the teacher's pass over them."""
    t, c = p.recipe.train, p.recipe.curate
    if t.refresh is None:
        return
    rounds = t.epochs - 1
    _add_sampled(p, stage, rounds * c.pairs * c.rollouts, c.rollout.max_tokens)
    stage.read += rounds * lessons.read
    stage.disk += lessons.disk + TEXT_BYTES * rounds * c.pairs * c.rollouts * p.assume.reply * c.rollout.max_tokens
    stage.note += f"; new rollouts {rounds:,} times{'' if t.refresh.below is None else ' at most'}"


def _add_sampled(p: Reckoning, stage: StagePlan, replies: float, most: int) -> None:
    """Replies by transformers beside the trainer: a batch takes as many steps as its longest one has tokens."""
    stage.replies += replies
    stage.sampled += replies * p.assume.reply * most
    stage.read += replies * p.student_prompt
    if stage.seconds is not None:
        waited = math.ceil(replies / p.recipe.sampler.batch_size) * most
        stage.seconds = (stage.seconds[0] + waited * STEP[0], stage.seconds[1] + waited * STEP[1])
        _add_checks(stage, replies)


def _add_checks(stage: StagePlan, replies: float) -> None:
    if stage.seconds is not None:
        stage.seconds = (stage.seconds[0] + replies * CHECK[0], stage.seconds[1] + replies * CHECK[1])

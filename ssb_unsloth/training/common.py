"""What all ways of training share: what they are given, what they return, and how a training is run and kept.

A way of training is a module with a function `train(inputs: Inputs) -> Trained`, which `recipe.methods.METHODS` names.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PrinterCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from ..backends import TrainingBackend
from ..backends.control_tokens import markers
from ..backends.transformers import freeze_the_rest, load_tokenizer, peft_config, save_model
from ..io.progress import say
from ..io.terminal import folded
from ..machine.lora_targets import select
from ..method.collator import Example
from ..method.examples import lessons_of, render_examples
from ..pocket import MODELS
from ..recipe.methods import METHODS
from ..recipe.schema import LoraConfig as LoraKeys
from ..recipe.schema import Recipe, TeachConfig, TrainConfig
from ..records import Pair, Problem, Rollout
from ..run.curated import questions_of, read_pairs, rollouts_of
from ..run.rundir import RunDir
from ..run.student import ADAPTER, MODEL
from .callbacks import LengthProbe, LogWhereSaved, StillNumbers
from .group import is_first, several, shards
from .guard import Guard, held_out
from .masters import MasterAdamW
from .sharded import is_sharded, weights_of
from .shares import Epochs, Shared


@dataclass
class Inputs:
    """What every way of training is given. The properties are read, or made, when first asked for, and once."""

    recipe: Recipe
    run: RunDir  # where the stages lie that it reads
    folder: Path  # to write into
    backend: TrainingBackend | None = None  # what loads the model, for a method that is `by_backend`

    @property
    def device(self) -> str | None:
        """Where the base is loaded; None: where there is one GPU, or none. One that is to be sharded fits no card."""
        if shards():
            return "cpu"
        return f"cuda:{torch.cuda.current_device()}" if several() and torch.cuda.is_available() else None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.recipe.model)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Raises UserError where curation gave none."""
        return read_pairs(self.run)

    @cached_property
    def examples(self) -> list[Example]:
        """What `teach.replies` asks for, as token ids; by default the pairs, in their order."""
        wanted = self.rollouts if self.recipe.teach.needs_rollouts else ()
        rollouts = [rollout for rollout in wanted if rollout.problem_id in self.paired]
        return render_examples(
            self.recipe, lessons_of(self.recipe, self.pairs, rollouts, self.tokenizer), self.tokenizer
        )

    @cached_property
    def refined(self) -> list[Example]:
        """The pairs as token ids, with their refined replies."""
        return render_examples(replace(self.recipe, teach=TeachConfig()), self.pairs, self.tokenizer)

    @cached_property
    def questions(self) -> Iterable[Problem]:
        """All that were sampled in curation, in their order; read one at a time by whoever goes through them."""
        return questions_of(self.run)

    @cached_property
    def rollouts(self) -> Iterable[Rollout]:
        """Of these questions, in their order, read as they are; none where the pairs were made elsewhere."""
        return rollouts_of(self.run)

    @cached_property
    def paired(self) -> set[str]:
        """The ids of the questions that have a pair."""
        return {pair.problem_id for pair in self.pairs}

    @property
    def unpaired(self) -> Iterator[Problem]:
        """Questions that were sampled and gave no pair, in their order."""
        return (asked for asked in self.questions if asked.id not in self.paired and not markers(asked.question))

    @cached_property
    def probes(self) -> list[Problem]:
        """The first of these: the student's own reply length is measured on them."""
        return list(islice(self.unpaired, self.recipe.train.probe_questions))

    @cached_property
    def guarded(self) -> list[Problem]:
        """What `train.guard` asks, as `guard` says: none that is trained on."""
        train = self.recipe.train
        assert train.guard is not None
        last = list(deque(self.unpaired, train.guard.questions))
        if self.recipe.curate.gold == "majority":  # votes are labels, and only what was sampled has them
            return last
        seen = {one.id for one in self.questions} | self.paired
        # ssd learns from any that was sampled.
        return held_out(self.recipe.problems, seen, [] if train.method == "ssd" else last, train.guard.questions)


@dataclass
class Trained:
    """What came of a training."""

    model: nn.Module  # a PeftModel, or where all weights were trained a plain one
    history: list[dict[str, Any]]  # a row a log
    trainable_parameters: int
    total_parameters: int
    epochs: float = 0.0  # fewer than the recipe's where it was stopped early
    tokens: int = 0  # read in training, prompts and replies
    backend: str | None = None  # that loaded the model, where the recipe leaves a choice
    sampled_tokens: int | None = None  # where the method samples, a refresh or a guard that decides
    kept_step: int | None = None  # whose student is saved, where that is the best one
    stopped_step: int | None = None  # where training was stopped early
    learnt_tokens: int | None = None  # of the replies that a control learns from
    drift: float | None = None  # KL(base ‖ student) on unrelated text, nats a token, where that is measured
    lora: dict[str, dict[str, int]] | None = None  # "layers" trained, by kind, and "left_out", with their parameters
    left_as_it_is: dict[str, int] | None = None  # where all weights were trained: the others, with their parameters

    @property
    def summary(self) -> dict[str, Any]:
        """Its figures for the stage's manifest, in their order; those that there are."""
        losses = [row["loss"] for row in self.history if "loss" in row]
        steps = {"steps": self.history[-1]["step"], "first_loss": losses[0], "last_loss": losses[-1]}
        counted = ("trainable_parameters", "total_parameters", "backend", "sampled_tokens", "learnt_tokens", "drift")
        guarded = ("kept_step", "stopped_step")
        return steps | {
            name: value
            for name in (*guarded, *counted, "lora", "left_as_it_is")
            if (value := getattr(self, name)) is not None
        }


def common_arguments(config: TrainConfig, checkpoints: Path, seed: int, dtype: Any) -> dict[str, Any]:
    """What the recipe's `train` section says to every method's trainer, as TrainingArguments has it.

    `dtype`: the base model's weights'.
    """
    share = -(-config.batch_size // config.processes)  # the largest
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.together,
        "gradient_accumulation_steps": -(-share // config.together),
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler,
        "warmup_steps": config.warmup_steps,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "logging_steps": config.logging_steps,
        "save_steps": config.save_steps,
        "save_total_limit": 2,  # one before the last: `checkpoints` says why
        "report_to": config.report_to or "none",
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not on_gpu,
        "bf16": on_gpu and dtype == torch.bfloat16,
        "fp16": on_gpu and dtype == torch.float16,
        "dataloader_pin_memory": False,  # SSB's batches hold views and targets that pinning does not know
        "disable_tqdm": True,  # the bar below says the same in one line
    }


def lora(config: TrainConfig, model: nn.Module) -> LoraConfig | None:
    """The adapter of every method that TRL puts on `model`; none where all weights are trained."""
    return None if config.lora is None else peft_config(config.lora, model)


def fit(
    trainer: Shared,
    inputs: Inputs,
    probes: Sequence[Problem],
    probe_tokens: int,
    rate: str = "train.learning_rate",
    guarded: Sequence[Problem] | None = None,
) -> Trained:
    """Train, and save `adapter` in the inputs' folder, or `model` where all weights are trained. What the method alone
    can count is left for it to add.

    Training resumes from the newest whole checkpoint in the folder's `checkpoints`; what comes out is that of an
    undisturbed run. While it trains, the student's own replies to `probes`, held-out questions, are measured, at most
    `probe_tokens` long. `rate`: the recipe's key of the learning rate. `guarded`: what `train.guard` asks, in place of
    the inputs'.

    Raises:
        UserError: the trained weights are no numbers any more; there is nothing for `train.guard` to ask; or the disk
            is full.
    """
    config, student = inputs.recipe.train, cast(nn.Module, trainer.model)
    if several() and trainer.step_size is not None and not METHODS[config.method].samples:
        most = config.micro_batch_size or trainer.step_size
        trainer.add_callback(Epochs(len(cast(Any, trainer.train_dataset)), trainer.step_size, most))
    trained_on = _with_adapter(config.lora, student) if config.lora is not None else _as_a_whole(trainer, student)
    if probes and config.probe_steps:
        texts = inputs.recipe.prompts.texts
        trainer.add_callback(LengthProbe(trainer, inputs.tokenizer, probes, config.probe_steps, probe_tokens, texts))
    guard = None
    if config.guard is not None:
        asked = inputs.guarded if guarded is None else guarded
        guard = Guard(trainer, inputs.tokenizer, asked, probe_tokens, inputs.recipe)
        trainer.add_callback(guard)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(StillNumbers)  # SSBTrainer's own does not know the recipe's key
    trainer.add_callback(StillNumbers(rate))
    trainer.add_callback(LogWhereSaved())
    _keep_events(trainer, inputs.folder.parent / "tensorboard")
    trainer.train(resume_from_checkpoint=True)
    kept = {} if guard is None else guard.outcome(trainer.state)
    parameters = list(student.parameters())
    _save(student, inputs)
    return Trained(
        student,
        history(trainer.state.log_history),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        total_parameters=sum(p.numel() for p in parameters),
        epochs=trainer.state.epoch or 0.0,
        **trained_on,
        **kept,
    )


def _save(student: nn.Module, inputs: Inputs) -> None:
    """What was trained, by the first process, to which the others give their parts where it is sharded."""
    weights = weights_of(student, isinstance(student, PeftModel)) if is_sharded(student) else None
    if not is_first():
        return
    if isinstance(student, PeftModel):
        save_adapter(student, inputs.folder / ADAPTER, weights)
    else:
        save_model(student, inputs.recipe.model, inputs.folder / MODEL, weights)


def _with_adapter(config: LoraKeys, student: nn.Module) -> dict[str, Any]:
    """Say what the adapter is on, and put it into its dtype. Returned: what `Trained` keeps of it."""
    chosen = select(student, config.target_modules)
    say(folded(chosen.sentence(config), rest="  "))
    if config.dtype == "model":
        cast_adapter(student)
    return {"lora": {"layers": chosen.kinds, "left_out": chosen.left_out}}


def _as_a_whole(trainer: Shared, student: nn.Module) -> dict[str, Any]:
    """Freeze what is not trained, and take an optimizer that holds float32 copies of 16-bit weights. Returned: what
    `Trained` keeps of it."""
    chosen = freeze_the_rest(student)
    say(chosen.sentence)
    if any(p.dtype != torch.float32 for p in student.parameters() if p.requires_grad):
        _, settings = trainer.get_optimizer_cls_and_kwargs(trainer.args)
        trainer.optimizer_cls_and_kwargs = (MasterAdamW, {key: settings[key] for key in ("lr", "betas", "eps")})
    return {"left_as_it_is": chosen.left}


def _keep_events(trainer: Shared, folder: Path) -> None:
    """TensorBoard's files beside the stage's folder, where they outlive the checkpoints, and no hash depends on them.
    A folder for each time that training begins or resumes; TENSORBOARD_LOGGING_DIR overrules it.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(folder / time.strftime("%Y-%m-%d-%H%M%S"))


def history(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Trainer's log as it is kept: the same for the same training, whenever and in however many pieces it ran.

    So it has no seconds (the manifest's cost has them) and none of what TRL counts anew whenever training resumes.
    Its keys are sorted, as those are that come out of a checkpoint, and its `train_loss` is the mean over all steps.
    """
    left_out = ("_runtime", "_per_second", "step_time", "num_tokens")
    rows = [{key: row[key] for key in sorted(row) if not key.endswith(left_out)} for row in log]
    total = sum(row["loss"] * steps for row, steps in steps_of(rows, "loss"))
    return [row | {"train_loss": total / row["step"]} if "train_loss" in row else row for row in rows]


def steps_of(rows: Sequence[dict[str, Any]], key: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The rows of a log that have this key, a mean since the one before, and of how many steps."""
    before = 0
    for row in rows:
        if key in row:
            yield row, row["step"] - before
            before = row["step"]


def cast_adapter(model: nn.Module) -> None:
    """Put the trained weights into the frozen ones' dtype, as the released code does. PEFT keeps them in float32."""
    dtype = next(p.dtype for p in model.parameters() if not p.requires_grad and p.is_floating_point())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def save_adapter(model: PeftModel, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """The adapter in PEFT's format, two files. Not by Trainer.save_model, which adds its arguments as a pickle.

    `weights`: the trained ones, where the model has parts of them alone.
    """
    given: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    # The base's own embeddings stay where LoRA lies on top of them.
    model.save_pretrained(str(folder), save_embedding_layers=False, **given)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; `ssb export` writes one that says something
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set, in another order each time
    base = config["base_model_name_or_path"]  # as the recipe says, and not where it lies on this machine
    config["base_model_name_or_path"] = next((name for name, its in MODELS.items() if base == str(its)), base)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

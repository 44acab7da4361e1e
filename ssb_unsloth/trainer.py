"""SSBTrainer: a transformers Trainer whose loss is the paper's Eq. 6, in TRL's manner.

    trainer = SSBTrainer(model, args=SSBConfig(output_dir="student"), train_dataset=pairs,
                         processing_class=tokenizer, peft_config=LoraConfig(r=32))

A data set's rows are pairs: `prompt` and `teacher_prompt` (messages: what the student and the hinted teacher see), and
`reply` (text) or `reply_ids` (the sampler's own token ids). Without stored targets the teacher, which is the same model
with its adapter off, is run in the training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from .backends.transformers import end_of_turn, render
from .callbacks import StillNumbers
from .checkpoints import Sealed
from .collator import Ahead, Example, PairCollator, View
from .errors import UserError
from .losses import Teacher, kd_loss, row_weights
from .modeling import as_teacher, hidden_states, output_head

Targets = Callable[[Sequence[str]], Teacher]  # pair ids to the teacher's rows [N, ...], as `targets.Targets` gives them

MEANS = ("kl", "agreement", "teacher_entropy", "student_entropy")  # over reply tokens: by-products of the loss


@dataclass
class SSBConfig(TrainingArguments):
    """TrainingArguments with the objective's own settings. Their defaults are the released code's where it has one."""

    kd_temperature: float = field(default=2.0, metadata={"help": "T_KD of Eq. 6; not a sampling temperature."})
    denominator: Literal["example", "token"] = field(
        default="example", metadata={"help": "Mean over examples of token means (Eq. 6), or over all tokens."}
    )
    kd_weight: float = field(default=1.0, metadata={"help": "Weight of T² KL; lambda_KD of the released code."})
    ce_weight: float = field(
        default=0.0, metadata={"help": "Weight of the reply tokens' cross-entropy; lambda_CE of the released code."}
    )
    sharpen: float = field(default=1.0, metadata={"help": "Multiplies the teacher's logits; 1 is the paper."})
    learning_rate: float = field(default=2e-4, metadata={"help": "The released code's."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "The paper's batch (§4.1)."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "The released code's."})
    logging_steps: float = field(default=1, metadata={"help": "The paper's runs have 192 steps: log each."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator takes whole pairs."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kd_temperature > 0:
            raise ValueError(f"kd_temperature: {self.kd_temperature} is not above 0.")
        if not self.sharpen > 0:
            raise ValueError(f"sharpen: {self.sharpen} is not above 0.")
        if min(self.kd_weight, self.ce_weight) < 0 or self.kd_weight == self.ce_weight == 0:
            raise ValueError(f"kd_weight, ce_weight: {self.kd_weight}, {self.ce_weight}; one above 0, none below.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns: pairs lose their columns if this is true; leave it false.")


class SSBTrainer(Sealed):
    """Trains a LoRA student on the bare question to match the hinted teacher on the reply tokens.

    Args:
        model: a causal language model with a frozen, linear head; a PeftModel, or a plain one with `peft_config`.
        args: an SSBConfig.
        train_dataset, eval_dataset: rows as the module says, or `collator.Example`s.
        processing_class: the tokenizer, with a chat template.
        peft_config: puts this adapter on the model.
        targets: the stored teacher; without it the teacher runs on line.

    Logs beside the Trainer's own, as means over reply tokens: `kl` (nats at T_KD, without T²), `agreement` (the share
    on which student and teacher have the same likeliest word), `teacher_entropy` and `student_entropy` (nats at T_KD).

    Raises:
        UserError: a data set without the columns, a head that LoRA touches, several GPUs in one process.
    """

    args: SSBConfig
    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        args: SSBConfig,
        train_dataset: Iterable[Any],
        eval_dataset: Iterable[Any] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> None:
        if processing_class is None:
            raise UserError("SSBTrainer needs processing_class, the model's tokenizer.")
        if args.n_gpu > 1:  # the Trainer would make the batch that many times as large
            raise UserError(
                f"One process sees {args.n_gpu} GPUs: show it one (CUDA_VISIBLE_DEVICES=0), or start one process a GPU"
                " with torchrun."
            )
        if peft_config is not None:
            set_seed(args.seed)  # the adapter's first weights are drawn here
            model = get_peft_model(model, peft_config)
        if targets is None and not isinstance(model, PeftModel):
            raise UserError("Without stored targets the teacher is the model with its adapter off: give a peft_config.")
        output_head(model)  # fails early where the head is not what the loss needs
        eos, pad = processing_class.eos_token_id, processing_class.pad_token_id
        super().__init__(
            model=model,
            args=args,
            train_dataset=examples_from(train_dataset, processing_class),
            eval_dataset=None if eval_dataset is None else examples_from(eval_dataset, processing_class),
            processing_class=processing_class,
            data_collator=PairCollator(eos if pad is None else pad, targets),
            **kwargs,
        )
        self.add_callback(StillNumbers())
        # The denominator is ours (`get_batch_samples`), so the Trainer must not divide by accumulation steps again.
        self.model_accepts_loss_kwargs = True
        self._epoch: Iterator[Any] | None = None
        self._ahead: Iterator[Any] = iter(())
        self._sums: dict[str, list[Tensor]] = {name: [] for name in (*MEANS, "tokens")}

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of one optimizer step, with the step's denominator: its examples, or its reply tokens."""
        if epoch_iterator is not self._epoch:  # a new one: from now on it belongs to the thread that reads ahead
            self._epoch, self._ahead = epoch_iterator, Ahead(epoch_iterator, num_batches)
        batches = list(islice(self._ahead, num_batches))
        by_token = self.args.denominator == "token"
        total = sum(int(batch["lengths"].sum()) if by_token else len(batch["lengths"]) for batch in batches)
        # Processes of one step share its denominator; DDP then averages their gradients, hence the factor.
        everyone = self.accelerator.gather(torch.tensor([total], device=device)).sum()
        return batches, everyone / self.accelerator.num_processes

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's share of Eq. 6: those of a step add up to the loss of the undivided batch."""
        wrapped, model = model, self.accelerator.unwrap_model(model)
        head = output_head(model)
        device = head.weight.device
        with self.accelerator.autocast():
            student_NH = _through(wrapped, model, partial(_reply_states, model, inputs["student"], device))
            if "targets" in inputs:
                teacher = _to(inputs["targets"], device)
            else:
                with as_teacher(model):
                    teacher = _reply_states(model, inputs["teacher"], device).to(head.weight.dtype)
        lengths = inputs["lengths"].to(device)
        out = kd_loss(
            student_NH,
            teacher,
            head,
            row_weights(lengths, num_items_in_batch, self.args.denominator),
            temperature=self.args.kd_temperature,
            labels=inputs["labels"].to(device),
            kd_weight=self.args.kd_weight,
            ce_weight=self.args.ce_weight,
            sharpen=self.args.sharpen,
            stats=True,
        )
        for name in MEANS:
            self._sums[name].append(getattr(out, name).sum())
        self._sums["tokens"].append(lengths.sum())
        return (out.loss, None) if return_outputs else out.loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        with torch.no_grad():
            return self.compute_loss(model, inputs).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        prefix = next((prefix for prefix in ("", "eval_") if f"{prefix}loss" in logs), None)
        if self._sums["tokens"] and prefix is not None:
            sums = torch.stack([torch.stack(values).sum() for values in self._sums.values()])
            *means, tokens = self.accelerator.reduce(sums, "sum").tolist()  # of all processes
            logs |= {prefix + name: total / tokens for name, total in zip(self._sums, means, strict=False)}
            self._sums = {name: [] for name in self._sums}
        super().log(logs, start_time)


def examples_from(rows: Iterable[Any], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """A data set's rows as token ids; a reply given as text gets the end of turn."""
    return [row if isinstance(row, Example) else _example(number, row, tokenizer) for number, row in enumerate(rows)]


def _example(number: int, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Example:
    missing = [column for column in ("prompt", "teacher_prompt") if column not in row]
    if missing or not ("reply" in row or "reply_ids" in row):
        raise UserError(
            f"Row {number} of the data set has the columns {', '.join(row)}; expected prompt, teacher_prompt, and reply"
            " or reply_ids."
        )
    ids = row.get("reply_ids")
    if ids is None:
        ids = [*tokenizer.encode(row["reply"], add_special_tokens=False), end_of_turn(tokenizer)]
    try:
        return Example(
            str(row.get("id", number)),
            render(tokenizer, row["prompt"]),
            render(tokenizer, row["teacher_prompt"]),
            list(ids),
        )
    except ValueError as error:
        raise UserError(f"Row {number} of the data set: {error}") from None


def _through(wrapped: nn.Module, model: nn.Module, function: Callable[[], Tensor]) -> Tensor:
    """`function()` as the forward of `model` inside its wrapper: DDP averages the gradients of its own forward only."""
    if wrapped is model:
        return function()
    original = model.forward

    def forward() -> Tensor:
        model.forward = original
        return function()

    model.forward = forward
    try:
        states: Tensor = wrapped()
    finally:
        model.forward = original
    return states


def _reply_states(model: nn.Module, view: View, device: torch.device) -> Tensor:
    return view.reply_rows(hidden_states(model, view.input_ids.to(device), view.attention_mask.to(device)))


def _to(targets: Teacher, device: torch.device) -> Teacher:
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    moved: dict[str, Any] = {
        k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in vars(targets).items()
    }
    return type(targets)(**moved)

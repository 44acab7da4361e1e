"""SSBTrainer: a transformers Trainer whose loss is the paper's Eq. 6, in TRL's manner.

    trainer = SSBTrainer(model, args=SSBConfig(output_dir="student"), train_dataset=pairs,
                         processing_class=tokenizer, peft_config=LoraConfig(r=32))

A data set's rows are pairs (`rows` says of which columns). Without stored targets the teacher, which is the same model
with its adapter off, is run in the training step. What has no effect here, or would train something else than an
adapter on a frozen base, is refused in a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from ..backends.chat_template import pad_id
from ..backends.transformers import load_model, load_tokenizer
from ..backends.wrapped import embedded
from ..errors import UserError
from ..method.collator import Example, PairCollator
from ..method.distributions import Divergence, Head, StoredTeacher, Teacher, TeacherTopK, placed
from ..method.guidance import states, teacher_rows
from ..method.losses import kd_loss, row_weights
from ..method.modeling import as_teacher, output_head, reply_states
from ..method.prefetch import Prefetch
from ..method.selfchecks import check_head
from ..recipe.schema import ModelConfig
from .arguments import SSBConfig, checked_arguments, student
from .callbacks import StillNumbers
from .rows import by_name, read
from .sharded import is_sharded, within
from .shares import IDLE, Shared

MEANS = ("kl", "agreement", "teacher_entropy", "student_entropy")  # over reply tokens: by-products of the loss


class SSBTrainer(Shared):
    """Trains a LoRA student on the bare question to match the hinted teacher on the reply tokens.

    Args:
        model: a causal language model with a frozen, linear head; a PeftModel whose adapter is to be trained, or a
            plain one with `peft_config`. A hub id or a folder is loaded, with its tokenizer.
        args: an SSBConfig; plain TrainingArguments are taken with the objective's defaults.
        train_dataset: rows as `rows` says, or `collator.Example`s.
        eval_dataset: the same, or several by name.
        processing_class: the tokenizer, with a chat template where prompts are messages.
        peft_config: puts this adapter on the model.
        targets: the stored teacher; without it the teacher runs on line.
        kwargs: the Trainer's `callbacks` and `optimizers`.

    Logs beside the Trainer's own, as means over reply tokens: `kl` (the divergence, also where it is no KL: nats at
    T_KD, without T² and clip), `agreement` (the share on which student and teacher have the same likeliest word),
    `teacher_entropy` and `student_entropy` (nats at T_KD).
    A training that has diverged ends in a sentence; a checkpoint counts only when it is whole (`checkpoints`).

    Raises:
        UserError: a data set without the columns, a head or a base that would be trained, an adapter that would not,
            what has no effect here (`REFUSED`), several GPUs in one process; in the first step, an architecture whose
            logits are not those of its head on its hidden states.
    """

    args: SSBConfig
    model: PreTrainedModel | PeftModel

    def __init__(
        self,
        model: nn.Module | str,
        args: TrainingArguments | None = None,
        train_dataset: Iterable[Any] | None = None,
        eval_dataset: Iterable[Any] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        targets: StoredTeacher | None = None,
        **kwargs: Any,
    ) -> None:
        args = checked_arguments(args, kwargs)
        if isinstance(model, str | os.PathLike):
            named = ModelConfig(name=os.fspath(model))
            processing_class, model = processing_class or load_tokenizer(named), load_model(named)
        if processing_class is None:
            raise UserError("SSBTrainer needs processing_class, the model's tokenizer.")
        if not isinstance(processing_class, PreTrainedTokenizerBase):
            raise UserError(f"processing_class is a {type(processing_class).__name__}; expected the model's tokenizer.")
        model = student(model, peft_config, args.seed, taught=targets is not None)
        own = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        groups = optimizer.param_groups if (optimizer := (kwargs.get("optimizers") or [None])[0]) else []
        if groups and not own & {id(parameter) for group in groups for parameter in group["params"]}:
            raise UserError("optimizers: the optimizer holds no weight of the adapter, so nothing would be trained.")
        if args.window is not None and not hasattr(targets, "starts"):
            raise UserError("window: needs stored targets that know where hint and base part; leave it out.")
        on_line = targets is None and args.guidance is not None
        self._read = partial(read, tokenizer=processing_class, embedded=embedded(model), guided=on_line)
        super().__init__(
            model=model,
            args=args,
            train_dataset=None if train_dataset is None else self._read(train_dataset),
            eval_dataset=by_name(self._read, eval_dataset),
            processing_class=processing_class,
            data_collator=PairCollator(
                pad_id(processing_class, embedded(model)),
                targets,
                args.guidance is not None,
                args.window,
                getattr(targets, "starts", None),
            ),
            **kwargs,
        )
        self.add_callback(StillNumbers())
        # The denominator is ours (`get_batch_samples`), so the Trainer must not divide by accumulation steps again.
        self.model_accepts_loss_kwargs = True
        # Pinning fails on a teacher's rows that are on the GPU already, and a thread of ours prefetches batches anyway.
        self.args.dataloader_pin_memory = False
        self._head_checked = False
        self._epoch: Iterator[Any] | None = None
        self._prefetched: Iterator[Any] = iter(())
        # Sums over the reply tokens of each micro-batch since the last log: of MEANS, and how many tokens.
        self._rows: dict[bool, list[Tensor]] = {True: [], False: []}  # in training, in evaluation

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of one optimizer step, with the step's denominator: its examples, or its reply tokens."""
        if self.control.should_training_stop:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        if epoch_iterator is not self._epoch:  # a new one: from now on it belongs to the thread that prefetches
            self._epoch, self._prefetched = epoch_iterator, Prefetch(epoch_iterator, num_batches)
        batches = list(islice(self._prefetched, num_batches))
        by_token = self.args.denominator == "token"
        working = [batch for batch in batches if IDLE not in batch]
        total = sum(_tokens(batch) if by_token else len(batch["lengths"]) for batch in working)
        # Processes of one step share its denominator; DDP then averages their gradients, hence the factor.
        everyone = self.accelerator.gather(torch.tensor([total], device=device)).sum().clamp_min(1)
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
        compute = partial(self._loss, model, inputs, num_items_in_batch)
        # DDP averages the gradients of its own forward only, and FSDP2 has the head whole in its own only.
        loss, sums = compute() if wrapped is model and not is_sharded(model) else within(wrapped, model, compute)
        self._rows[model.training].append(torch.zeros_like(sums) if IDLE in inputs else sums)
        return (loss, None) if return_outputs else loss

    def _loss(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None
    ) -> tuple[Tensor, Tensor]:
        """The loss; and the sums of MEANS over the reply tokens, with their number."""
        if not self._head_checked:
            seen = inputs["student"]
            check_head(model, seen.input_ids[0][seen.attention_mask[0].bool()].tolist())
            self._head_checked = True
        head = output_head(model)
        device = head.weight.device
        with self.accelerator.autocast():
            student_NH = reply_states(model, inputs["student"])
            teacher = self._teacher(model, inputs, head)
        lengths = inputs["lengths"].to(device)
        labels = inputs["labels"].to(device)
        counted, weights = (placed(inputs.get(name), device) for name in ("counted", "weights"))
        weights_N = row_weights(lengths, num_items_in_batch, self.args.denominator, counted, weights)
        if IDLE in inputs:
            weights_N = torch.zeros_like(weights_N)
        loss, sums = student_NH.new_zeros((), dtype=weights_N.dtype), torch.zeros(len(MEANS), device=device)
        for rows, taught_by in _by_teacher(inputs.get("own"), labels, teacher):
            # A reply's own tokens are learnt by cross-entropy, which the forward KL to a one-hot teacher is.
            divergence: Divergence = "forward" if taught_by is not teacher else self.args.divergence
            out = kd_loss(
                student_NH[rows],
                taught_by,
                head,
                weights_N[rows],
                temperature=self.args.kd_temperature,
                labels=labels[rows],
                kd_weight=self.args.kd_weight,
                ce_weight=self.args.ce_weight,
                sharpen=self.args.sharpen,
                divergence=divergence,
                beta=self.args.beta,
                clip=self.args.clip,
                stats=True,
            )
            loss = loss + out.loss
            sums = sums + torch.stack([getattr(out, name).sum() for name in MEANS])
        return loss, torch.cat([sums, lengths.sum().to(sums)[None]])

    def _idle(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, IDLE: True}

    def _teacher(self, model: nn.Module, inputs: dict[str, Any], head: Head) -> Teacher | None:
        """The rows of the batch that a teacher teaches: stored, or from the base now; None where there are none."""
        if "targets" in inputs:
            return cast(Teacher, placed(inputs["targets"], head.weight.device))
        if "teacher" not in inputs:
            return None
        with as_teacher(model):
            return teacher_rows(states(model, inputs["teacher"]), self.args.guidance, head)

    def learn_from(self, rows: Iterable[Any], targets: StoredTeacher | None) -> None:
        """Take other rows for those that are trained on, and their teacher with them: between two epochs.

        There are as many steps as before: of more rows the last are left out, of fewer the first come again.
        """
        learnt, found = cast(list[Example], self.train_dataset), self._read(rows)
        learnt[:] = [found[place % len(found)] for place in range(len(learnt))]  # the loader holds this list
        cast(PairCollator, self.data_collator).take(targets, getattr(targets, "starts", None))

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        if not len(loader):
            raise UserError("dataloader_drop_last: fewer rows than one batch, so no step would be taken; leave it off.")
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Also for rows that are given to `evaluate` alone."""
        known = eval_dataset is None or isinstance(eval_dataset, str)
        return super().get_eval_dataloader(eval_dataset if known else cast(Any, self._read(eval_dataset)))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        return super().get_test_dataloader(cast(Any, self._read(test_dataset)))

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        with torch.no_grad():
            return self.compute_loss(model, inputs).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        losses = [key for key in logs if key == "loss" or (key.endswith("_loss") and key != "train_loss")]
        rows = self._rows[losses == ["loss"]]
        if losses and rows:
            sums = torch.stack(rows).sum(0)
            *means, tokens = self.accelerator.reduce(sums, "sum").tolist()  # of all processes
            prefix = losses[0].removesuffix("loss")  # of an evaluation: with the name of its data set
            logs |= {prefix + name: total / tokens for name, total in zip(MEANS, means, strict=True)}
            rows.clear()
        super().log(logs, start_time)


def _tokens(batch: dict[str, Any]) -> int:
    """Reply tokens that count."""
    return int(batch["counted"].sum() if "counted" in batch else batch["lengths"].sum())


def _by_teacher(own_N: Tensor | None, labels_N: Tensor, teacher: Teacher | None) -> Iterator[tuple[Any, Teacher]]:
    """The rows that a teacher teaches, and those that are taught by the reply's own tokens."""
    if own_N is None:
        assert teacher is not None
        yield slice(None), teacher
        return
    own_N = own_N.to(labels_N.device)
    yield own_N, TeacherTopK.one_hot(labels_N[own_N])
    if teacher is not None:
        yield ~own_N, teacher

"""How several processes share an optimizer step: the same examples as one process takes, each in one of the shares.

accelerate deals whole batches out, and where they do not come out even the last processes are given some of the first
examples once more. Here a step is drawn as one process draws it; process p of P takes its examples p, p + P, ..., cut
into forward passes of which all processes have as many. A pass for which there is no example left is an idle one: it
has to be made, since processes wait for each other in it, and weighs nothing. The trainers' losses divide by what the
whole step counts, times 1/P, which the mean over processes (DDP, FSDP2) undoes: so shares of unequal size weigh right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from accelerate.data_loader import SeedableRandomSampler
from peft import PeftModel
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from . import group
from .checkpoints import Sealed
from .sharded import gathered, is_sharded, load_optimizer, shard, weights_of

IDLE = "idle"  # a batch's key: it is there for the other processes' sake


class Shares:
    """A batch sampler: of the examples of each step, one process's share, in forward passes of at most `most`."""

    def __init__(self, steps: BatchSampler, process: int, processes: int, most: int) -> None:
        self._steps, self._process, self._processes, self._most = steps, process, processes, most

    def passes(self, examples: int) -> int:
        """How many each process makes in a step of so many examples."""
        return math.ceil(math.ceil(examples / self._processes) / self._most)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            share = step[self._process :: self._processes]
            for start in range(0, self.passes(len(step)) * self._most, self._most):
                yield share[start : start + self._most]

    def __len__(self) -> int:
        whole, rest = divmod(len(self._steps.sampler), self._steps.batch_size)  # type: ignore[arg-type]
        last = 0 if self._steps.drop_last else self.passes(rest)
        return whole * self.passes(self._steps.batch_size) + last

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of that pass over the examples."""
        if hasattr(self._steps.sampler, "set_epoch"):
            self._steps.sampler.set_epoch(epoch)

    @property
    def batch_sampler(self) -> Shares:
        """Where the Trainer looks for `set_epoch`, in a loader that is none of accelerate's."""
        return self


class Rows(Dataset[Any]):
    """A data set that is asked for one row after another, also for none."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Any:
        return self._rows[place]


class Shared(Sealed):
    """To be mixed into a Trainer: where there are several processes they share its steps as this module says.

    Attributes:
        step_size: examples of a step, of all processes; None: as many as TrainingArguments come to.
    """

    step_size: int | None = None

    def _shares(self, steps: BatchSampler) -> Shares:
        return Shares(steps, self.args.process_index, self.args.world_size, self.args.per_device_train_batch_size)

    def _idle(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of one example, made to count for nothing."""
        batch["labels"] = batch["labels"].fill_(-100)
        return batch

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Any], Any] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> Any:
        if self.args.world_size == 1 or not is_training or sampler_fn is None:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, dataloader_key)
        if isinstance(dataset, datasets.Dataset):
            dataset = self._remove_unused_columns(dataset, description=description)
        sampler = sampler_fn(dataset)
        if isinstance(sampler, RandomSampler):  # what accelerate puts in its place, for one process as well
            sampler = SeedableRandomSampler(dataset, data_seed=self.args.data_seed)
        whole = batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        steps = BatchSampler(sampler, self.step_size or whole, self.args.dataloader_drop_last)
        rows = Rows(dataset)
        return DataLoader(rows, batch_sampler=self._shares(steps), collate_fn=lambda found: self._batch(rows, found))

    def _batch(self, rows: Rows, found: Sequence[Any]) -> dict[str, Any]:
        batch: dict[str, Any] = self.data_collator(list(found) or [rows[0]])
        return batch if found else self._idle(batch)

    # -- Where the weights are sharded: accelerate would put DDP around the model, and the Trainer would save parts

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        if not group.shards():  # else it goes there as it is sharded
            super()._move_model_to_device(model, device)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        if group.shards():
            shard(cast(nn.Module, self.model))
            accelerator = cast(Any, self.accelerator)
            accelerator.prepare_model = partial(accelerator.prepare_model, evaluation_mode=True)
        return super().create_optimizer(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        model = cast(nn.Module, self.model)
        if not is_sharded(model):
            super().save_model(output_dir, _internal_call)
            return
        weights = weights_of(model, trained_alone=isinstance(model, PeftModel))
        if self.args.should_save:
            self._save(output_dir, weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(cast(nn.Module, self.model)):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gathered(cast(Any, self.optimizer).state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(cast(Any, self.lr_scheduler).state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Also where the weights are whole: the Trainer would have torch load it to "cpu:0", which it does not know."""
        if checkpoint is None or self.args.world_size == 1:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_optimizer(self.optimizer, Path(checkpoint) / OPTIMIZER_NAME)
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, map_location="cpu", weights_only=True)
        cast(Any, self.lr_scheduler).load_state_dict(schedule)


class Epochs(TrainerCallback):
    """The log says how far in an epoch a step is, as one process would, which counts its own forward passes."""

    def __init__(self, examples: int, step: int, most: int) -> None:
        self._passes, self._step, self._most = math.ceil(examples / most), step // most, most
        self._steps = math.ceil(examples / step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        epoch, step = divmod(state.global_step - 1, self._steps)
        state.epoch = epoch + min((step + 1) * self._step, self._passes) / self._passes

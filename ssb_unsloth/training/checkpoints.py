"""Checkpoints that count only when they are whole.

transformers writes a checkpoint file by file, under its final name, and resumes from whatever has that name. Here the
hashes of its files are written last (the seal), when all of them are on the disk. A checkpoint without a seal, or with
a file that is not as it was sealed, does not count: training resumes from the one before it, else from the start.
Keep two of them (`save_total_limit=2`), so that there is one before: the Trainer deletes older ones before the seal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import UserError
from ..io import disk
from ..io.progress import say
from ..run.manifests import file_hash

SEAL = "sealed.json"  # in a checkpoint: the SHA-256 of each of its other files


class Sealed(Trainer):
    """To be mixed into a Trainer: seals what it saves, and `train(resume_from_checkpoint=True)` takes what is whole."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's. True: resume from the newest whole checkpoint in `output_dir`; begin where none is.

        Raises:
            UserError: the checkpoint that was named is not whole; or the disk is full.
        """
        chosen: str | bool | None = resume_from_checkpoint
        if resume_from_checkpoint is True:
            newest = newest_whole(Path(str(self.args.output_dir)))
            chosen = None if newest is None else str(newest)
            self._make_room(newest)
        elif resume_from_checkpoint and (found := fault(Path(resume_from_checkpoint))):
            raise UserError(f"{resume_from_checkpoint}: no checkpoint to resume from: {found}.")
        return super().train(chosen, *args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """None for a training that was stopped early and resumes: it is over before its next step."""
        return ([], None) if self.control.should_training_stop else super().get_batch_samples(*args, **kwargs)

    def _make_room(self, newest: Path | None) -> None:
        """Delete what a stopped run has left behind the newest whole checkpoint; it would be written over anyway."""
        self.accelerator.wait_for_everyone()  # until all processes have chosen
        if self.is_world_process_zero():
            for folder in checkpoints(Path(str(self.args.output_dir))):
                if newest is None or step_of(folder) > step_of(newest):
                    disk.remove(folder)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """PEFT takes an adapter that it loads to float32; here the weights stay in the dtype they are trained in. A
        whole model is loaded by its class: on the disk its weights may have other names, which the Trainer would skip.
        """
        trained = cast(nn.Module, self.model if model is None else model)
        if isinstance(trained, PreTrainedModel):
            saved = type(trained).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
            trained.load_state_dict(saved.state_dict())
            return
        dtypes = {name: parameter.dtype for name, parameter in trained.named_parameters()}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in trained.named_parameters():
            if parameter.dtype != dtypes[name]:
                parameter.data = parameter.data.to(dtypes[name])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes the state of its own random numbers
            if self.args.should_save:
                seal(folder)
        except Exception as error:
            refused = disk.refusal(error, folder)  # before there is room again
            disk.remove(folder)
            if refused is None:
                raise
            raise refused from error


def seal(folder: Path) -> None:
    """Flush a checkpoint's files to the disk, and then write down their hashes."""
    files = _files(folder)
    disk.flush_tree(folder, [folder / name for name in files])
    hashes = {name: file_hash(folder / name) for name in files}
    disk.write_text(folder / SEAL, json.dumps(hashes, indent=1) + "\n")
    disk.flush_folder(folder.parent)


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint in this folder to resume from; None where none is whole. Says which newer ones do not count."""
    for checkpoint in sorted(checkpoints(folder), key=step_of, reverse=True):
        found = fault(checkpoint)
        if found is None:
            return checkpoint
        say(f"{checkpoint.name} does not count: {found}; training resumes from the one before.")
    return None


def fault(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being whole; None where nothing does."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        if not isinstance(sealed, dict):
            return f"its {SEAL} is damaged"
        files = _files(checkpoint)
        if odd := sorted(files ^ sealed.keys()):
            return f"{odd[0]} is {'missing' if odd[0] in sealed else 'not part of it'}"
        changed = next((name for name in sorted(files) if file_hash(checkpoint / name) != sealed[name]), None)
        return f"{changed} has changed since it was written" if changed else None
    except FileNotFoundError:
        return "it was not written to its end"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, RecursionError):
        return f"its {SEAL} is damaged"


def _files(checkpoint: Path) -> set[str]:
    """All files of a checkpoint but its seal, relative to it."""
    found = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if not path.is_dir()}
    return found - {SEAL, SEAL + disk.ASIDE}


def checkpoints(folder: Path) -> list[Path]:
    """The folders of all checkpoints in this one, whole or not."""
    return [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if step_of(path) >= 0]


def step_of(checkpoint: Path) -> int:
    """Of a checkpoint's folder; -1 for any other."""
    number = checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(number) if number.isdecimal() else -1

"""What comes out of a finished run: the adapter, merged weights, GGUF, each with a model card; and the way to the hub.

    export/adapter/   PEFT: two files, loaded on top of the base
    export/merged/    a model folder of its own, 16-bit, sharded safetensors, tokenizer and chat template; of a student
                      all of whose weights were trained, these
    export/gguf/      one file for llama.cpp, made from merged/ by llama.cpp's own converter, or where that is not at
                      hand by Unsloth, which fetches it and needs a CUDA GPU

Merging is done in float32 on the CPU and rounded once, also for a run whose base was loaded in 8 or 4 bits: what was
trained is added to the full weights. It takes 4 bytes of memory for each parameter of the base.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..backends.sources import model_path, unloadable
from ..errors import UserError
from ..io import disk
from ..io.progress import hush, say
from ..pipeline.students import finished, scores_of
from ..recipe.renamed import with_first_names
from ..run.manifests import FORMAT, digest
from ..run.rundir import RunDir, refuse_in_stage
from ..run.student import Student
from .model_card import model_card, without_folders

FORMATS = ("adapter", "merged", "gguf")
CONVERTERS = ("convert_hf_to_gguf.py", "unsloth_convert_hf_to_gguf.py")  # llama.cpp's, and Unsloth's copy of it


def main(arguments: argparse.Namespace) -> int:
    hush()
    export_all(arguments.folder, arguments.format, arguments.out)
    return 0


def export(folder: Path, formats: Sequence[str], out: Path | None = None) -> list[Path]:
    """Write these formats of the student into `out` (the run's export/ by default). Returns their folders.

    Raises:
        UserError: the run is not finished, the base cannot be loaded, nothing here writes GGUF, or it fails; or in the
            place of an export lies what none has written. What was written before stays.
    """
    source, out = finished(folder), out or folder / "export"
    if "adapter" in formats and source.adapter is None:
        raise UserError(f"{folder}: all weights were trained, so there is no adapter; take --format merged.")
    refuse_in_stage(out)
    converter = find_converter() if "gguf" in formats else None
    written = []
    if "adapter" in formats:
        assert source.adapter is not None
        adapter = source.adapter
        written.append(_written(source, out, "adapter", lambda into: _adapter(source, adapter, into)))
    if "merged" in formats or "gguf" in formats:
        written.append(_written(source, out, "merged", lambda into: _merged(source, into)))
    if "gguf" in formats:
        written.append(_written(source, out, "gguf", lambda into: _gguf(source, converter, out / "merged", into)))
    return written


def export_all(folder: Path, format_: str, out: Path | None) -> None:
    """One format, or "all": adapter (where there is one) and merged weights, and GGUF where something can write it."""
    if format_ != "all":
        export(folder, [format_], out)
        return
    formats = [name for name in FORMATS if name != "adapter" or finished(folder).adapter is not None]
    try:
        find_converter()
    except UserError as error:
        export(folder, formats[:-1], out)
        say(f"gguf: left out. {error}")
    else:
        export(folder, formats, out)


def _written(source: Student, out: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Write aside, add the card, seal it, and only then give the folder its name: nobody loads half a model. A folder
    of that name is replaced only where an export has written it.
    """
    with RunDir(out).write(name, *key(source)) as work, all_or_nothing(work.folder):
        write(work.folder)
        files = [path.name for path in work.folder.iterdir()]
        (work.folder / "README.md").write_text(model_card(source, name, files), encoding="utf-8")
    say(f"{name}: {out / name}, {sum(f.stat().st_size for f in (out / name).iterdir()) / 1e6:,.1f} MB")
    return out / name


def key(source: Student) -> tuple[str, dict[str, Any]]:
    """What determines an export: the trained adapter, and what the card says of it."""
    determined_by = {
        "format": FORMAT,
        "recipe": digest(with_first_names(asdict(source.recipe))),
        "scores": digest(scores_of(source)),
        "inputs": {"train": (source.run.manifest("train") or {})["id"]},
    }
    return digest(determined_by), determined_by


@contextlib.contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """A folder that is being written goes where an error ends it; what the file system said becomes a sentence."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if refused := disk.refusal(error, folder):
            raise refused from None
        raise


def _adapter(source: Student, adapter: Path, into: Path) -> None:
    """The adapter as it was trained, naming its base as the recipe does, but for the folders of this machine."""
    shutil.copy2(adapter / "adapter_model.safetensors", into)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = without_folders(source.recipe.model.name)
    config["revision"] = source.recipe.model.revision
    (into / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _merged(source: Student, into: Path) -> None:
    from transformers import AutoConfig

    from ..backends.transformers import save_merged

    model = source.recipe.model
    try:
        where = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
        stored = AutoConfig.from_pretrained(model_path(model), **where).dtype
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {model.name!r}", model, error) from None
    # Of the two formats of 16 bits the one that the base is stored in; float16 keeps more of a float32 base's digits.
    save_merged(source.model, source.adapter, into, "bfloat16" if str(stored) == "torch.bfloat16" else "float16")


def find_converter() -> Path | None:
    """llama.cpp's convert_hf_to_gguf.py: in the folder that LLAMA_CPP names, on the PATH, or where Unsloth puts it.

    It comes first, since it reads the merged files and needs neither GPU nor network. None: Unsloth is to fetch it.

    Raises:
        UserError: it is nowhere, and Unsloth cannot be asked, with where to get it.
    """
    named = os.environ.get("LLAMA_CPP")
    unsloth = os.environ.get("UNSLOTH_LLAMA_CPP_PATH") or Path.home() / ".unsloth" / "llama.cpp"
    folders = [Path(named)] if named else [*map(Path, os.environ.get("PATH", "").split(os.pathsep)), Path(unsloth)]
    found = [folder / name for folder in folders for name in CONVERTERS if (folder / name).is_file()]
    if found:
        return found[0]
    if not named and find_spec("unsloth") and _cuda():
        return None
    raise UserError(
        f"GGUF is written by llama.cpp's {CONVERTERS[0]}, which is not "
        + (f"in {named}, the folder that LLAMA_CPP names." if named else "here: ")
        + ("" if named else "`git clone https://github.com/ggml-org/llama.cpp`, and set LLAMA_CPP to that folder.")
    )


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _gguf(source: Student, converter: Path | None, merged: Path, into: Path) -> None:
    target = into / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', source.recipe.name)}.gguf"
    if converter:
        command = [str(converter), str(merged), "--outfile", str(target), "--outtype", "auto"]
    else:
        say("gguf: by Unsloth, which takes minutes to fetch llama.cpp where it has none")
        stored = json.loads((merged / "config.json").read_text(encoding="utf-8")).get("dtype")
        unquantized = "bf16" if stored == "bfloat16" else "f16"
        command = ["-m", "ssb_unsloth.backends.unsloth", str(merged), str(target), unquantized]
    done = subprocess.run([sys.executable, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode or not target.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise UserError(f"{converter or 'Unsloth'} cannot convert {merged}: {said[-1].strip()}")

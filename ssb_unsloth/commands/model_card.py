"""The model card (README.md) of an exported student: what it is, from what, how good, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..io.markdown import code, escaped, fenced, pipes
from ..machine.lora_targets import kind_of, spell
from ..pipeline.students import scores_of
from ..pocket import model_folder
from ..recipe.methods import METHODS
from ..recipe.schema import BASE, Recipe
from ..run.student import Student
from ..verifier.verifiers import MATH, title, written

LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}


def model_card(student: Student, format_: str, files: Sequence[str]) -> str:
    """The card in Markdown, with the hub's YAML head. `files`: what lies beside it."""
    recipe, run, method = student.recipe, student.run, student.recipe.train.method
    manifest = run.manifest("train") or {}
    trained = manifest["summary"]
    counted = _read(run.stage("curate") / "statistics.json")
    scores = scores_of(student)
    base, rounds = base_of(student)
    source = without_folders(recipe.problems.source)
    head: dict[str, Any] = {
        "library_name": LIBRARIES[format_],
        "pipeline_tag": "text-generation",
        "tags": [method] if recipe.train.lora is None else [method, "lora"],
    }
    if "/" in base and not base.startswith("."):  # a hub id
        head = {"base_model": base, **head}
    asked = "its questions; replies come from the base itself"
    if counted.get("brought"):
        asked = f"{counted['pairs']:,} pairs that were made elsewhere"
    elif counted:
        asked = f"{counted['questions']:,} questions gave {counted['pairs']:,} pairs; replies come from the base itself"
    losses = f"{trained['first_loss']:.3f} at the first step, {trained['last_loss']:.3f} at the last"
    steps = f"{trained['steps']:,} steps{_kept(trained)}"
    share = 100 * trained["trainable_parameters"] / trained["total_parameters"]
    what = _what(format_, recipe)
    return f"""---
{OmegaConf.to_yaml(head).strip()}
---

# {escaped(recipe.name)}: {escaped(base)}, trained by {method.upper()}

{what} Student {code(student.name)} of the recipe {code(recipe.name)} of ssb_unsloth, seed {recipe.seed}.

- **Base**: {code(base)}{f", revision {code(recipe.model.revision)}" if recipe.model.revision else ""}{rounds}
- **Method**: {METHODS[method].card}.
- **Data**: {code(source)}, split {code(recipe.problems.split)}: {asked}.
- **Training**: {steps} at a learning rate of {recipe.train.learning_rate:g}; loss {losses};
  {_trained_weights(recipe, trained)}, {share:.1f} % of all parameters.

## Scores

{scores_table(scores, student)}

## How to load it

{_loading(format_, base, recipe.sampler.max_lora_rank, files)}

{_prompt(recipe)}

{fenced(recipe.prompts.texts.tutor)}

Sampling settings of the base's `generation_config.json` (a repetition penalty, for example) were not used in training
or in the scores above.

## Licences

The base model's licence passes on to these weights: check it at the base's own page before you share or use them. Check
the licence of the data as well. The code that made them is Apache-2.0.

## How it was made

Versions: {", ".join(f"{name} {escaped(version)}" for name, version in manifest.get("versions", {}).items())}.

{whole_recipe(recipe)}
"""


def whole_recipe(recipe: Recipe) -> str:
    """Every key, without the folders of this machine, to be unfolded."""
    resolved = without_folders(OmegaConf.to_container(OmegaConf.structured(recipe)))
    return f"""<details><summary>The whole recipe</summary>

{fenced(OmegaConf.to_yaml(resolved).strip(), "yaml")}

</details>"""


def _kept(trained: dict[str, Any]) -> str:
    """Which step's weights these are, where `train.guard` has chosen."""
    return f", of which those after step {trained['kept_step']:,} are here," if "kept_step" in trained else ""


def _trained_weights(recipe: Recipe, trained: dict[str, Any]) -> str:
    """What was trained; nothing of the layers of a run from before that was written down."""
    lora = recipe.train.lora
    if lora is None:
        return f"all weights but {' and '.join(trained['left_as_it_is'])}"
    layers = f" on {escaped(spell(trained['lora']['layers']))}" if "lora" in trained else ""
    return f"{kind_of(lora)} of rank {lora.r}{layers}"


def without_folders(value: Any) -> Any:
    """The same with only the last name of each absolute path: where something lies on this machine is nobody's concern.

    `value`: a string, or dicts and lists with strings in them.
    """
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return Path(value).name or value if isinstance(value, str) and value.startswith(("/", "~")) else value


def _prompt(recipe: Recipe) -> str:
    if not METHODS[recipe.train.method].samples and recipe.prompts.student == "joined":
        return (
            "It was trained on this text and the question with a space between them, as the authors' released code has"
            " it, and scored with the text as the system message of the model's own chat template:"
        )
    return "The prompt that it was trained on is the model's own chat template with this system message:"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def base_of(student: Student) -> tuple[str, str]:
    """The model that everything began with, and how many rounds lie between."""
    first, rounds = student, 0
    while first.before is not None:
        first, rounds = first.before, rounds + 1
    return without_folders(
        first.recipe.model.name
    ), f", after {rounds} earlier round{'s' * (rounds > 1)}" if rounds else ""


def _what(format_: str, recipe: Recipe) -> str:
    if recipe.train.lora is None:
        return f"The base with its weights trained, 16-bit{', as a GGUF file for llama.cpp' * (format_ == 'gguf')}."
    return {
        "adapter": "A LoRA adapter in PEFT's format, to be loaded on top of its base.",
        "merged": "The base with the trained adapter merged into its weights, 16-bit.",
        "gguf": "The base with the trained adapter merged into its weights, as a GGUF file for llama.cpp.",
    }[format_]


def scores_table(scores: Sequence[dict[str, Any]], student: Student) -> str:
    """Base and student, this seed, in the scoring that "accuracy" means without another word."""
    scores = [s for s in scores if s["scoring"] == "equivalent" and s["metric"] == "pass@1"]
    scores = [s for s in scores if s["model"] in (BASE, student.name) and s["seed"] == student.recipe.seed]
    if not scores:
        return "It has not been evaluated."
    table = [["benchmark", "decoding", "model", "questions", "accuracy", "95 % interval"]]
    for s in sorted(scores, key=lambda s: (s["benchmark"], s["temperature"])):
        decoding = f"T = {s['temperature']:g}" if s["temperature"] else "greedy"
        figures = f"{100 * s['value']:.1f} %", f"{100 * s['low']:.1f} to {100 * s['high']:.1f}"
        table.append([s["benchmark"], decoding, s["model"], f"{s['n_questions']:,}", *figures])
    benchmarks = student.recipe.evaluate.benchmarks
    others = [
        f"{code(name)}: {code(title(b.verifier))}" for name, b in benchmarks.items() if written(b.verifier) != MATH
    ]
    scoring = "by the last `\\boxed{}`, mathematically equal to the gold answer"
    if others:
        named = f"by the verifier of {', '.join(others)}"
        scoring = named if len(others) == len(benchmarks) else f"{scoring} ({named})"
    return pipes(table) + f"\n\nAccuracy is pass@1 {scoring}, one training run."


def _loading(format_: str, base_name: str, rank: int, files: Sequence[str]) -> str:
    base = json.dumps(base_name)
    if model_folder(base_name):
        base = f"str(MODELS[{base}])  # from ssb_unsloth.pocket import MODELS"
    if format_ == "adapter":
        return f"""transformers and PEFT:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base}
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), "PATH_OR_REPO_OF_THIS")
```

vLLM (`--max-lora-rank`: its default, 16, refuses larger adapters):

    vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules student=PATH_OR_REPO_OF_THIS

llama.cpp: take the GGUF export, or convert this folder with its `convert_lora_to_gguf.py`."""
    if format_ == "merged":
        return """transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OR_REPO_OF_THIS")
model = AutoModelForCausalLM.from_pretrained("PATH_OR_REPO_OF_THIS", dtype="auto")
```

vLLM (`--generation-config vllm`: no sampling settings of the base's):

    vllm serve PATH_OR_REPO_OF_THIS --generation-config vllm

llama.cpp: `python convert_hf_to_gguf.py PATH_OF_THIS`, or take the GGUF export."""
    name = next((file for file in files if file.endswith(".gguf")), "MODEL.gguf")
    return f"""llama.cpp (it is not quantized; `llama-quantize {name} smaller.gguf Q4_K_M` makes it smaller):

    llama-cli --model {name} --conversation --temp 0

transformers: `AutoModelForCausalLM.from_pretrained("FOLDER", gguf_file="{name}")`. vLLM: take the merged export."""

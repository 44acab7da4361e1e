"""Values of a recipe that are of the right type and cannot work.

`out_of_range` holds every key to the range that stands beside it in the schema. The functions below it look at what no
range says: several keys at once, names and dates. Each gives a line "key: what is wrong" for what it finds.
"""

from __future__ import annotations

import dataclasses
import datetime
import keyword
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import UserError
from ..io.addresses import is_server, server_address
from ..io.files import is_finite
from ..prompts import BOX, FENCE, faults
from ..verifier.verifiers import CHOICE, CODE, VERIFIERS, Spec, parts, title, verifier_for, wrong_with
from . import trackers
from .methods import METHODS
from .ranges import range_of
from .schema import BASE, DEFAULT_PROMPT, LORA_RANKS, ProblemsConfig, PromptsConfig, Recipe, TrainConfig

LONGEST_NAME = 60  # bytes: several of them stand in one file's name, which has 255
MOST_STUDENTS = 500
# Names that a chat template cannot be given a value of: Jinja's words, and what it renders.
TEMPLATE_WORDS = {
    *(word.lower() for word in keyword.kwlist),
    *("block", "call", "filter", "macro", "set"),
    *("messages", "add_generation_prompt", "continue_final_message"),
    *("bos_token", "eos_token", "strftime_now", "raise_exception"),
}


Lines = Iterator[str]


def impossible(recipe: Recipe) -> list[str]:
    """All that cannot work in one student's recipe, one line each."""
    return [*out_of_range(recipe), *(line for check in CHECKS for line in check(recipe))]


def out_of_range(section: Any, path: str = "") -> Lines:
    """The numbers of a section, and of those within it, that are out of their ranges. `path`: with a dot at its end."""
    for key in dataclasses.fields(section):
        here, value, range_ = f"{path}{key.name}", getattr(section, key.name), range_of(key)
        entries = {f"{here}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {here: value}
        for place, entry in entries.items():
            if dataclasses.is_dataclass(entry):
                yield from out_of_range(entry, f"{place}.")
        if range_ is not None:
            numbers = value if isinstance(value, list) else [value]
            yield from (f"{here}: {one} is not {range_}." for one in numbers if one not in range_)


# -- What no range says


def _names(r: Recipe) -> Lines:
    if not names_a_file(r.name, "-_.") or r.name.startswith("."):
        yield f"name: {r.name!r} is to name a folder; use letters, digits, -, _ and dots, at most {LONGEST_NAME}."
    taken = (BASE, DEFAULT_PROMPT, r.train.method, *r.variants)
    for name in r.evaluate.adapters:
        if not names_a_file(name, "-") or name in taken:
            yield f"evaluate.adapters.{name}: a name of letters, digits and - is needed, which no other row has."


def names_a_file(name: str, signs: str) -> bool:
    """Whether a name is of letters, digits and these signs, and short enough to be part of a file's."""
    return len(name.encode()) <= LONGEST_NAME and "".join(c for c in name if c not in signs).isalnum()


def _places(r: Recipe) -> Lines:
    """An empty name would be that of the folder in which the command was started."""
    places = {
        **{"model.name": r.model.name, "model.chat_template": r.model.chat_template},
        **{f"{key}.source": problems.source for key, problems in _with_verifiers(r).items()},
        **{"curate.rollouts_file": r.curate.rollouts_file, "curate.pairs_file": r.curate.pairs_file},
        **{"teach.targets_from": r.teach.targets_from, "train.drift_texts": r.train.drift_texts},
        **{f"evaluate.adapters.{name}": path for name, path in r.evaluate.adapters.items()},
    }
    yield from (f"{key}: empty; give a name, or leave the key out." for key, place in places.items() if place == "")


def _seeds(r: Recipe) -> Lines:
    if len(set(r.seeds)) < len(r.seeds):
        yield f"seeds: {r.seeds}; expected different numbers."


def _model(r: Recipe) -> Lines:
    for name, value in r.model.template.items():
        if not str(name).isidentifier() or str(name).lower() in TEMPLATE_WORDS or not _is_literal(value):
            yield (
                f"model.template.{name}: expected a variable's name, none of the template's own words, and a text, a"
                " finite number, true, false or null."
            )
    if not r.model.end_of_turn.strip():
        yield "model.end_of_turn: empty; name a token of the tokenizer, or auto."
    if not _is_day(r.model.date):
        yield f"model.date: {r.model.date!r} is no day written as 2026-01-31."


def _is_literal(value: Any) -> bool:
    """Whether a chat template can be given the value as a literal."""
    return isinstance(value, str | None) or (isinstance(value, int | float) and is_finite(value))


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _adapter(r: Recipe) -> Lines:
    lora = r.train.lora
    if lora is None:
        return
    if r.sampler.samples_by != "transformers" and r.sampler.max_lora_rank not in LORA_RANKS:
        yield (
            f"sampler.max_lora_rank: {r.sampler.max_lora_rank} is none of those that vLLM takes"
            f" ({', '.join(map(str, LORA_RANKS))}); use the next above train.lora.r."
        )
    if lora.r > r.sampler.max_lora_rank:
        yield (
            f"train.lora.r: {lora.r} is above sampler.max_lora_rank ({r.sampler.max_lora_rank}), so the adapter"
            " could not be sampled; raise the latter."
        )
    if lora.use_dora and r.train.method == "grpo" and r.train.grpo.use_vllm is not False:
        yield (
            "train.lora.use_dora: GRPO gives vLLM its weights anew at each step, and cannot with DoRA; leave it out, or"
            " set train.grpo.use_vllm to false."
        )
    if lora.dtype == "model" and r.model.dtype == "float16":
        yield "train.lora.dtype: model; gradients of float16 weights cannot be scaled, so leave it at float32."


def _servers(r: Recipe) -> Lines:
    """Where servers sample, which have the base's weights and are given adapters, and nothing else."""
    s = r.sampler
    if s.engine != "servers":
        if s.servers:
            yield f"sampler.servers: read by sampler.engine servers, and that is {s.engine}; set it, or leave them out."
        return
    if is_server(r.model.name):
        yield "sampler.engine: servers serve a model whose weights are here, and model.name is a server: leave it out."
    elif not s.servers:
        yield "sampler.servers: empty; give the addresses of the servers, as [http://HOST:8000/v1]."
    known = set()
    for given in s.servers:
        try:
            address = server_address(given, "sampler.servers")
        except UserError as error:
            yield str(error)
            continue
        if address.server in known:
            yield f"sampler.servers: {address.root} stands there twice."
        known.add(address.server)
    if r.rounds > 1:
        yield f"rounds: {r.rounds}; a later round's base is a model that no server has: run one round a recipe."
    if r.train.lora is None:
        yield "train.lora: null; a student that is a whole model is one that no server has: give train.lora."
    elif r.train.lora.use_dora:
        yield "train.lora.use_dora: no vLLM server puts DoRA on; leave it out, or set sampler.engine=vllm."
    if METHODS[r.train.method].samples and r.train.grpo.use_vllm is None:
        yield (
            "train.grpo.use_vllm: null; GRPO's weights change at every step, and no server is given them: set it to"
            " true (vLLM in the training process) or false (plain transformers)."
        )


def _replicas(r: Recipe) -> Lines:
    s = r.sampler
    if s.engine == "ray":
        if is_server(r.model.name):
            yield "sampler.engine: ray has replicas of a model whose weights are here, and model.name is a server."
    elif s.replicas is not None or s.replica_engine != "auto":
        key = "replicas" if s.replicas is not None else "replica_engine"
        yield f"sampler.{key}: read by sampler.engine ray, and that is {s.engine}; set it, or leave the key out."


def _tensor_parallel(r: Recipe) -> Lines:
    s = r.sampler
    if s.tensor_parallel == 1:
        return
    if s.samples_by in ("transformers", "servers"):
        yield (
            f"sampler.tensor_parallel: {s.tensor_parallel}; vLLM's alone, and what samples is {s.samples_by}: leave it."
        )
    if METHODS[r.train.method].samples and r.train.grpo.use_vllm is not False:
        yield (
            f"sampler.tensor_parallel: {s.tensor_parallel}; vLLM in GRPO's training process has one card: set"
            " train.grpo.use_vllm to false, or the key to 1."
        )


def _all_weights(r: Recipe) -> Lines:
    """Where the student is the base itself, which is another model after the first step."""
    if r.train.lora is not None:
        return
    if r.teach.targets == "online" and "teach" in METHODS[r.train.method].reads:
        yield (
            "teach.targets: online asks the base, which train.lora: null trains; store the teacher's targets (hidden),"
            " or give train.lora."
        )
    if METHODS[r.train.method].samples:
        yield (
            f"train.method: {r.train.method} trains an adapter and no whole model (train.lora: null); give train.lora,"
            " or take another method."
        )
    if r.model.quantization != "none":
        yield (
            f"model.quantization: {r.model.quantization}; quantized weights cannot be trained (train.lora: null); set"
            " it to none, or give train.lora."
        )
    if r.model.dtype == "float16":
        yield (
            "model.dtype: float16; gradients of float16 weights cannot be scaled (train.lora: null); take bfloat16 or"
            " float32."
        )
    if r.model.backend == "unsloth":
        yield (
            "model.backend: unsloth loads models for an adapter; with train.lora: null set it to auto or transformers."
        )


def _lengths(r: Recipe) -> Lines:
    """A reply has to leave room for its prompt."""
    limits = {
        "curate.rollout": r.curate.rollout.max_tokens,
        "curate.refine": r.curate.refine.max_tokens,
        **{f"evaluate.benchmarks.{name}": benchmark.max_tokens for name, benchmark in r.evaluate.benchmarks.items()},
    }
    if r.train.method == "grpo":
        limits["train.grpo"] = r.train.grpo.max_tokens
    for key, limit in limits.items():
        if limit >= r.sampler.max_model_len:
            yield f"{key}.max_tokens: {limit} is not between 1 and sampler.max_model_len - 1."


def _curation(r: Recipe) -> Lines:
    if r.curate.rollout.temperature == 0 and r.curate.rollouts_file is None:
        yield "curate.rollout.temperature: 0 makes all rollouts of a question equal; use about 0.8."
    if r.curate.rollouts_file is not None and r.curate.pairs_file is not None:
        yield "curate.pairs_file: finished pairs need no curate.rollouts_file; give one of the two."


def _labels(r: Recipe) -> Lines:
    """Where no label says what is right."""
    asked = METHODS[r.train.method]
    if r.curate.gold == "majority" and parts(r.problems.verifier)[0] == CODE:
        yield "curate.gold: majority; programs have no answer to vote on, so leave it at given."
    if r.problems.gold is None and (r.curate.gold == "given" or asked.samples):
        what = f"train.method: {r.train.method}" if asked.samples else "curate.gold: given"
        yield f"problems.gold: null, and {what} needs gold answers; name their column, or set curate.gold to majority."
    if r.problems.gold is None and parts(r.problems.verifier)[0] == CHOICE:
        yield "problems.gold: null; the verifier choice poses its options by the gold answer's column, so name it."
    for name, benchmark in r.evaluate.benchmarks.items():
        if benchmark.gold is None:
            yield f"evaluate.benchmarks.{name}.gold: null; what cannot be graded is no benchmark: name the column."


def _lessons(r: Recipe) -> Lines:
    """What is learnt, and by which teacher."""
    teach, method = r.teach, r.train.method
    by_teacher = "teach" in METHODS[method].reads
    if r.curate.refinements == 0 and r.curate.pairs_file is None and not METHODS[method].samples:
        if by_teacher and teach.replies == "refined":
            yield "curate.refinements: 0 leaves no refined reply; set teach.replies to right, wrong or rollouts."
        if method == "sft":
            yield "curate.refinements: 0 leaves no refined reply, and train.method: sft learns those alone; sample one."
    if r.curate.pairs_file is not None and teach.needs_rollouts:
        key, value = ("replies", teach.replies) if teach.replies != "refined" else ("weights", teach.weights)
        yield (
            f"teach.{key}: {value} needs the questions' rollouts, and curate.pairs_file brings none; leave one of"
            " the two out."
        )
    if teach.each is not None and teach.replies == "refined":
        yield "teach.each: counts rollouts, and teach.replies: refined learns none; use curate.refinements, or null."
    if teach.guidance is not None and teach.hint == "none":
        yield "teach.guidance: moves the base by what the hint changes, and teach.hint: none shows none; take another."
    if teach.right == "tokens" and teach.replies == "wrong":
        yield "teach.right: tokens; teach.replies: wrong has no right reply, so leave it at teacher."
    if teach.window is not None and teach.targets == "online":
        yield "teach.window: is found in the teacher pass, and teach.targets: online has none; store the targets."
    if teach.targets_from is not None and teach.targets == "online":
        yield "teach.targets_from: names stored targets, and teach.targets: online stores none; name their kind there."
    if teach.targets_from is not None and r.rounds > 1:
        yield (
            "teach.targets_from: belongs to one model, and after a round (rounds) the student is the base; leave one of"
            " the two out."
        )


def _refresh(r: Recipe) -> Lines:
    """Whether the student can learn from what it writes itself."""
    if r.train.refresh is None:
        return
    if "teach" not in METHODS[r.train.method].reads:
        yield f"train.refresh: {r.train.method} learns from no rollouts that could be sampled anew; set it to null."
    elif r.teach.replies == "refined":
        yield "train.refresh: renews rollouts; set teach.replies to right, wrong or rollouts, or train.refresh to null."
    if r.train.lora is None:
        yield "train.refresh: the base teaches the new rollouts, and train.lora: null trains it; give train.lora."
    if r.train.epochs == 1:
        yield "train.refresh: comes between epochs, and train.epochs is 1; take more."
    if r.curate.rollout.temperature == 0:
        yield "train.refresh: at curate.rollout.temperature 0 all rollouts of a question are equal; use about 0.8."


def _objective(r: Recipe) -> Lines:
    if r.train.kd_weight == r.train.ce_weight == 0:
        yield "train.kd_weight: 0 with train.ce_weight 0 leaves no loss; give one of them a weight."
    if r.teach.targets == "one_hot" and r.train.sharpen != 1:
        yield "train.sharpen: changes nothing of one-hot targets; leave it at 1, or take other teach.targets."
    if r.teach.targets == "one_hot" and r.train.divergence == "reverse":
        yield (
            "train.divergence: reverse is infinite where the teacher gives a word no probability, as one-hot targets"
            " do; take forward or jsd, or other teach.targets."
        )
    if r.train.beta != TrainConfig.beta and r.train.divergence != "jsd":
        yield f"train.beta: read by train.divergence jsd, and that is {r.train.divergence}; leave it out."


def _batches(r: Recipe) -> Lines:
    """A step of one process is cut into equal forward passes; several have shares that need not be equal."""
    if r.train.processes == 1 and _left_over(r.train.batch_size, r.train.micro_batch_size):
        micro, whole = r.train.micro_batch_size, r.train.batch_size
        yield f"train.micro_batch_size: {micro} does not divide train.batch_size ({whole})."
    grpo = r.train.grpo
    replies = grpo.questions_per_step * grpo.generations
    if r.train.method == "grpo" and _left_over(replies, grpo.micro_batch_size):
        micro = grpo.micro_batch_size
        yield f"train.grpo.micro_batch_size: {micro} does not divide the {replies} replies of a step."


def _processes(r: Recipe) -> Lines:
    """What several processes cannot do together."""
    train, several = r.train, r.train.processes > 1
    if train.sharding != "none":
        yield from _sharded(r)
    if not several or METHODS[train.method].samples:
        yield from _sampling_processes(r) if several else ()
        return
    if train.processes > train.batch_size:
        yield (
            f"train.processes: {train.processes} is above train.batch_size ({train.batch_size}), so that one would have"
            " no example of a step; take fewer processes, or a larger batch."
        )
    if r.model.backend == "unsloth" and METHODS[train.method].by_backend:
        yield (
            f"model.backend: unsloth trains in one process here, and train.processes is {train.processes}; set it to"
            " auto or transformers."
        )


def _sharded(r: Recipe) -> Lines:
    """What FSDP2 cannot shard, or what asks for a whole model."""
    train, key = r.train, f"train.sharding: {r.train.sharding}"
    if train.processes == 1:
        yield f"{key} spreads the weights over processes, and train.processes is 1; set it to the number of cards."
    if METHODS[train.method].samples:
        yield f"{key}: train.method: {train.method} samples from a whole model; set it to none."
    if r.model.quantization != "none":
        yield f"{key}: weights in 4 or 8 bits cannot be sharded; set model.quantization or train.sharding to none."
    if r.model.dtype == "float16":
        yield f"{key}: gradients of sharded weights are not scaled, as float16 needs; take bfloat16 or float32."
    for name in ("guard", "refresh"):
        if getattr(train, name) is not None:
            yield f"train.{name}: asks a whole model, and {key} leaves none; set one of the two to its default."


def _sampling_processes(r: Recipe) -> Lines:
    """Processes of a method that samples, which share a step's replies."""
    count, grpo = r.train.processes, r.train.grpo
    replies = grpo.questions_per_step * grpo.generations
    if _left_over(replies, count):
        yield f"train.processes: {count} does not divide the {replies} replies of a step (train.grpo)."
    elif _left_over(replies // count, grpo.micro_batch_size) and replies // count > (grpo.micro_batch_size or 0):
        yield (
            f"train.grpo.micro_batch_size: {grpo.micro_batch_size} does not divide the {replies // count} replies that"
            f" each of {count} processes takes of a step."
        )
    if grpo.use_vllm:
        yield f"train.grpo.use_vllm: true; vLLM samples in one process, and train.processes is {count}; set it to null."
    if grpo.loss == "bnpo":
        yield (
            f"train.grpo.loss: bnpo is a mean over the tokens of one forward pass, and train.processes: {count} would"
            " change it; take dapo."
        )


def _left_over(whole: int, part: int | None) -> bool:
    """Whether parts of that size leave a rest. One that is null or out of its range leaves none."""
    return part is not None and part > 0 and whole % part > 0


def _trackers(r: Recipe) -> Lines:
    yield from trackers.misspelt(r.train.report_to)


def _replies(r: Recipe) -> Lines:
    if r.prompts.thinking == "learn" and r.prompts.reply == "retokenized":
        yield "prompts.thinking: learn; thoughts are learnt as they were sampled, so leave prompts.reply at sampled."


def _benchmarks(r: Recipe) -> Lines:
    for name, benchmark in r.evaluate.benchmarks.items():
        here = f"evaluate.benchmarks.{name}"
        if benchmark.temperature is None and not benchmark.greedy:
            yield f"{here}: temperature is null and greedy is false, so nothing would be sampled."
        most = benchmark.samples if benchmark.temperature is not None else 1
        if any(k > most for k in benchmark.k):
            yield f"{here}.k: {benchmark.k}; pass@k needs k from 1 to the number of samples ({most})."


def _verifiers(r: Recipe) -> Lines:
    for key, problems in _with_verifiers(r).items():
        if (wrong := wrong_with(problems.verifier)) is not None:
            yield f"{key}.verifier: {wrong}"
            continue
        name, choices = parts(problems.verifier)[0], problems.choices
        columns = choices if isinstance(choices, list) else [choices]
        if choices is not None and not (columns and all(isinstance(column, str) and column for column in columns)):
            yield f"{key}.choices: {str(choices)[:60]!r}; expected the name of a column, or a list of names."
        if name == CHOICE and choices is None:
            yield f"{key}.choices: missing; the verifier choice needs the column of the options, or a list of columns."
        if choices is not None and name in VERIFIERS and name != CHOICE:
            yield f"{key}.choices: read by the verifier choice, and the verifier is {name}; leave it out."
        if problems.entry_point is not None and name in VERIFIERS and name != CODE:
            yield f"{key}.entry_point: read by the verifier code, and the verifier is {name}; leave it out."
        if problems.gold_format in ("letter", "text", "index", "index1") and name in VERIFIERS and name != CHOICE:
            yield f"{key}.gold_format: {problems.gold_format} is for the verifier choice, and the verifier is {name}."
        if name == CODE and key == "problems" and r.teach.hint == "gold":
            yield "teach.hint: gold shows the answer alone, and the gold answers of the verifier code are tests."


def _prompts(r: Recipe) -> Lines:
    own = r.prompts
    wrong = list(faults(own.wording, own.tutor, own.refine, own.answer_form))
    yield from (f"prompts.{key}: {what}" for key, what in wrong)
    if wrong:
        return
    for key, problems in _with_verifiers(r).items():
        if wrong_with(problems.verifier) is not None:  # which is said by itself
            continue
        spec = r.judge(problems)
        if (unread := _unread(spec, own)) is not None:
            yield (
                f"prompts.answer_form: {own.answer_form!r} is no form in which {key}.verifier ({title(spec)}) finds an"
                f" answer ({unread}); take {FENCE if parts(spec)[0] == CODE else BOX!r}, or another verifier."
            )


def _unread(spec: Spec, own: PromptsConfig) -> str | None:
    """Why the verifier finds no answer in the recipe's form; None if it does, or is the user's own."""
    name = parts(spec)[0]
    if name == CODE:
        return None if "```" in own.answer_form else "it reads the last block of Python"
    if own.answer_form == BOX:  # all others that come with the package read it
        return None
    wrong = wrong_with(spec)
    if wrong is not None or name not in VERIFIERS:
        return wrong
    found = verifier_for(spec).answer_in(own.texts.answered(verifier_for(spec).example))
    return None if found else "no answer is found in it"


def _with_verifiers(r: Recipe) -> dict[str, ProblemsConfig]:
    """All questions that are asked, by their key."""
    return {"problems": r.problems, **{f"evaluate.benchmarks.{name}": b for name, b in r.evaluate.benchmarks.items()}}


CHECKS = (
    *(
        _names,
        _places,
        _seeds,
        _model,
        _adapter,
        _servers,
        _replicas,
        _tensor_parallel,
        _all_weights,
        _lengths,
        _curation,
        _labels,
        _lessons,
    ),
    *(_refresh, _objective, _batches, _processes, _trackers, _verifiers, _benchmarks, _prompts, _replies),
)


# -- What all students of a recipe come to


def too_many(recipe: Recipe, everyone: Sequence[Recipe]) -> Lines:
    """`everyone`: the recipe's own student and its variants."""
    count = max(len(recipe.seeds), 1) * sum(one.rounds for one in everyone)
    if count > MOST_STUDENTS:
        yield f"seeds, variants, rounds: {count:,} students; at most {MOST_STUDENTS} can be run as one recipe."


def servers_among(everyone: Sequence[Recipe]) -> Lines:
    """Models that can be asked and not trained."""
    for one in everyone:
        if "://" in one.model.name:
            yield (
                f"model.name: {one.model.name} is a server, which can be asked (`ssb evaluate URL --benchmark NAME`)"
                " and not trained; name a model."
            )

"""The recipe: a YAML file read into these dataclasses by OmegaConf. Every key, its type and its default is stated here.

`load` reports everything that is wrong with a recipe in one message: unknown keys with the nearest valid one, wrong
types, impossible values. Where a default comes from is said beside it: the paper (section), its released code, or ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from ..prompts.hints import Hint
from .methods import MethodName

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as max_lora_rank (0.32, config/lora.py)


@dataclass
class ModelConfig:
    """The base model. Its weights are student, teacher and sampler at once."""

    name: str = MISSING  # hub id, local folder, or "pocket": the tiny model that comes with the package
    revision: str | None = None  # hub revision; the default branch if null
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: what the card is best at (hardware.py)
    trust_remote_code: bool = False  # ours: never run a repository's code unless the recipe says so
    # Variables that the chat template reads, such as {enable_thinking: false}; they are set in the template itself.
    template: dict[str, Any] = field(default_factory=dict)
    date: str = "2026-01-01"  # ours: "today" in a chat template that asks for it, so that no day renders other prompts
    # What loads the model that teaches and learns by SSB. auto: Unsloth where it is installed and there is a CUDA GPU.
    # The controls learn in TRL's own trainers, on plain transformers.
    backend: Literal["auto", "unsloth", "transformers"] = "auto"
    quantization: Literal["none", "8bit", "4bit"] = "none"  # of the frozen weights, by bitsandbytes; the paper's: none


@dataclass
class ProblemsConfig:
    """Where questions and gold answers come from."""

    source: str = MISSING  # a .jsonl or .parquet file, a hub data set, or "pocket": the built-in generator
    config: str | None = None  # hub data set: its configuration
    split: str = "train"  # hub data set or pocket: the split
    question: str = "question"  # column names
    gold: str = "answer"
    gold_format: Literal["####", "boxed", "plain"] = "plain"  # how the gold answer stands in its column
    limit: int | None = None  # the first so many; pocket: how many to make (1,000 if null)


@dataclass
class PromptsConfig:
    """What the model is shown, and which tokens of the reply are learnt. The second choice of each is the released
    code's (docs/presets.md)."""

    wording: Literal["paper", "released"] = "paper"  # of the tutor and the refinement prompt: paper §3.1, or the code's
    student: Literal["chat", "joined"] = "chat"  # §3.2.1: the chat template; joined: prompt and question with a space
    # A text may spell a control token of the model, such as <|im_end|>: it is tokenized as the text that it is. Where
    # tokenizer or template cannot tell it from their own, the question or pair is left out and counted, or refused.
    control_text: Literal["skip", "refuse"] = "skip"
    reply: Literal["sampled", "retokenized"] = "sampled"  # the sampler's ids and the end of turn; or its text, without


@dataclass
class SamplingConfig:
    """One decoding. Stated whole: nothing is inherited from a model's generation_config."""

    temperature: float = 0.8  # released code: 0.8 for rollouts, 0.4 for refinements; 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    repetition_penalty: float = 1.0
    max_tokens: int = 1024  # ours


@dataclass
class SamplerConfig:
    engine: Literal["auto", "vllm", "transformers"] = "auto"  # auto: vLLM where it is installed
    max_model_len: int = 4096  # prompt and reply, tokens
    gpu_memory_utilization: float | str = "auto"  # vLLM's share of the card; auto: nearly all that is free
    attention_backend: str = "auto"  # vLLM's name of it, e.g. TRITON_ATTN; auto: by the card (hardware.py)
    max_lora_rank: int = 32  # the ranks that vLLM takes are LORA_RANKS
    batch_size: int = 64  # transformers engine only: sequences at a time


@dataclass
class CurateConfig:
    pairs: int = 256  # paper §4.1; with several refinements the questions that give pairs
    rollouts: int = 4  # K, paper §4.1
    refinements: int = 1  # paper §3.1.3: one a question; of several, each right one is a pair, equal texts once
    questions: int | None = None  # use at most so many; all if null
    wave: int = 256  # ours: questions sampled together before looking whether there are enough pairs
    rollout: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.8))
    refine: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.4, max_tokens=2048))
    rollouts_file: str | None = None  # JSONL of rollouts made elsewhere: {"question", "rollouts": [{"text"}, ...]}
    pairs_file: str | None = None  # pairs made elsewhere: a .jsonl, a folder or a hub data set (pairs.py); no sampling
    contrast: Literal["random", "first"] = "random"  # §3.1.2: drawn among those that qualify; released code: the first
    unboxed: Literal["wrong", "excluded"] = "wrong"  # a rollout without a box, §3.1.1: wrong; released code: neither
    equality: Literal["math", "string"] = "math"  # of answer and gold; released code: the same characters


@dataclass
class TeachConfig:
    # What is stored of the teacher. Exact: hidden, logits (the paper's), online (nothing: run in the training step).
    # Approximate: top_k with a tail bucket. An ablation: one_hot, all its mass on its likeliest word.
    targets: Literal["hidden", "logits", "top_k", "one_hot", "online"] = "hidden"
    # What the teacher is shown (prompts/hints.py); the pairs stay the same. The paper: both.
    hint: Hint = "both"
    top_k: int = 64  # for targets: top_k
    batch_tokens: int = 8192  # ours: padded tokens of a teacher-forced batch


@dataclass
class LoraConfig:
    r: int = 32  # paper §4.1
    alpha: int = 32  # released code
    dropout: float = 0.0  # released code
    dtype: Literal["float32", "model"] = "float32"  # of the trained weights; released code: cast to the model's
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass
class GrpoConfig:
    """Read where train.method is grpo. The paper states the 2,000 questions, and no other setting of its control."""

    questions: int = 2000  # paper §4.1: the first so many of `problems`
    steps: int | None = None  # optimizer steps; one pass over the questions if null
    questions_per_step: int = 8  # ours
    generations: int = 8  # TRL's default: replies sampled a question
    micro_batch_size: int | None = None  # replies in one forward pass; all of a step's if null
    learning_rate: float = 1e-5  # ours: ten times TRL's default, which is meant for training all weights
    temperature: float = 1.0  # TRL's default
    max_tokens: int = 1024  # ours: length limit of a reply; one that is cut off earns nothing
    beta: float = 0.0  # TRL's default: weight of the KL to the base
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"  # TRL's default
    use_vllm: bool | None = None  # sample by vLLM in the training process; null: where there is a GPU
    gpu_memory_utilization: float = 0.3  # TRL's default: vLLM's share of the card beside the trainer


@dataclass
class TrainConfig:
    # ssb, or a control: sft on the pairs' replies, rft on right rollouts, ssd on any, or grpo (methods.py).
    method: MethodName = "ssb"
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    epochs: int = 3  # paper §4.1
    batch_size: int = 4  # paper §4.1: examples in one optimizer step
    micro_batch_size: int | None = None  # examples in one forward pass; batch_size if null
    learning_rate: float = 2e-4  # released code
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"  # released code
    warmup_steps: int = 0  # released code
    weight_decay: float = 0.0  # ours
    max_grad_norm: float = 1.0  # ours
    temperature: float = 2.0  # T_KD; the paper says > 1, the released code 2
    denominator: Literal["example", "token"] = "example"  # paper Eq. 6; the released code takes the token mean
    kd_weight: float = 1.0  # released code: lambda_KD, of T² KL
    ce_weight: float = 0.0  # released code: lambda_CE, of the cross-entropy of the reply's own tokens
    sharpen: float = 1.0  # ours: what the teacher's logits are multiplied by; the paper's teacher is as it is
    gradient_checkpointing: bool = False  # recompute activations: less memory, about a third slower; Unsloth: its own
    save_steps: int = 50  # a stopped run goes on from the last multiple
    logging_steps: int = 1
    probe_steps: int = 32  # measure the student's own reply length so often; 0: never
    probe_questions: int = 32
    drift_texts: str | None = None  # ours: KL(base ‖ student) on the "text"s of a .jsonl file, or on "pocket" drills
    token_pairs: int = 24  # ours: pairs followed token by token, KL before and after; 0: none
    report_to: list[str] = field(default_factory=list)  # names of trackers.py, as [tensorboard]; the extra [trackers]


@dataclass
class BenchmarkConfig(ProblemsConfig):
    """Held-out problems. `max_tokens` is the length limit of a reply.

    A benchmark whose key or `name` is one of BENCHMARKS has its source and columns from there; what is given beside it
    wins. All of its problems have to be there (`count`), each once.
    """

    name: str | None = None
    count: int | None = None  # number of problems before `limit`; null: not asserted
    id: str | None = "id"  # column whose values, where there is such a column, have to be present and different
    samples: int = 1  # replies a question at `temperature`
    temperature: float | None = 0.8  # null: greedy only. The paper's decoding is unstated; all of this is ours
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    repetition_penalty: float = 1.0
    greedy: bool = True
    k: list[int] = field(default_factory=list)  # pass@k for each, from the samples
    max_tokens: int = 1024


@dataclass
class CardConfig:
    """What `ssb plan` cannot know. It changes no result."""

    tflops: float | None = None  # dense 16-bit peak of the GPU, 1e12 operations a second; null: as hardware.py knows it
    bandwidth: float | None = None  # of its memory, 1e9 bytes a second; null: as hardware.py knows it
    price: float | None = None  # of the machine for an hour, in any currency; null: no cost in money is shown


BASE = "base"  # rows of every table
DEFAULT_PROMPT = f"{BASE}-default-prompt"  # the base without the tutor prompt


@dataclass
class EvaluateConfig:
    benchmarks: dict[str, BenchmarkConfig] = field(default_factory=dict)
    references: list[str] = field(default_factory=lambda: ["base"])  # what every model is compared with, by name
    default_prompt: bool = False  # the base a second time, with no tutor prompt: its chat template's own default
    adapters: dict[str, str] = field(default_factory=dict)  # more rows: LoRA adapters by name, hub ids or folders


@dataclass
class Recipe:
    name: str = MISSING
    preset: Literal["paper", "author_code"] = "paper"  # whose choices are the defaults of the keys below (presets.py)
    seed: int = 3407  # released code
    seeds: list[int] = field(default_factory=list)  # repeat everything with each of these; empty: `seed` alone
    rounds: int = 1  # ours: how often the student becomes the next base; the paper stops after one
    # More students beside the recipe's own: what differs, by name, as in {sft: {train: {method: sft}}}. All are
    # evaluated by one engine and stand in one table; stages that come out equal are shared.
    variants: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None  # CPU threads of a stage; a tiny model is fastest with 1. All cores if null
    model: ModelConfig = field(default_factory=ModelConfig)
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    curate: CurateConfig = field(default_factory=CurateConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    card: CardConfig = field(default_factory=CardConfig)

"""The recipe: every key with its type, its default and the range of its values.

`loading` reads a YAML file into these dataclasses, and `checks` looks at what the ranges do not say. Where a default
comes from is said beside it: the paper (section), its released code, or ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..prompts import BOX, Texts, Wording, texts
from ..prompts.hints import Hint
from ..verifier.verifiers import Spec, with_form
from .methods import MethodName
from .ranges import as_in, each, number

MISSING: Any = "???"  # OmegaConf's word for a key that has no default; imported it would be asked for by `ssb doctor`
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # released code's LoRA layers
AUTO, ALL_LINEAR = "auto", "all-linear"  # words of train.lora.target_modules
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as max_lora_rank (0.32, config/lora.py)


@dataclass
class ModelConfig:
    """The base model. Its weights are student, teacher and sampler at once."""

    name: str = MISSING  # hub id, local folder, or "pocket": the tiny model that comes with the package
    revision: str | None = None  # hub revision; the default branch if null
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: what the card does best (machine/auto.py)
    trust_remote_code: bool = False  # ours: never run a repository's code unless the recipe says so
    # Which chat template: the model's own (null), one of its several by its name, a file, or a shipped one for a model
    # that has none: chatml, plain (docs/models.md). The tokenizers of merged students keep it.
    chat_template: str | None = None
    # Variables that the chat template reads, such as {enable_thinking: false}; they are set in the template itself.
    template: dict[str, Any] = field(default_factory=dict)
    # ours: where the system prompt stands. role: in the system's turn (the paper); question: in front of the question,
    # in the user's; auto: there where the template has no turn for the system (Gemma 2, Mistral 0.2)
    system: Literal["auto", "role", "question"] = "auto"
    # ours: the token that ends a reply; auto: what the chat template puts behind one
    end_of_turn: str = "auto"
    date: str = "2026-01-01"  # ours: "today" in a chat template that asks for it, so that no day renders other prompts
    # What loads the model that teaches and learns by SSB. auto: Unsloth where it is installed and there is a CUDA GPU.
    # The controls learn in TRL's own trainers, on plain transformers.
    backend: Literal["auto", "unsloth", "transformers"] = "auto"
    quantization: Literal["none", "8bit", "4bit"] = "none"  # of the frozen weights, by bitsandbytes; the paper's: none


@dataclass
class ProblemsConfig:
    """Where questions and gold answers come from."""

    # A file (.jsonl, .json, .csv, .tsv, .parquet), a folder of such or of `save_to_disk`, a hub data set, or "pocket":
    # the built-in generator (docs/data.md).
    source: str = MISSING
    config: str | None = None  # hub data set: its configuration
    split: str = "train"  # hub data set, folder or pocket: the split
    streaming: bool = False  # hub data set: read as it comes, up to `limit`, without a copy of all of it on the disk
    question: str = "question"  # names of columns; `answer.value` and `turns.0.content` lead into nested ones
    gold: str | None = "answer"  # null: there is none, for curate.gold: majority
    # How the gold answer stands in its column. Of a multiple choice also by its letter (or label), its text, or its
    # place: index counts from 0 and index1 from 1. plain: letter or text.
    gold_format: Literal["####", "boxed", "plain", "letter", "text", "index", "index1"] = "plain"
    skip: int = number(0, at_least=0)  # leave out the first so many, as those that a benchmark has of the same file
    limit: int | None = number(None, above=0)  # the first so many after them; pocket: how many to make (1,000 if null)
    # Which decides whether an answer is right: a name (verifier/verifiers.py), package.module:name of your own, or a
    # mapping of name and options, as {name: numeric, absolute: 1e-6} (docs/verifiers.md).
    verifier: Any = "math"
    choices: Any = None  # verifier choice: the column of the options, or a list of columns that hold one each
    entry_point: str | None = None  # verifier code: the column of the function's name, for tests of check(candidate)


@dataclass
class PromptsConfig:
    """What the model is shown, and which tokens of the reply are learnt. The second choice of each is the released
    code's (docs/presets.md)."""

    # Of the tutor and the refinement prompt. paper: §3.1; unquoted: the same without the backticks around the box,
    # which are the text's conversion's; or the released code's.
    wording: Wording = "paper"
    # Texts of one's own in their place: the text itself, or a .txt or .md file beside the recipe. Gaps: <answer_form>;
    # <question>, <right> and <wrong> in the refinement prompt.
    tutor: str | None = None
    refine: str | None = None  # the same of the refinement prompt
    answer_form: str = BOX  # how a reply is to give its answer, which stands for the dots; the verifier has to read it
    student: Literal["chat", "joined"] = "chat"  # §3.2.1: the chat template; joined: prompt and question with a space
    # A text may spell a control token of the model, such as <|im_end|>: it is tokenized as the text that it is. Where
    # tokenizer or template cannot tell it from their own, the question or pair is left out and counted, or refused.
    control_text: Literal["skip", "refuse"] = "skip"
    # ours: of a reply that begins with thoughts (`</think>`) the answer alone is graded and shown. drop: it alone is
    # learnt too, behind empty thoughts, since a refinement's thoughts speak of what the student is not shown
    thinking: Literal["drop", "learn"] = "drop"
    reply: Literal["sampled", "retokenized"] = "sampled"  # the sampler's ids and the end of turn; or its text, without

    @property
    def texts(self) -> Texts:
        return texts(self.wording, self.tutor, self.refine, self.answer_form)


@dataclass
class SamplingConfig:
    """One decoding. Stated whole: nothing is inherited from a model's generation_config."""

    # released code: 0.8 for rollouts, 0.4 for refinements; 0 is greedy
    temperature: float = number(0.8, at_least=0, at_most=5)
    top_p: float = number(1.0, above=0, at_most=1)  # the likeliest tokens that make up so much; 1: all
    top_k: int = number(0, at_least=0, note="0 turns it off")  # the so many likeliest tokens; 0: all
    repetition_penalty: float = number(1.0, above=0, note="1 turns it off")  # of what prompt and reply have; 1: none
    max_tokens: int = number(1024, above=0)  # ours; together with a prompt it has to fit sampler.max_model_len


@dataclass
class SamplerConfig:
    # auto: vLLM where it is installed; servers: the vLLM servers below, which run already (docs/servers.md); ray:
    # several replicas of vLLM or transformers, which share the teacher's pass too (docs/ray.md)
    engine: Literal["auto", "vllm", "transformers", "servers", "ray"] = "auto"
    max_model_len: int = number(4096, above=0)  # prompt and reply, tokens
    # vLLM's share of the card; auto: nearly all that is free
    gpu_memory_utilization: float | str = number("auto", above=0, at_most=1)
    attention_backend: str = "auto"  # vLLM's name of it, e.g. TRITON_ATTN; auto: by the card (machine/auto.py)
    max_lora_rank: int = number(32, above=0)  # the ranks that vLLM takes are LORA_RANKS
    batch_size: int = number(64, above=0)  # transformers engine only: sequences at a time
    # vllm engine only: cards that share each layer of the model; vLLM's default
    tensor_parallel: int = number(1, above=0, at_most=64)
    # servers engine only: their addresses, http://HOST:PORT/v1, or http://HOST:PORT/v1#NAME for one of several models
    servers: list[str] = field(default_factory=list)
    # ours: minutes that a server may take for one reply, waiting in its queue included; then another one is asked
    server_timeout: float = number(30.0, above=0, at_most=1440)
    # ray engine only. ours: how many replicas; null: as many as the cluster's GPUs allow, or without any, one for each
    # two cores
    replicas: int | None = number(None, above=0, at_most=4096)
    replica_engine: Literal["auto", "vllm", "transformers"] = "auto"  # ray engine only: what each replica is

    @property
    def samples_by(self) -> str:
        """The engine that samples: under ray the one that its replicas are."""
        return self.replica_engine if self.engine == "ray" else self.engine


@dataclass
class CurateConfig:
    pairs: int = number(256, above=0)  # paper §4.1; with several refinements the questions that give pairs
    # K, paper §4.1
    rollouts: int = number(4, at_least=2, at_most=10_000, note="a right and a wrong one take at least 2")
    # paper §3.1.3: one a question; of several, each right one is a pair, equal texts once. 0, for teach.replies other
    # than refined: none is sampled, and each mixed question is a pair without a reply
    refinements: int = number(1, at_least=0, at_most=10_000)
    questions: int | None = number(None, above=0)  # use at most so many; all if null
    wave: int = number(256, above=0)  # ours: questions sampled together before looking whether there are enough pairs
    # Ours: share of the questions that has to give a pair. Where it is smaller beyond doubt (method/yields.py), as with
    # no pair after 228 questions, curation ends, and says what to change; null: never. The paper's was 0.27; with 0.02
    # its 256 pairs would take 12,800 questions, and GSM8K has 7,473. No result depends on it
    min_yield: float | None = number(0.02, above=0, below=1)
    rollout: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.8))
    refine: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.4, max_tokens=2048))
    # Rollouts made elsewhere, in place of sampled ones: a .jsonl of {"question", "rollouts": [{"text"}, ...]} or of our
    # own rollouts.jsonl, a folder with one, or a hub data set (`ssb push --what rollouts`, docs/sharing.md)
    rollouts_file: str | None = None
    pairs_file: str | None = None  # pairs made elsewhere: a .jsonl, a folder or a hub data set (pairs.py); no sampling
    contrast: Literal["random", "first"] = "random"  # §3.1.2: drawn among those that qualify; released code: the first
    unboxed: Literal["wrong", "excluded"] = "wrong"  # a rollout without a box, §3.1.1: wrong; released code: neither
    equality: Literal["math", "string"] = "math"  # of answer and gold; released code: the same characters
    # ours: what counts as right. given: the questions' gold answers; majority: the answer that most of a question's
    # rollouts give (method/votes.py), so that no labels are needed
    gold: Literal["given", "majority"] = "given"


@dataclass
class TeachConfig:
    # What is stored of the teacher. Exact: hidden, logits (the paper's), online (nothing: run in the training step).
    # Approximate: top_k with a tail bucket. An ablation: one_hot, all its mass on its likeliest word.
    targets: Literal["hidden", "logits", "top_k", "one_hot", "online"] = "hidden"
    # What the teacher is shown (prompts/hints.py); the pairs stay the same. The paper: both.
    hint: Hint = "both"
    # Ours (docs/guidance.md), as all but the last two keys below: whose tokens are learnt. refined: the pairs' refined
    # replies (the paper); else what the model itself wrote of the pairs' questions: right rollouts, wrong ones, or both
    replies: Literal["refined", "right", "wrong", "rollouts"] = "refined"
    each: int | None = number(None, above=0)  # at most so many right and so many wrong rollouts a question; null: all
    # null: the teacher is the hinted base (the paper). A number a: the base moved by a times what the hint changes,
    # base + a (hinted - unhinted), of logits; unhinted: the same prompt without a hint
    guidance: float | None = number(None, above=0, at_most=100)
    # What teaches a right reply: the teacher, or its own tokens alone, by cross-entropy at T_KD
    right: Literal["teacher", "tokens"] = "teacher"
    # A reply counts from the first token on where hinted and bare base would say another, for so many tokens; null: all
    # of it counts
    window: int | None = number(None, above=0)
    # disagreement: a question weighs as sqrt(p (1 - p)), p its share of right rollouts (arXiv 2605.27765)
    weights: Literal["equal", "disagreement"] = "equal"
    top_k: int = number(64, above=0)  # for targets: top_k
    batch_tokens: int = number(8192, above=0)  # ours: padded tokens of a teacher-forced batch
    # Ours: targets that `ssb push --what targets` has shared, a folder or a hub data set, in place of running the
    # teacher (docs/sharing.md). Taken where they are of this model, these pairs and the keys above; else refused
    targets_from: str | None = None

    @property
    def needs_rollouts(self) -> bool:
        """Whether what is learnt is not told by the pairs alone."""
        return self.replies != "refined" or self.weights != "equal"


@dataclass
class LoraConfig:
    r: int = number(32, above=0)  # paper §4.1
    alpha: int = number(32, above=0)  # released code
    dropout: float = number(0.0, at_least=0, below=1)  # released code
    dtype: Literal["float32", "model"] = "float32"  # of the trained weights; released code: cast to the model's
    # Which layers of the language model (machine/lora_targets.py): auto, the released code's seven projections where
    # the model has them all, else all-linear, which leaves out head and routers; a list of names or ends of names; or
    # a regular expression that whole names match.
    target_modules: str | list[str] = AUTO
    use_rslora: bool = False  # PEFT's default: scale by alpha / sqrt(r) in place of alpha / r
    use_dora: bool = False  # PEFT's default: train each output's magnitude too; vLLM samples it merged into the base


@dataclass
class GrpoConfig:
    """Read where train.method is grpo. The paper states the 2,000 questions, and no other setting of its control."""

    questions: int = number(2000, above=0)  # paper §4.1: the first so many of `problems`
    steps: int | None = number(None, above=0)  # optimizer steps; one pass over the questions if null
    questions_per_step: int = number(8, above=0, at_most=100_000)  # ours
    # TRL's default: replies sampled a question
    generations: int = number(8, at_least=2, at_most=10_000, note="replies to compare take at least 2")
    micro_batch_size: int | None = number(None, above=0)  # replies in one forward pass; all of a step's if null
    learning_rate: float = number(1e-5, above=0)  # ours: ten times TRL's default, which is meant for all weights
    temperature: float = number(1.0, above=0)  # TRL's default
    max_tokens: int = number(1024, above=0)  # ours: length limit of a reply; one that is cut off earns nothing
    beta: float = number(0.0, at_least=0)  # TRL's default: weight of the KL to the base
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"  # TRL's default
    use_vllm: bool | None = None  # sample by vLLM in the training process; null: where there is a GPU
    # TRL's default: vLLM's share of the card beside the trainer
    gpu_memory_utilization: float = number(0.3, above=0, at_most=1)


@dataclass
class RefreshConfig:
    """While it trains the student samples anew, and learns from what it writes now (docs/refresh.md). All ours."""

    every: Literal["epoch"] = "epoch"  # after each but the last
    # only where the student has less than this in common with its base (training/refresh.py: overlap; 1: all); null:
    # always
    below: float | None = number(None, above=0, at_most=1)


@dataclass
class GuardConfig:
    """The student's accuracy on held-out questions while it trains, by greedy replies (docs/refresh.md). All ours."""

    questions: int = number(
        64, above=0
    )  # problems that curation did not sample; where there are too few, unpaired ones
    every: int = number(32, above=0)  # steps; and at the start and the end
    patience: int | None = number(None, above=0)  # training ends after so many probes without a new best; null: never
    keep: Literal["best", "last"] = "best"  # which student is saved; of equally good ones the earliest


@dataclass
class TrainConfig:
    # Ours beside the paper's ssb: the controls; `methods.METHODS` says of each what it learns from.
    method: MethodName = "ssb"
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    # null: no adapter, all weights but embeddings and head (docs/lora.md); a learning rate of about 1e-5 fits then
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    epochs: int = number(3, above=0)  # paper §4.1
    batch_size: int = number(4, above=0)  # paper §4.1: examples in one optimizer step
    micro_batch_size: int | None = number(None, above=0)  # examples in one forward pass; batch_size if null
    # Ours: processes of this machine that train together, each with its share of every batch (docs/processes.md); on
    # GPUs each has a card of its own
    processes: int = number(1, above=0, at_most=64)
    # none: each holds the whole model (DDP); fsdp: each holds a part of every weight (FSDP2), for what fits no card
    sharding: Literal["none", "fsdp"] = "none"
    learning_rate: float = number(2e-4, above=0)  # released code
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"  # released code
    warmup_steps: int = number(0, at_least=0)  # released code
    weight_decay: float = number(0.0, at_least=0)  # ours
    max_grad_norm: float = number(1.0, above=0)  # ours
    kd_temperature: float = number(2.0, above=0)  # T_KD; the paper says > 1, the released code 2
    denominator: Literal["example", "token"] = "example"  # paper Eq. 6; the released code takes the token mean
    kd_weight: float = number(1.0, at_least=0)  # released code: lambda_KD, of T² KL
    # released code: lambda_CE, of the cross-entropy of the reply's own tokens
    ce_weight: float = number(0.0, at_least=0)
    # ours: what the teacher's logits are multiplied by; the paper's teacher is as it is
    sharpen: float = number(1.0, above=0)
    # ours beside the paper's forward, KL(teacher ‖ student): reverse, KL(student ‖ teacher), and the JSD between them
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    # GKD (arXiv 2306.13649) and TRL's default: the teacher's share of jsd's mixture
    beta: float = number(0.5, above=0, below=1, note="the KLs at its ends are train.divergence forward and reverse")
    # ours: the most nats that one token's divergence counts; its gradient keeps its direction (method/losses.py)
    clip: float | None = number(None, above=0)
    gradient_checkpointing: bool = False  # recompute activations: less memory, about a third slower; Unsloth: its own
    save_steps: int = number(50, above=0)  # a stopped run resumes from the last multiple
    logging_steps: int = number(1, above=0)  # a line of history.jsonl every so many steps
    probe_steps: int = number(32, at_least=0)  # measure the student's own reply length so often; 0: never
    probe_questions: int = number(32, at_least=0)  # how many questions that asks
    drift_texts: str | None = None  # ours: KL(base ‖ student) on the "text"s of a .jsonl file, or on "pocket" drills
    refresh: RefreshConfig | None = None  # null: the rollouts stay those of the base, as curation sampled them
    guard: GuardConfig | None = None  # null: no accuracy is measured, and the last student is saved
    token_pairs: int = number(24, at_least=0)  # ours: pairs followed token by token, KL before and after; 0: none
    report_to: list[str] = field(default_factory=list)  # names of trackers.py, as [tensorboard]; the extra [trackers]

    @property
    def together(self) -> int:
        """Examples of a step in one forward pass of one process: the most that any of them has at a time."""
        return min(self.micro_batch_size or self.batch_size, -(-self.batch_size // self.processes))

    @property
    def teacher_temperature(self) -> float:
        """What the teacher's logits are divided by. Targets with a tail (top_k) belong to one such temperature."""
        return self.kd_temperature / self.sharpen


@dataclass
class BenchmarkConfig(ProblemsConfig):
    """Held-out problems. `max_tokens` is the length limit of a reply.

    A benchmark whose key or `name` is one of BENCHMARKS has its source and columns from there; what is given beside it
    wins. All of its problems have to be there (`count`), each once.
    """

    name: str | None = None  # a known benchmark's, where the key is another
    title: str | None = None  # what figures call it; its key if null
    count: int | None = number(None, above=0)  # number of problems before `limit`; null: not asserted
    id: str | None = "id"  # column whose values, where there is such a column, have to be present and different
    samples: int = number(1, above=0, at_most=100_000)  # replies a question at `temperature`
    # null: greedy only. The paper's decoding is unstated; all of this is ours
    temperature: float | None = number(0.8, above=0, at_most=5, note="null is greedy")
    top_p: float = as_in(SamplingConfig, "top_p")
    top_k: int = as_in(SamplingConfig, "top_k")
    repetition_penalty: float = as_in(SamplingConfig, "repetition_penalty")
    greedy: bool = True  # a greedy reply a question beside the samples
    k: list[int] = field(default_factory=list, metadata=each(above=0))  # pass@k for each, from the samples
    max_tokens: int = as_in(SamplingConfig, "max_tokens")


@dataclass
class CardConfig:
    """What `ssb plan` cannot know. It changes no result."""

    # dense 16-bit peak of the GPU, 1e12 operations a second; null: as machine/cards.py knows it
    tflops: float | None = number(None, at_least=1e-3, at_most=1_000_000)
    bandwidth: float | None = number(
        None, at_least=1e-3, at_most=1_000_000_000
    )  # of its memory, 1e9 bytes a second; null: as cards.py knows it
    # of the machine for an hour, in any currency, and with --gpus of each card; null: no cost in money is shown
    price: float | None = number(None, above=0, at_most=1_000_000_000)


BASE = "base"  # rows of every table
DEFAULT_PROMPT = f"{BASE}-default-prompt"  # the base without the tutor prompt


@dataclass
class EvaluateConfig:
    # The test sets, by name: math500, aime2024, aime2025 and gsm8k are known, any other has a source (benchmarks.py).
    benchmarks: dict[str, BenchmarkConfig] = field(default_factory=dict)
    references: list[str] = field(default_factory=lambda: ["base"])  # what every model is compared with, by name
    default_prompt: bool = False  # the base a second time, with no tutor prompt: its chat template's own default
    adapters: dict[str, str] = field(default_factory=dict)  # more rows: LoRA adapters by name, hub ids or folders


@dataclass
class Recipe:
    name: str = MISSING  # of the run, whose folder is runs/NAME
    preset: Literal["paper", "author_code"] = "paper"  # whose choices are the defaults of the keys below (presets.py)
    seed: int = number(3407, at_least=0)  # released code
    # repeat everything with each of these; empty: `seed` alone
    seeds: list[int] = field(default_factory=list, metadata=each(at_least=0))
    # ours: how often the student becomes the next base; the paper stops after one
    rounds: int = number(1, above=0, at_most=100)
    # More students beside the recipe's own: what differs, by name, as in {sft: {train: {method: sft}}}. All are
    # evaluated by one engine and stand in one table; stages that come out equal are shared.
    variants: dict[str, Any] = field(default_factory=dict)
    # CPU threads of a stage; a tiny model is fastest with 1. All cores if null
    threads: int | None = number(None, above=0, at_most=4096)
    model: ModelConfig = field(default_factory=ModelConfig)
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    curate: CurateConfig = field(default_factory=CurateConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    card: CardConfig = field(default_factory=CardConfig)

    def judge(self, problems: ProblemsConfig) -> Spec:
        """The verifier of these problems, which reads answers in the form that this recipe's prompts ask for."""
        return with_form(problems.verifier, self.prompts.answer_form)

"""Values of the right type that cannot work are named with their key."""

from pathlib import Path

import pytest
from recipe_texts import POCKET, SMALLEST

from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.loading import load


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("seed=-1", "seed"),
        ("name=a/b", "name"),
        ("name=..", "name"),
        ("name=''", "name"),
        ("model.chat_template=", "model.chat_template"),
        ("problems.source=", "problems.source"),
        ("curate.pairs_file=", "curate.pairs_file"),
        ("curate.rollouts_file=", "curate.rollouts_file"),
        ("teach.targets_from=", "teach.targets_from"),
        ("train.drift_texts=", "train.drift_texts"),
        ("evaluate.benchmarks.test.source=", "evaluate.benchmarks.test.source"),
        ("evaluate.adapters.mine=", "evaluate.adapters.mine"),
        ("problems.limit=0", "problems.limit"),
        ("curate.pairs=0", "curate.pairs"),
        ("curate.wave=-4", "curate.wave"),
        ("curate.rollouts=1", "curate.rollouts"),
        ("train.grpo.questions_per_step=0", "train.grpo.questions_per_step"),
        ("train.grpo.steps=0", "train.grpo.steps"),
        ("curate.rollout.temperature=0", "curate.rollout.temperature"),
        ("curate.rollout.temperature=-1", "curate.rollout.temperature"),
        ("curate.refine.temperature=.nan", "curate.refine.temperature"),
        ("curate.refine.top_p=0", "curate.refine.top_p"),
        ("curate.refine.top_p=1.1", "curate.refine.top_p"),
        ("curate.refine.top_k=-1", "curate.refine.top_k"),
        ("curate.refine.repetition_penalty=0", "curate.refine.repetition_penalty"),
        ("curate.refine.max_tokens=0", "curate.refine.max_tokens"),
        ("curate.refine.max_tokens=512", "curate.refine.max_tokens"),  # all of max_model_len: no room for a prompt
        ("sampler.gpu_memory_utilization=1.5", "sampler.gpu_memory_utilization"),
        ("train.epochs=0", "train.epochs"),
        ("train.learning_rate=0", "train.learning_rate"),
        ("train.learning_rate=.nan", "train.learning_rate"),
        ("train.learning_rate=.inf", "train.learning_rate"),
        ("train.weight_decay=-0.1", "train.weight_decay"),
        ("train.kd_temperature=0", "train.kd_temperature"),
        ("train.sharpen=0", "train.sharpen"),
        ("train.clip=0", "train.clip"),
        ("train.divergence=backward", "train.divergence"),
        ("train.kd_weight=0", "train.kd_weight"),  # and no cross-entropy
        ("train.ce_weight=-1", "train.ce_weight"),
        ("train.micro_batch_size=3", "train.micro_batch_size"),
        ("train.lora.dropout=1", "train.lora.dropout"),
        ("train.lora.r=64", "train.lora.r"),
        ("evaluate.benchmarks.test.samples=0", "evaluate.benchmarks.test.samples"),
        ("evaluate.benchmarks.test.temperature=0", "evaluate.benchmarks.test.temperature"),
        ("evaluate.benchmarks.test.limit=0", "evaluate.benchmarks.test.limit"),
        ("evaluate.benchmarks.test.max_tokens=512", "evaluate.benchmarks.test.max_tokens"),
    ],
)
def test_a_value_that_cannot_work_is_named(override, path):
    with pytest.raises(UserError) as error:
        load(POCKET, [override])
    (line,) = str(error.value).splitlines()[1:]
    assert line.strip().startswith(f"{path}:")


# Which numbers cannot work, as it stood before the ranges were beside the values.
ABOVE_0 = [
    *("threads", "problems.limit", "sampler.max_model_len", "sampler.batch_size", "sampler.max_lora_rank"),
    *("sampler.tensor_parallel", "sampler.server_timeout"),
    *("curate.pairs", "curate.questions", "curate.wave", "teach.top_k", "teach.batch_tokens"),
    *("teach.each", "teach.guidance", "teach.window"),
    *("train.epochs", "train.batch_size", "train.micro_batch_size", "train.learning_rate", "train.max_grad_norm"),
    *("train.beta", "train.clip"),
    *("train.kd_temperature", "train.sharpen", "train.save_steps", "train.logging_steps", "train.grpo.questions"),
    *("train.grpo.steps", "train.grpo.questions_per_step", "train.grpo.micro_batch_size", "train.grpo.learning_rate"),
    *("train.grpo.temperature", "train.grpo.gpu_memory_utilization", "train.grpo.max_tokens", "train.lora.r"),
    *("train.lora.alpha", "card.tflops", "card.bandwidth", "card.price", "rounds"),
    *(f"curate.{which}.{key}" for which in ("rollout", "refine") for key in ("top_p", "repetition_penalty")),
    *("curate.rollout.max_tokens", "curate.refine.max_tokens"),
    *(f"evaluate.benchmarks.test.{key}" for key in ("samples", "temperature", "max_tokens", "limit", "count")),
    *(f"evaluate.benchmarks.test.{key}" for key in ("top_p", "repetition_penalty")),
]
AT_LEAST_0 = [
    *("train.kd_weight", "train.ce_weight", "train.warmup_steps", "train.weight_decay", "train.probe_steps"),
    *("train.probe_questions", "train.token_pairs", "train.lora.dropout", "train.grpo.beta", "seed"),
    *("curate.rollout.temperature", "curate.rollout.top_k", "curate.refine.temperature", "curate.refine.top_k"),
    *("evaluate.benchmarks.test.top_k", "curate.refinements"),
]
MOST = {
    **{"rounds": 100, "threads": 4096, "curate.rollouts": 10_000, "curate.refinements": 10_000, "teach.guidance": 100},
    **{"train.grpo.generations": 10_000, "train.grpo.questions_per_step": 100_000},
    **{"evaluate.benchmarks.test.samples": 100_000, "evaluate.benchmarks.test.top_p": 1},
    **{
        f"curate.{which}.{key}": most
        for which in ("rollout", "refine")
        for key, most in (("temperature", 5), ("top_p", 1))
    },
    **{"evaluate.benchmarks.test.temperature": 5, "train.grpo.gpu_memory_utilization": 1},
    **{"sampler.tensor_parallel": 64, "sampler.server_timeout": 1440},
}


@pytest.mark.parametrize(
    "wrong",
    [
        dict.fromkeys(ABOVE_0, 0),
        dict.fromkeys(AT_LEAST_0, -1),
        {key: most + 1 for key, most in MOST.items()},
        {"curate.rollouts": 1, "train.grpo.generations": 1, "train.lora.dropout": 1, "seeds": "[2, -1]"},
    ],
    ids=["above 0", "at least 0", "at most", "others"],
)
def test_every_number_that_cannot_work_is_named_at_once(wrong):
    with pytest.raises(UserError) as error:
        load(POCKET, [f"{key}={value}" for key, value in wrong.items()])
    said = [line.strip() for line in str(error.value).splitlines()[1:]]
    named = {line.partition(":")[0] for line in said if " is not a number " in line}
    assert named == set(wrong)


def test_the_last_numbers_that_work_are_taken():
    load(POCKET, [f"{key}={most}" for key, most in MOST.items() if key not in ("rounds", "evaluate.benchmarks.test.k")])
    zeros = [f"{key}=0" for key in AT_LEAST_0 if key not in ("train.kd_weight", "curate.rollout.temperature")]
    load(POCKET, [*zeros, "teach.replies=rollouts"])  # with no refinements there are refined replies to nobody


SERVERS = ["sampler.engine=servers", "sampler.servers=[http://a:8000/v1]"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (SERVERS[:1], "sampler.servers: empty; give the addresses"),
        (SERVERS[1:], "sampler.servers: read by sampler.engine servers, and that is auto"),
        (
            ["sampler.engine=servers", "sampler.servers=[ftp://a/v1]"],
            "sampler.servers: 'ftp://a/v1' is no server's addr",
        ),
        (["sampler.engine=servers", "sampler.servers=[http://me:pw@a/v1]"], "sampler.servers: the URL carries a passw"),
        (["sampler.engine=servers", "sampler.servers=[http://a:80/v1, 'http://A/#x']"], "http://A stands there twice"),
        ([*SERVERS, "rounds=2"], "rounds: 2; a later round's base is a model that no server has"),
        ([*SERVERS, "train.lora=null"], "train.lora: null; a student that is a whole model"),
        ([*SERVERS, "train.lora.use_dora=true"], "train.lora.use_dora: no vLLM server puts DoRA on"),
        ([*SERVERS, "train.method=grpo"], "train.grpo.use_vllm: null; GRPO's weights change at every step"),
        ([*SERVERS, "sampler.tensor_parallel=2"], "sampler.tensor_parallel: 2; vLLM's alone"),
        (["sampler.engine=transformers", "sampler.tensor_parallel=2"], "sampler.tensor_parallel: 2; vLLM's alone"),
        (["train.method=grpo", "sampler.tensor_parallel=2"], "has one card: set train.grpo.use_vllm to false"),
    ],
)
def test_what_servers_cannot_do_is_one_line(overrides, says):
    with pytest.raises(UserError) as error:
        load(POCKET, overrides)
    *heading, line = str(error.value).splitlines()
    assert len(heading) < 2
    assert says in line
    assert "me:pw" not in line


def test_what_servers_can_do_is_taken():
    assert load(POCKET, SERVERS).sampler.servers == ["http://a:8000/v1"]
    for use_vllm in ("true", "false"):
        load(POCKET, [*SERVERS, "train.method=grpo", f"train.grpo.use_vllm={use_vllm}"])
    load(
        POCKET,
        ["sampler.engine=servers", "sampler.servers=[http://a:8000/v1, http://a:8001/v1, https://a/b, https://a]"],
    )


def test_grpo_gives_vllm_no_dora():
    asked = ["train.method=grpo", "train.lora.use_dora=true"]
    with pytest.raises(UserError, match=r"train\.lora\.use_dora: .* set train\.grpo\.use_vllm to false"):
        load(POCKET, asked)
    assert load(POCKET, [*asked, "train.grpo.use_vllm=false"]).train.lora.use_dora


@pytest.mark.parametrize(
    "override",
    ["seeds=[1, 1]", "evaluate.benchmarks.test.k=[1, 9]", "model.date=1st of May", "sampler.max_lora_rank=33"],
)
def test_what_no_range_says_is_named_once(override):
    with pytest.raises(UserError) as error:
        load(POCKET, [override, "sampler.engine=vllm"])
    (line,) = str(error.value).splitlines()[1:]
    assert line.strip().startswith(f"{override.partition('=')[0]}: ")


@pytest.mark.parametrize("decoding", ["curate.rollout", "curate.refine", "evaluate.benchmarks.test"])
def test_every_decoding_is_held_to_the_same(decoding):
    wrong = {"temperature": 5.5, "top_p": 1.5, "top_k": -1, "repetition_penalty": 0, "max_tokens": 0}
    with pytest.raises(UserError) as error:
        load(POCKET, [f"{decoding}.{key}={value}" for key, value in wrong.items()])
    said = [line.strip().removeprefix(f"{decoding}.") for line in str(error.value).splitlines()[1:]]
    assert {line.partition(":")[0] for line in said} == set(wrong)
    assert "top_p: 1.5 is not a number above 0 and at most 1." in said
    assert "top_k: -1 is not a number of at least 0; 0 turns it off." in said
    assert "repetition_penalty: 0.0 is not a number above 0; 1 turns it off." in said


def test_a_benchmark_without_any_decoding_is_refused():
    with pytest.raises(UserError, match="nothing would be sampled"):
        load(POCKET, ["evaluate.benchmarks.test.temperature=null", "evaluate.benchmarks.test.greedy=false"])


def test_sharpening_what_is_one_hot_is_refused():
    with pytest.raises(UserError, match="changes nothing"):
        load(POCKET, ["teach.targets=one_hot", "train.sharpen=2"])


def test_the_reverse_kl_to_one_hot_targets_is_refused():
    with pytest.raises(UserError, match=r"train.divergence: reverse is infinite"):
        load(POCKET, ["teach.targets=one_hot", "train.divergence=reverse"])
    for targets, divergence in [
        ("one_hot", "jsd"),
        ("one_hot", "forward"),
        ("top_k", "reverse"),
        ("online", "reverse"),
    ]:
        load(POCKET, [f"teach.targets={targets}", f"train.divergence={divergence}"])


def test_a_beta_that_nothing_reads_is_refused():
    for divergence in ("forward", "reverse"):
        with pytest.raises(UserError, match=rf"train.beta: read by train.divergence jsd, and that is {divergence}"):
            load(POCKET, [f"train.divergence={divergence}", "train.beta=0.3"])
    assert load(POCKET, ["train.divergence=jsd", "train.beta=0.3"]).train.beta == 0.3
    for end in (0, 1):
        with pytest.raises(UserError, match=rf"train.beta: {end}.0 is not a number above 0 and below 1"):
            load(POCKET, ["train.divergence=jsd", f"train.beta={end}"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["curate.refinements=0"], r"curate\.refinements: 0 leaves no refined reply; set teach\.replies to right"),
        (["curate.refinements=0", "train.method=sft"], r"curate\.refinements: 0 .* sft learns those alone; sample one"),
        (["curate.pairs_file=x.jsonl", "teach.replies=wrong"], r"teach\.replies: wrong needs the questions' rollouts"),
        (
            ["curate.pairs_file=x.jsonl", "teach.weights=disagreement"],
            r"teach\.weights: disagreement needs the questions'",
        ),
        (["teach.each=2"], r"teach\.each: counts rollouts, and teach\.replies: refined learns none"),
        (["teach.guidance=1", "teach.hint=none"], r"teach\.guidance: moves the base by what the hint changes"),
        (
            ["teach.replies=wrong", "teach.right=tokens"],
            r"teach\.right: tokens; teach\.replies: wrong has no right reply",
        ),
        (["teach.window=8", "teach.targets=online"], r"teach\.window: is found in the teacher pass"),
        (["teach.guidance=0"], r"teach\.guidance: 0\.0 is not a number above 0 and at most 100"),
        (["teach.replies=all"], r"teach\.replies"),
    ],
)
def test_what_cannot_be_learnt_is_refused_with_the_key(overrides, said):
    with pytest.raises(UserError, match=said):
        load(POCKET, overrides)


def test_methods_that_learn_no_refined_reply_need_none():
    load(POCKET, ["curate.refinements=0", "train.method=rft"])
    load(POCKET, ["curate.refinements=0", "train.method=grpo"])
    load(POCKET, ["curate.refinements=0", "teach.replies=rollouts", "teach.guidance=1", "teach.hint=right"])


@pytest.mark.parametrize("name", ["a/b", "a.b", "a[0]", "a b", ""])
def test_a_benchmarks_name_can_name_a_file(complaint, name):
    (line,) = complaint(f"{SMALLEST}evaluate: {{benchmarks: {{'{name}': {{source: pocket}}}}}}\n")
    assert line.startswith(f"evaluate.benchmarks.{name}: ")


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("train.grpo.micro_batch_size=7", "train.grpo.micro_batch_size"),
        ("train.grpo.max_tokens=512", "train.grpo.max_tokens"),
    ],
)
def test_whether_grpos_settings_fit_the_others_is_looked_at_where_grpo_is_asked_for(override, path):
    load(POCKET, [override])
    with pytest.raises(UserError, match=path.replace(".", r"\.") + ": "):
        load(POCKET, [override, "train.method=grpo"])


@pytest.mark.parametrize("override", ["generations=1", "beta=-1", "gpu_memory_utilization=1.5"])
@pytest.mark.parametrize("method", ["grpo", "ssb"])
def test_grpos_settings_are_in_their_ranges_whichever_method_trains(override, method):
    with pytest.raises(UserError, match=rf"train\.grpo\.{override.partition('=')[0]}: "):
        load(POCKET, [f"train.grpo.{override}", f"train.method={method}"])


@pytest.mark.parametrize("word", ["messages=1", "if=1", "true=1", "x=.nan", "x=-.inf", "add_generation_prompt=false"])
def test_a_template_variable_that_would_break_the_template_is_refused(word):
    with pytest.raises(UserError, match=rf"model\.template\.{word.partition('=')[0]}: expected a variable's name"):
        load(Path("recipes/pocket.yaml"), [f"model.template.{word}"])


def test_a_server_is_asked_and_not_trained(tmp_path):
    with pytest.raises(UserError, match=r"model\.name: http://host:1/v1 is a server"):
        load(POCKET, ["model.name=http://host:1/v1"])
    with pytest.raises(UserError, match=r"model\.name: http://host:1/v1 is a server"):
        load(POCKET, ["variants.a.model.name=http://host:1/v1"])
    assert load(POCKET, ["model.name=http://host:1/v1"], servers=True).model.name == "http://host:1/v1"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("teach.targets=online", r"teach\.targets: online asks the base, .*store the teacher's targets \(hidden\)"),
        ("train.method=grpo", r"train\.method: grpo trains an adapter .*give train\.lora, or take another method"),
        ("model.quantization=4bit", r"model\.quantization: 4bit; quantized weights cannot be trained"),
        ("model.dtype=float16", r"model\.dtype: float16; .* take bfloat16 or float32"),
        ("model.backend=unsloth", r"model\.backend: unsloth .* set it to auto or transformers"),
        ("variants={online: {teach: {targets: online}}}", r"variants\.online\.teach\.targets: online asks the base"),
    ],
)
def test_what_cannot_be_with_all_weights_is_refused_with_the_key(override, said):
    with pytest.raises(UserError, match=said):
        load(POCKET, ["train.lora=null", override])


def test_whatever_an_adapter_alone_needs_is_not_asked_of_all_weights():
    r = load(POCKET, ["train.lora=null", "train.method=sft", "teach.targets=online", "sampler.max_lora_rank=8"])
    assert r.train.lora is None

"""Bad input by the thousand: recipes, rows, answers and manifests, made by hypothesis from good ones and from nothing.

    python tests/support/fuzz.py [--count 10000] [--seed 1]

Each input has to be read, or refused by a sentence: never a traceback, never more than five seconds, never a file that
is half written. Prints what was tried, read and refused; anything else ends it with the smallest input that shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from bad_input import complaint
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ssb_unsloth.backends.sampler import Request
from ssb_unsloth.backends.servers.by_url import ServerSampler
from ssb_unsloth.backends.servers.endpoint import Endpoint
from ssb_unsloth.backends.sources import adapter_config
from ssb_unsloth.backends.transformers import load_tokenizer
from ssb_unsloth.cli import main
from ssb_unsloth.data.pairs import load_pairs
from ssb_unsloth.data.problems import load_benchmark, load_problems
from ssb_unsloth.io.files import read_object
from ssb_unsloth.machine.geometry import from_config
from ssb_unsloth.method.brought import Brought
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.loading import load, save, variant
from ssb_unsloth.recipe.schema import BenchmarkConfig, ModelConfig, ProblemsConfig, Recipe, SamplingConfig
from ssb_unsloth.records import Generation, Pair, Problem, Rollout, read_jsonl
from ssb_unsloth.run.manifests import FORMAT, digest, text
from ssb_unsloth.run.rundir import RunDir

SECONDS = 5.0
POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
RECIPES = [POCKET.with_name(f"{name}.yaml") for name in ("pocket", "small-gsm8k", "qwen3-1.7b", "qwen2.5-3b-gsm8k")]

# -- Inputs ------------------------------------------------------------------------------------------------------------

HOSTILE = ["no", "null", "~", "~nouser/x", "0123456", "${seed}", "${oc.env:HOME}", "${", "${seed}${seed}", "???"]
HOSTILE += [
    "<|im_end|>",
    "[INST]",
    "pocket",
    "auto",
    "/",
    "..",
    "a/b",
    r"\boxed{1}",
    "#### 3",
    "1e400",
    "stop",
    "right",
]
HOSTILE += ["http://me:pw@host/v1", "http://127.0.0.1:9/v1"]
HOSTILE += ["", " ", "a\0b", "\x1b[2J", "x" * 5000, "\ud800", "9" * 400, "\u202e"]
TEXTS = st.sampled_from(HOSTILE) | st.text(max_size=20)
NUMBERS = st.sampled_from([0, 1, -1, 2, 10**6, 2**31, 2**63, 10**400, -(10**400)]) | st.integers() | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.integers() | st.none(), inner, max_size=4),
    max_leaves=6,
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=6
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


def put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copied = dict(tree) if isinstance(tree, dict) else list(tree)
    copied[path[0]] = put(copied[path[0]], path[1:], value)
    return copied


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def mutated(draw: Any, goods: list[Any], values: Any) -> Any:
    """A good tree with one to three of its places replaced, by a value of another place or by any, or a key added."""
    tree = draw(st.sampled_from(goods))
    others = [at(good, path) for good in goods for path in places(good) if not isinstance(at(good, path), dict)]
    for _ in range(draw(st.integers(1, 3))):
        inner = [path for path in places(tree) if not isinstance(at(tree, path), dict)]
        path = draw(st.sampled_from(inner or [()]) | st.sampled_from(list(places(tree))))
        inside = at(tree, path)
        value = draw(st.sampled_from(others) | values if others else values)
        if isinstance(inside, dict) and draw(st.booleans()):
            value = {**inside, draw(TEXTS): value}
        tree = put(tree, path, value)
    return tree


def damaged(goods: list[bytes]) -> Any:
    """Bytes of which some are changed, taken out or cut off."""

    def damage(good: bytes, number: int) -> bytes:
        rng, content = random.Random(number), bytearray(good)
        for _ in range(rng.choice([1, 1, 3, 30])):
            place = rng.randrange(len(content) + 1)
            content[place : place + rng.choice([0, 1, 1, 5])] = rng.randbytes(rng.choice([0, 1, 1, 4]))
        return bytes(content[: rng.choice([None, None, rng.randrange(len(content) + 1)])])

    return st.builds(damage, st.sampled_from(goods), st.integers(0, 2**32)) | st.binary(max_size=60)


def as_json(value: Any) -> str:
    """Also what Python's json would not write: keys that are numbers are text there."""
    return json.dumps(value)


# -- What reads them ---------------------------------------------------------------------------------------------------


class Reads:
    """Every reader gets an input and a folder of its own to read it from."""

    def __init__(self) -> None:
        self.tokenizer = load_tokenizer(ModelConfig(name="pocket"))
        self.answer: bytes = b""

    def recipe(self, text: bytes, folder: Path) -> str | None:
        path = folder / "recipe.yaml"
        path.write_bytes(text)
        for base in RECIPES:
            (folder / base.name).symlink_to(base)
        loaded: list[Recipe] = []
        said = complaint(lambda: loaded.append(load(path)))
        for recipe in loaded:
            save(recipe, folder / "saved.yaml")
            again = load(folder / "saved.yaml")
            assert again == recipe
            for name in recipe.variants:
                assert variant(recipe, name) == variant(again, name)
            assert quietly("plan", str(path)) in (0, 2)
        return said

    def overrides(self, words: list[str], folder: Path) -> str | None:
        return complaint(load, POCKET, words)

    def problems(self, given: tuple[bytes, str, bool], folder: Path) -> str | None:
        content, gold_format, held_out = given
        path = folder / "rows.jsonl"
        path.write_bytes(content)
        columns: dict[str, Any] = {"source": str(path), "gold_format": gold_format}
        if held_out:
            return complaint(load_benchmark, "mine", BenchmarkConfig(**columns))
        return complaint(load_problems, ProblemsConfig(**columns))

    def parquet(self, content: bytes, folder: Path) -> str | None:
        path = folder / "rows.parquet"
        path.write_bytes(content)
        return complaint(load_problems, ProblemsConfig(source=str(path)))

    def tables(self, given: tuple[str, bytes], folder: Path) -> str | None:
        name, content = given
        (folder / name).write_bytes(content)
        return complaint(load_problems, ProblemsConfig(source=str(folder / name)))

    def pairs(self, content: bytes, folder: Path) -> str | None:
        path = folder / "pairs.jsonl"
        path.write_bytes(content)
        return complaint(load_pairs, str(path), self.tokenizer)

    def records(self, content: bytes, folder: Path) -> str | None:
        path = folder / "rows.jsonl"
        path.write_bytes(content)
        said = [complaint(read_jsonl, path, kind) for kind in (Problem, Rollout, Pair, Generation)]
        said.append(complaint(Brought, path, path.parent))
        return None if None in said else said[0]

    def generations(self, content: bytes, folder: Path) -> str | None:
        path, out = folder / "rows.jsonl", folder / "out"
        path.write_bytes(content)
        if quietly("grade", str(path), "--out", str(out)) == 0:
            assert len(list(map(json.loads, (out / path.name).read_text().splitlines()))) > 0
            return None
        assert not out.exists() or not list(out.iterdir())
        return "refused"

    def server(self, given: tuple[str, bytes], folder: Path) -> str | None:
        where, content = given
        sampler = ServerSampler.__new__(ServerSampler)
        self.answer = content
        with contextlib.redirect_stderr(io.StringIO()):  # its bar
            return complaint(self._ask, where, sampler)

    def _ask(self, where: str, sampler: ServerSampler) -> None:
        def exchange(endpoint: Endpoint, url: str, data: Any) -> tuple[int, str, bytes]:
            return (
                200,
                "OK",
                self.answer if url.endswith(where) else json.dumps(SERVED["/" + url.split("/", 3)[3]]).encode(),
            )

        real, Endpoint._exchange = Endpoint._exchange, exchange  # type: ignore[method-assign]
        try:
            sampler.__init__(ModelConfig(name="http://127.0.0.1:9/v1"))  # type: ignore[misc]
            sampler.render(student_messages("1 + 1?"))
            kept: list[Any] = []
            (reply,) = sampler.sample([Request([1], 1)], SamplingConfig(), keep=lambda *one: kept.append(one))
            assert kept == [(0, reply)]
            assert isinstance(reply.text, str)
            assert all(type(number) is int for number in reply.token_ids)
        finally:
            Endpoint._exchange = real  # type: ignore[method-assign]

    def configs(self, content: bytes, folder: Path) -> str | None:
        for name in ("adapter_config.json", "config.json"):
            (folder / name).write_bytes(content)
        said = complaint(adapter_config, folder)
        shape = complaint(lambda: from_config(read_object(folder / "config.json"), "m"))
        (folder / "adapter_model.safetensors").write_bytes(b"")
        assert quietly("evaluate", str(folder), "--benchmark", "mine=none.jsonl", "--out", str(folder / "out")) == 2
        return said and shape

    def manifests(self, content: bytes, folder: Path) -> str | None:
        (folder / "curate").mkdir()
        (folder / "curate" / "pairs.jsonl").write_text("{}\n")
        (folder / "curate" / "manifest.json").write_bytes(content)
        run = RunDir(folder)
        said = [
            complaint(run.manifest, "curate"),
            complaint(run.is_fresh, "curate", "key"),
            complaint(run.check, "curate"),
        ]
        assert quietly("verify", str(folder)) in (0, 2)
        assert quietly("report", "recipes/pocket.yaml", "--runs", str(folder.parent), f"name={folder.name}") == 2
        return next(filter(None, said), None)


def quietly(*words: str) -> int:
    """The command's exit code."""
    with (
        Path("/dev/null").open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        return main(words)


def rows(goods: list[dict[str, Any]]) -> Any:
    """Lines of JSON: good ones, mutated ones and others; or bytes that were some."""
    line = st.sampled_from(goods).map(as_json) | mutated(goods, JSON).map(as_json) | JSON.map(as_json)
    text = st.lists(line, min_size=1, max_size=3).map(lambda lines: "\n".join(lines).encode())
    return (
        text | text.map(lambda content: b"\xef\xbb\xbf" + content) | damaged([as_json(good).encode() for good in goods])
    )


PROBLEM = {"question": "1 + 1?", "answer": "#### \\boxed{2}", "id": 1}
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "1 + 1?"}]
PAIRS: list[dict[str, Any]] = [
    {"question": "Q?", "right": "\\boxed{1}", "wrong": "\\boxed{2}", "reply": "\\boxed{1}", "id": "a", "gold": "1"},
    {"prompt": MESSAGES, "teacher_prompt": MESSAGES, "reply": "so"},
    {"prompt": MESSAGES, "teacher_prompt": MESSAGES, "reply_ids": [1, 2, 3], "right_id": "x"},
    {"messages": [*MESSAGES, {"role": "assistant", "content": "2"}]},
]
GENERATION = {
    **{"model": "base", "run_seed": 1, "benchmark": "test", "problem_id": "a", "sample": 0, "prompt": "tutor"},
    **{
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "max_tokens": 9,
        "seed": 1,
        "n_tokens": 1,
    },
    **{"text": "\\boxed{1}", "finish_reason": "stop", "verdict": "right", "answer": "1", "gold": "1"},
}
ROLLOUT = {"id": "a", "problem_id": "b", "text": "x", "token_ids": [1], "finish_reason": "stop", "seed": 1}
ROLLOUT |= {"verdict": "right", "answer": None}
RECORDS = [
    {"id": "a", "question": "q", "gold": "1"},
    ROLLOUT,
    GENERATION,
    {"question": "q", "rollouts": [{"text": "a"}]},
]
MODELS = {"data": [{"id": "m"}]}
TOKENS = {"tokens": [1, 2, 3]}
CHOICES = {"choices": [{"text": "a", "token_ids": [1], "finish_reason": "stop"}]}
SERVED = {"/v1/models": MODELS, "/tokenize": TOKENS, "/detokenize": {"prompt": "q"}, "/v1/completions": CHOICES}
MANIFEST = {
    **{"format": FORMAT, "stage": "curate", "key": "k", "determined_by": {"inputs": {"base": "i"}, "students": {}}},
    **{
        "summary": {"rollouts": 1},
        "cost": {"seconds": 1.0, "tokens": 1},
        "spent": {"all": 1.0},
        "versions": {"a": "1"},
    },
    **{"files": {"pairs.jsonl": hashlib.sha256(b"{}\n").hexdigest()}, "sizes": {"pairs.jsonl": 3}, "id": "i"},
}


def sealed(manifest: Any) -> bytes:
    """As if the package had written it."""
    if isinstance(manifest, dict):
        manifest = {name: value for name, value in manifest.items() if name != "seal"}
        manifest = {**manifest, "seal": digest(json.loads(json.dumps(manifest)))}
    return text(manifest).encode()


def parquet_files() -> list[bytes]:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([{"question": f"{i} + 1?", "answer": i + 1, "x": {"a": [i]}} for i in range(30)])
    files = []
    for compression in ("none", "snappy", "zstd"):
        sink = io.BytesIO()
        pyarrow.parquet.write_table(table, sink, compression=compression)
        files.append(sink.getvalue())
    return files


def tables() -> Any:
    """Files of problems in other forms, damaged: their name and content."""
    lines = b'question,answer\r\n"1 + 1, in\nall ""?""",2\r\n2 + 1?,3\r\n'
    whole = as_json({"data": [PROBLEM, PROBLEM]}).encode()
    goods = {"a.csv": lines, "a.tsv": lines.replace(b",", b"\t"), "a.csv.gz": gzip.compress(lines), "a.json": whole}
    return st.one_of(*(st.tuples(st.just(name), damaged([content])) for name, content in goods.items()))


@dataclass(frozen=True)
class Kind:
    share: float  # of all inputs
    inputs: Any
    read: Callable[[Reads, Any, Path], str | None]


def kinds() -> dict[str, Kind]:
    trees = [yaml.safe_load(path.read_text()) for path in RECIPES]
    text = mutated(trees, VALUES).map(lambda tree: yaml.safe_dump(tree).encode())
    flat = mutated(trees, JSON).map(lambda tree: as_json(tree).encode())
    leaves = [(path, at(tree, path)) for tree in trees for path in places(tree) if path]
    leaves = [(".".join(map(str, path)), value) for path, value in leaves if isinstance(path[-1], str)]
    keys = st.sampled_from([key for key, value in leaves if not isinstance(value, dict)])
    likely = st.sampled_from([str(value) for _, value in leaves if not isinstance(value, dict)])
    word = st.tuples(keys | TEXTS, likely | TEXTS | NUMBERS.map(str) | JSON.map(as_json)).map("=".join)
    word |= st.sampled_from([f"{key}={value}" for key, value in leaves if not isinstance(value, dict)])
    answers = st.sampled_from(sorted(SERVED)).flatmap(lambda where: st.tuples(st.just(where), rows([SERVED[where]])))
    formats = st.sampled_from(["plain", "####", "boxed"])
    config = read_object(MODEL_DIR / "config.json")
    adapter = {"r": 8, "base_model_name_or_path": "pocket", "target_modules": ["q_proj"], "peft_type": "LORA"}
    return {
        "recipes": Kind(0.08, text | flat | damaged([path.read_bytes() for path in RECIPES]), Reads.recipe),
        "overrides": Kind(0.07, st.lists(word, min_size=1, max_size=3), Reads.overrides),
        "problems": Kind(0.15, st.tuples(rows([PROBLEM]), formats, st.booleans()), Reads.problems),
        "parquet": Kind(0.05, damaged(parquet_files()), Reads.parquet),
        "tables": Kind(0.1, tables(), Reads.tables),
        "pairs": Kind(0.15, rows(PAIRS), Reads.pairs),
        "records": Kind(0.15, rows(RECORDS), Reads.records),
        "generations": Kind(0.05, rows([GENERATION]), Reads.generations),
        "answers": Kind(0.1, answers, Reads.server),
        "configs": Kind(0.04, rows([config, adapter]), Reads.configs),
        "manifests": Kind(0.06, rows([MANIFEST]) | mutated([MANIFEST], JSON).map(sealed), Reads.manifests),
    }


@dataclass
class Tally:
    tried: int = 0
    read: int = 0
    slowest: float = 0.0

    def __str__(self) -> str:
        refused = self.tried - self.read
        return f"{self.tried:6,} tried {self.read:6,} read {refused:6,} refused, slowest {self.slowest:.2f} s"


def campaign(kind: Kind, count: int, number: int) -> Tally:
    """Try `count` inputs of a kind. Raises what is no sentence, with the smallest input that hypothesis finds."""
    tally, reads = Tally(), Reads()

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.inputs)
    def one(given: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            said = kind.read(reads, given, Path(folder))
            seconds = time.process_time() - start
            assert seconds < SECONDS, f"{seconds:.1f} s"
            assert said is None or 0 < len(said) < 20_000
            assert not [path for path in Path(folder).rglob("*") if path.suffix == ".tmp"]
        tally.tried, tally.read = tally.tried + 1, tally.read + (said is None)
        tally.slowest = max(tally.slowest, seconds)

    one()
    return tally


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("--count", type=int, default=10_000)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--kind")
    asked = words.parse_args()
    for name, kind in kinds().items():
        if asked.kind in (None, name):
            print(f"{name:<12}{campaign(kind, max(1, round(asked.count * kind.share)), asked.seed)}", flush=True)
    sys.exit(0)

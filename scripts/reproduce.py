"""The paper's run from nothing, on a machine with a GPU. Run by `make reproduce`; arguments: RECIPE [key=value ...], or
RECIPE --overrides "key=value ...", whose words are split as a shell does it, and not obeyed.

    1  the machine is looked at, and disk, memory and time are told, with three small packages and nothing else
       what it will cost in money too, where the recipe's price of an hour is stated (`ssb plan` names the key)
    2  .venv-gpu is made, with exactly the packages of constraints/gpu.txt, and looked at in its turn
    3  the recipe runs, each stage in a process of its own; a stopped run resumes with the same command
    4  Table 1 and Figure 2 stand beside the paper's, and what it cost beside the plan

Without a GPU it ends after the first: a sentence, the plan, exit code 2. With --detach before the recipe the rest goes
on in the background, whatever becomes of the terminal. Like setup.py it needs nothing but a Python.
"""

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import setup  # beside this file

ROOT = setup.ROOT
CLI = ("omegaconf", "pyyaml", "antlr4-python3-runtime")  # what `ssb plan` and `ssb doctor --machine` import
RECIPE = "recipes/qwen2.5-3b-gsm8k.yaml"
LOG = ROOT / "runs" / "reproduce.log"  # of one in the background


def main() -> None:
    detach = sys.argv[1:2] == ["--detach"]
    words = split(sys.argv[1 + detach :]) or [RECIPE]
    recipe = words[0]
    light = python_with_the_cli()
    doctor = ssb(light, "doctor", *words, "--machine", "--json", output=True)
    plan = ssb(light, "plan", *words, output=True)
    if not plan.stdout or not doctor.stdout.startswith("{"):  # a mistake in the recipe, said by the command
        sys.stderr.write(plan.stderr or doctor.stderr)
        sys.exit(2)
    wrong = [finding for finding in json.loads(doctor.stdout)["findings"] if finding["state"] == "wrong"]
    no_gpu = [finding for finding in wrong if finding["name"] == "gpu"]
    for finding in no_gpu or wrong:
        said = f"{finding['name']}: {finding['found'].rstrip('.')}. To fix it: {finding['fix']}."
        print(f"{recipe} cannot run on this machine: {said}\n")
    print(plan.stdout, flush=True)  # before what the commands say, in a file too
    if wrong:
        print("None of its packages was installed. `make demo` runs the whole method here, on a tiny model and no GPU.")
        sys.exit(2)

    if detach:
        in_the_background(words)
    else:
        with alone():
            sys.exit(everything(words))


def everything(words: "list[str]") -> int:
    """Install, look again, run, compare; the exit code of the first command that fails, or of the last."""
    heavy = setup.main("gpu") / "bin" / "python"
    for command in (("doctor", *words), ("run", *words)):
        done = ssb(heavy, *command)
        if done.returncode:
            return done.returncode  # the command has said why
    name = ssb(heavy, "plan", *words, "--json", output=True)
    run = Path("runs") / json.loads(name.stdout)["recipe"]
    return python(heavy, "-m", "ssb_unsloth.commands.reproduction", str(run)).returncode


@contextlib.contextmanager
def alone():
    """Only one at a time: a second one would install into the same environment."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.with_suffix(".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            setup.stop(f"`make reproduce` runs here already; one in the background writes to {LOG}.")
        yield


def in_the_background(words: "list[str]") -> None:
    """Do the same in a session of its own, which no closed terminal ends; what it says goes to a file."""
    with alone():
        pass  # that one runs already is said here, and not in the file
    with LOG.open("a") as log:
        command = [sys.executable, str(Path(__file__).resolve()), *words]
        job = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=str(ROOT)
        )
    print(
        f"It runs on in the background. Follow it: tail -f {LOG}\nStop it: kill -INT -- -{job.pid}\n"
        "Stopped, it resumes with the same command."
    )


def split(words: "list[str]") -> "list[str]":
    """The command's words, with those within the text behind --overrides."""
    if "--overrides" not in words:
        return words
    place = words.index("--overrides")
    try:
        return words[:place] + shlex.split(" ".join(words[place + 1 :]))
    except ValueError as error:
        setup.stop(
            f"OVERRIDES={' '.join(words[place + 1 :])}: {error}. Expected words like key=value, quoted in pairs."
        )
        raise  # not reached: setup.stop ends the program


def python_with_the_cli() -> Path:
    """A Python that can import what the command `ssb` needs to look at the machine; made if there is none."""
    venv = setup.folder("gpu")
    for candidate in (venv / "bin" / "python", ROOT / ".venv" / "bin" / "python", Path(sys.executable)):
        if candidate.exists() and python(candidate, "-c", "import omegaconf", output=True).returncode == 0:
            return candidate
    print("Installing three small packages, to look at the machine and the recipe.", flush=True)
    setup.environment(venv)("install", "--quiet", "--no-deps", *map(setup.pin_of, CLI))
    return venv / "bin" / "python"


def ssb(executable: Path, *words: str, output: bool = False) -> "subprocess.CompletedProcess[str]":
    return python(executable, "-m", "ssb_unsloth", *words, output=output)


def python(executable: Path, *words: str, output: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run it in the repository, on this package; `output`: keep what it prints."""
    pipe = subprocess.PIPE if output else None
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(executable), *words]
    return subprocess.run(command, cwd=str(ROOT), env=environment, stdout=pipe, stderr=pipe, text=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what a shell starts with & would ignore
    try:
        main()
    except KeyboardInterrupt:
        setup.stop("\nStopped. What was finished is kept; `make reproduce` resumes from there.")

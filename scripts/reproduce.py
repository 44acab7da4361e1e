"""The paper's run from nothing, on a machine with a GPU. Run by `make reproduce`; arguments: RECIPE [key=value ...], or
RECIPE --overrides "key=value ...", whose words are split as a shell does it, and not obeyed.

    1  the machine is looked at, and disk, memory and time are told, with three small packages and nothing else
    2  .venv-gpu is made, with exactly the packages of constraints/gpu.txt, and looked at in its turn
    3  the recipe runs, each stage in a process of its own; a stopped run goes on with the same command
    4  Table 1 and Figure 2 stand beside the paper's, and what it cost beside the plan

Without a GPU it ends after the first: a sentence, the plan, exit code 2. Like setup.py it needs nothing but a Python.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import setup  # beside this file

ROOT = setup.ROOT
CLI = ("omegaconf", "pyyaml", "antlr4-python3-runtime")  # what `ssb plan` and `ssb doctor --machine` import
RECIPE = "recipes/qwen2.5-3b-gsm8k.yaml"


def main() -> None:
    setup.check_python()
    setup.choose("gpu")
    words = split(sys.argv[1:]) or [RECIPE]
    recipe = words[0]
    light = python_with_the_cli()
    doctor = ssb(light, "doctor", *words, "--machine", "--json", output=True)
    plan = ssb(light, "plan", *words, output=True)
    if plan.returncode or not doctor.stdout.startswith("{"):  # a mistake in the recipe, said by the command
        sys.stderr.write(plan.stderr or doctor.stderr)
        sys.exit(2)
    wrong = [finding for finding in json.loads(doctor.stdout)["findings"] if finding["state"] == "wrong"]
    no_gpu = [finding for finding in wrong if finding["name"] == "gpu"]
    for finding in no_gpu or wrong:
        print(f"{recipe} cannot run on this machine: {finding['found'].rstrip('.')}. To mend it: {finding['mend']}.\n")
    print(plan.stdout)
    if wrong:
        print("None of its packages was installed. `make demo` runs the whole method here, on a tiny model and no GPU.")
        sys.exit(2)

    setup.main()
    heavy = setup.VENV / "bin" / "python"
    for command in (("doctor", *words), ("run", *words)):
        done = ssb(heavy, *command)
        if done.returncode:
            sys.exit(done.returncode)  # the command has said why
    name = ssb(heavy, "plan", *words, "--json", output=True)
    run = Path("runs") / json.loads(name.stdout)["recipe"]
    sys.exit(python(heavy, "-m", "ssb_unsloth.reproduction", str(run)).returncode)


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
    own = Path(sys.executable)
    for candidate in (setup.VENV / "bin" / "python", ROOT / ".venv" / "bin" / "python", own):
        if candidate.exists() and python(candidate, "-c", "import omegaconf", output=True).returncode == 0:
            return candidate
    print("Installing three small packages, to look at the machine and the recipe.")
    subprocess.check_call([str(own), "-m", "venv", "--clear", str(setup.VENV)])
    pins = [pin for pin in setup.pins() if pin.split("==")[0] in CLI]
    setup.pip("--no-deps", *pins, packages=len(pins))
    return setup.VENV / "bin" / "python"


def ssb(executable: Path, *words: str, output: bool = False) -> "subprocess.CompletedProcess[str]":
    return python(executable, "-m", "ssb_unsloth", *words, output=output)


def python(executable: Path, *words: str, output: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run it in the repository, on this package; `output`: keep what it prints."""
    pipe = subprocess.PIPE if output else None
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(executable), *words]
    return subprocess.run(command, cwd=str(ROOT), env=environment, stdout=pipe, stderr=pipe, text=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        setup.stop("\nStopped. What was finished is kept; `make reproduce` goes on from there.")

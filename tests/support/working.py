"""Work for several processes that needs no torch: it ends in every way that there is."""

import os
import signal
import time

from ssb_unsloth.errors import UserError


def work(seat, how, last):
    """Process `last` does as `how` says; the others wait for it, as in the middle of a step."""
    if seat.number != last:
        time.sleep(0.0 if how == "returns" else 600.0)
    elif how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exits":
        os._exit(7)
    elif how == "refuses":
        raise UserError("the reason.")
    elif how == "fails":
        raise ZeroDivisionError("the mistake")
    elif how == "stops":
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(600)
    return seat.number, os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ["WORLD_SIZE"]


def fails_after_the_killed_one(seat, folder):
    """The other process hears at once that one is gone, and fails; the killed one is the cause."""
    if seat.number:
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    while not (folder / "pid").exists() or not (folder / "pid").read_text():
        time.sleep(0.01)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    raise RuntimeError("connection closed by peer")

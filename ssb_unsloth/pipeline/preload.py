"""What the stages import, imported once for all that `sweep` forks from one process.

What cannot be imported is left to the stage that needs it, and to what it says of it.
"""

import contextlib
import os
import signal
import threading
from importlib.util import find_spec

from ..io.progress import hush

done = threading.Event()


def watch() -> None:
    """End with the run that started this, instead of importing on for nobody."""
    while not done.wait(0.2):
        parent = str(os.getppid())
        if os.environ.get("SSB_STARTER", parent) != parent:
            os._exit(1)


watcher = threading.Thread(target=watch)
watcher.start()
answer = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stages; importing would end in a traceback
hush()

with contextlib.suppress(Exception):
    from ..evaluation import evaluate  # noqa: F401
    from ..method import teach  # noqa: F401
    from ..report import write  # noqa: F401
    from ..training import drift, sft, ssb, token_kl  # noqa: F401

    if find_spec("vllm"):
        from ..backends.vllm import library

        library()
signal.signal(signal.SIGINT, answer)
done.set()
watcher.join()  # what is forked from here has one thread

"""What the stages import, imported once for all that `sweep` forks from one process."""

import signal
from importlib.util import find_spec

from .progress import hush

answer = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stages; importing would end in a traceback
hush()

from . import drift, evaluate, report, teach, token_kl, train  # noqa: E402, F401
from .baselines import sft  # noqa: E402, F401

if find_spec("vllm"):
    from .backends.vllm import library

    library()
signal.signal(signal.SIGINT, answer)

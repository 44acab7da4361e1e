"""What the stages without an engine import, imported once for all that `sweep` forks from one process."""

from .progress import hush

hush()

from . import teach, train  # noqa: E402, F401
from .baselines import sft  # noqa: E402, F401

"""Semantic Soft Bootstrapping (Mitra and Ulukus, arXiv 2512.05105): a language model teaches itself from its own hints.

`SSBTrainer` and `SSBConfig` stand beside TRL's trainers; `kd_loss` is the objective alone, on hidden states, and needs
only torch; the command `ssb` runs a whole recipe. Nothing heavy is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .method.distributions import Head, TeacherLogits, TeacherTopK
    from .method.losses import kd_loss, row_weights
    from .training.arguments import SSBConfig
    from .training.trainer import SSBTrainer

__version__ = "0.2.0"
# Where each name lives; its module is imported when the name is first asked for.
HOMES = {
    "Head": "method.distributions",
    "SSBConfig": "training.arguments",
    "SSBTrainer": "training.trainer",
    "TeacherLogits": "method.distributions",
    "TeacherTopK": "method.distributions",
    "kd_loss": "method.losses",
    "row_weights": "method.losses",
}
__all__ = [
    "Head",
    "SSBConfig",
    "SSBTrainer",
    "TeacherLogits",
    "TeacherTopK",
    "__version__",
    "kd_loss",
    "row_weights",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Semantic Soft Bootstrapping (Mitra and Ulukus, arXiv 2512.05105): a language model teaches itself from its own hints.

`SSBTrainer` and `SSBConfig` stand beside TRL's trainers; the command `ssb` runs a whole recipe. Nothing heavy is
imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import SSBConfig, SSBTrainer

__version__ = "0.1.0"
__all__ = ["SSBConfig", "SSBTrainer", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("SSBConfig", "SSBTrainer"):
        from . import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

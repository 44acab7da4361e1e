"""What `ssb plan` says: of each stage its memory, disk, tokens and time. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .assumptions import Assumptions
from .cards import Card
from .geometry import How


@dataclass
class StagePlan:
    """Bytes, tokens, and seconds (at best, at worst; None where there is no stated peak)."""

    name: str
    memory: dict[str, float] = field(default_factory=dict)
    disk: float = 0.0
    read: float = 0.0  # tokens: prompts, or whole texts where nothing is sampled
    sampled: float = 0.0  # tokens
    replies: float = 0.0  # that are sampled or brought, and graded
    seconds: tuple[float, float] | None = None
    cards: int = 1  # that do it, and the memory is that of one; 0: servers do
    fits: bool | None = None  # None: no card to fit into, or one whose memory is not told
    advice: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def bytes(self) -> float:
        return sum(self.memory.values())


@dataclass
class Plan:
    recipe: str
    model: str
    source: str  # of the model's config
    parameters: int
    lora_parameters: int
    dtype: str
    card: Card | None
    assumptions: Assumptions
    download: float  # bytes: the model
    before: tuple[float, float] | None  # seconds: to load and install what is missing here; None on a CPU
    price: float | None  # of an hour
    stages: list[StagePlan]
    active: int = 0  # parameters that a token meets; fewer than `parameters` with experts
    tower: int | None = 0  # of them for pictures and sound; None where there are some, and how many is not known
    how: How = "family"  # the counts were come by
    hit: dict[str, int] = field(default_factory=dict)  # how many layers of each name LoRA is put on
    left_out: dict[str, int] = field(default_factory=dict)  # what it is not, and the parameters there
    whole: int = 0  # parameters trained where there is no adapter
    refused: list[str] = field(default_factory=list)  # why the recipe cannot run on the card, whatever its memory

    @property
    def fits(self) -> bool | None:
        if self.card is None or not self.card.memory_mib:
            return None
        return all(stage.fits is not False for stage in self.stages)

    @property
    def disk(self) -> float:
        return self.download + sum(stage.disk for stage in self.stages)

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Of all stages, and of what comes before them."""
        known = [stage.seconds for stage in self.stages if stage.seconds]
        known += [self.before] if known and self.before else []
        return (sum(s[0] for s in known), sum(s[1] for s in known)) if known else None

    @property
    def money(self) -> tuple[float, float] | None:
        """What that time costs, in the currency of `price`."""
        if self.seconds is None or self.price is None:
            return None
        return self.seconds[0] / 3600 * self.price, self.seconds[1] / 3600 * self.price

    def as_dict(self) -> dict[str, Any]:
        stages = [{**asdict(stage), "bytes": stage.bytes} for stage in self.stages]
        extra = {"fits": self.fits, "disk": self.disk, "seconds": self.seconds, "money": self.money}
        extra["time_is_measured"] = False
        return {**asdict(self), **extra, "stages": stages}

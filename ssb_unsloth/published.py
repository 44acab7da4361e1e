"""What the paper published, as far as a run is planned by it or set beside it. One place for each figure."""

from __future__ import annotations

QUESTIONS, PAIRS = 950, 256  # §4.1: questions that were used, and the pairs that came of them
STEPS = 192  # §4.1: 3 epochs of these in batches of 4
FEW = 0.1  # ours: a training by less than this share of these pairs, or steps, shows that it runs, and no more
TABLE_1: dict[str, dict[str, tuple[int, int]]] = {  # in counts: right, questions
    "math500": {"base": (188, 500), "GRPO": (224, 500), "SSB": (277, 500)},  # 37.6, 44.8, 55.4 %
    "aime2024": {"base": (0, 30), "GRPO": (1, 30), "SSB": (4, 30)},  # 0, 3.33, 13.33 %
}
FIGURE_2 = {  # read off its curves by eye: first and last
    "loss": (0.56, 0.25),
    "gradient norm": (1.05, 0.28),
    "reply length, tokens": (235.0, 385.0),
}

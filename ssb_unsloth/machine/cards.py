"""The cards that a plan knows: memory, speed and capability from their data sheets, and names by which they are known.

A card is known by its family, since one model goes by many names: NVIDIA A100-SXM4-40GB, NVIDIA A100-PCIE-40GB,
GRID A100-20C. Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UserError

BFLOAT16 = (8, 0)  # Ampere: the first with bfloat16, and the oldest that FlashAttention runs on


@dataclass(frozen=True)
class Card:
    """A graphics card: from the table below, or found here."""

    name: str
    memory_mib: int  # as nvidia-smi reports it; a little less than the data sheet says
    capability: tuple[int, int] | None  # CUDA's compute capability
    tflops: float | None = None  # dense 16-bit tensor-core peak with float32 sums, 1e12 operations a second
    bandwidth: float | None = None  # of its memory, 1e9 bytes a second
    source: str = ""  # of the two
    free_mib: int | None = None  # found here only
    driver: str = ""  # found here only

    @property
    def bfloat16(self) -> bool:
        return self.capability is not None and self.capability >= BFLOAT16


# Peaks are without sparsity: where a data sheet states only the sparse figure, half of it.
CARDS = {
    "t4": Card("Tesla T4", 15360, (7, 5), 65, 320, "T4 data sheet; no bfloat16"),
    "rtx2080ti": Card("NVIDIA GeForce RTX 2080 Ti", 11264, (7, 5), 53.8, 616, "Turing whitepaper, appendix A"),
    "rtx6000": Card("Quadro RTX 6000", 24576, (7, 5), 130.5, 672, "Turing whitepaper, appendix A"),
    "rtx8000": Card("Quadro RTX 8000", 49152, (7, 5), 130.5, 672, "Turing whitepaper, appendix A"),
    "rtx3060": Card("NVIDIA GeForce RTX 3060", 12288, (8, 6), 25.5, 360, "twice its 12.7 of float32, as in GA102"),
    "rtx3070": Card("NVIDIA GeForce RTX 3070", 8192, (8, 6), 40.6, 448, "GA102 whitepaper, appendix C"),
    "rtx3080": Card("NVIDIA GeForce RTX 3080", 10240, (8, 6), 59.5, 760, "GA102 whitepaper, appendix A"),
    "rtx3090": Card("NVIDIA GeForce RTX 3090", 24576, (8, 6), 71, 936, "GA102 whitepaper, appendix A"),
    "rtx3090ti": Card("NVIDIA GeForce RTX 3090 Ti", 24564, (8, 6), 80, 1008, "twice its 40 of float32, as in GA102"),
    "a2": Card("NVIDIA A2", 15356, (8, 6), 18, 200, "A2 data sheet"),
    "a10": Card("NVIDIA A10", 23028, (8, 6), 125, 600, "A10 data sheet"),
    "a10g": Card("NVIDIA A10G", 23028, (8, 6), 70, 600, "A10G data sheet"),
    "a16": Card("NVIDIA A16", 15356, (8, 6), 17.9, 200, "A16 data sheet, one of its four GPUs"),
    "a40": Card("NVIDIA A40", 46068, (8, 6), 149.7, 696, "A40 data sheet"),
    "a4000": Card("NVIDIA RTX A4000", 16376, (8, 6), 76.7, 448, "RTX A4000 data sheet, half of the sparse 153.4"),
    "a5000": Card("NVIDIA RTX A5000", 24564, (8, 6), 111.1, 768, "RTX A5000 data sheet, half of the sparse 222.2"),
    "a6000": Card("NVIDIA RTX A6000", 49140, (8, 6), 154.8, 768, "GA102 whitepaper, appendix B"),
    "a30": Card("NVIDIA A30", 24576, (8, 0), 165, 933, "A30 data sheet"),
    "a100-40gb": Card("NVIDIA A100-SXM4-40GB", 40960, (8, 0), 312, 1555, "A100 data sheet"),
    "a100-80gb": Card("NVIDIA A100-SXM4-80GB", 81920, (8, 0), 312, 2039, "A100 data sheet"),
    "a100-80gb-pcie": Card("NVIDIA A100 80GB PCIe", 81920, (8, 0), 312, 1935, "A100 data sheet"),
    "l4": Card("NVIDIA L4", 23034, (8, 9), 121, 300, "L4 data sheet, half of the sparse 242"),
    "l40": Card("NVIDIA L40", 46068, (8, 9), 181, 864, "L40 data sheet"),
    "l40s": Card("NVIDIA L40S", 46068, (8, 9), 362, 864, "L40S data sheet"),
    "rtx6000ada": Card("NVIDIA RTX 6000 Ada Generation", 49140, (8, 9), 364.2, 960, "a quarter of the sparse 1,457"),
    "rtx4060ti": Card("NVIDIA GeForce RTX 4060 Ti", 16380, (8, 9), 44, 288, "twice its 22 of float32, as in Ada"),
    "rtx4070": Card("NVIDIA GeForce RTX 4070", 12282, (8, 9), 58.3, 504, "twice its 29.1 of float32, as in Ada"),
    "rtx4080": Card("NVIDIA GeForce RTX 4080", 16376, (8, 9), 97.5, 717, "Ada whitepaper, appendix A"),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", 24564, (8, 9), 165.2, 1008, "Ada whitepaper, appendix A"),
    "h100-pcie": Card("NVIDIA H100 PCIe", 81559, (9, 0), 756, 2000, "H100 data sheet, half of the sparse 1,513"),
    "h100-nvl": Card("NVIDIA H100 NVL", 95830, (9, 0), 835, 3900, "H100 data sheet, half of the sparse 1,671"),
    "h100": Card("NVIDIA H100 80GB HBM3", 81559, (9, 0), 989, 3350, "H100 data sheet (SXM), half of the sparse 1,979"),
    "h20": Card("NVIDIA H20", 97871, (9, 0), 148, 4000, "H20 data sheet"),
    "gh200": Card("NVIDIA GH200 480GB", 97871, (9, 0), 989, 4000, "GH200 data sheet, half of the sparse 1,979"),
    "h200": Card("NVIDIA H200", 143771, (9, 0), 989, 4800, "H200 data sheet (SXM), half of the sparse 1,979"),
    "h200-nvl": Card("NVIDIA H200 NVL", 143771, (9, 0), 835, 4800, "H200 data sheet, half of the sparse 1,671"),
    "b200": Card("NVIDIA B200", 183359, (10, 0), 2250, 8000, "HGX B200 data sheet, an eighth of the dense 18,000"),
    "gb200": Card("NVIDIA GB200", 189471, (10, 0), 2500, 8000, "GB200 data sheet, half of the sparse 5,000"),
    "b300": Card("NVIDIA B300 SXM6 AC", 275040, (10, 3), 2250, 8000, "HGX B300 data sheet, an eighth of 18,000"),
    "rtx5070ti": Card("NVIDIA GeForce RTX 5070 Ti", 16303, (12, 0), 87.9, 896, "RTX Blackwell whitepaper, appendix A"),
    "rtx5080": Card("NVIDIA GeForce RTX 5080", 16303, (12, 0), 112.6, 960, "RTX Blackwell whitepaper, appendix A"),
    "rtx5090": Card("NVIDIA GeForce RTX 5090", 32607, (12, 0), 209.5, 1792, "RTX Blackwell whitepaper, appendix A"),
    "pro6000": Card(
        "NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, (12, 0), 500, 1597, "an eighth of the sparse 4,000"
    ),
}

# What in a name tells the family, the most particular first, and its cards: of several that with the nearest memory.
# A8.. and H8.. are the A1.. and H1.. of another market.
FAMILIES = (
    (r"A[18]00.*PCIe", ("a100-40gb", "a100-80gb-pcie")),
    (r"A[18]00D?", ("a100-40gb", "a100-80gb")),
    (r"H[18]00.*PCIe", ("h100-pcie",)),
    (r"H100 NVL", ("h100-nvl",)),
    (r"GH200", ("gh200",)),
    (r"H200 NVL", ("h200-nvl",)),
    (r"GB200", ("gb200",)),
    (r"RTX PRO 6000 Blackwell", ("pro6000",)),
    (r"RTX 6000 Ada", ("rtx6000ada",)),
    (r"RTX (?P<exact>2080 Ti|3060|3070|3080|3090|3090 Ti|4060 Ti|4070|4080|4090|5070 Ti|5080|5090)", ()),
    (r"Quadro RTX (?P<exact>6000|8000)", ()),
    (r"RTX (?P<exact>A4000|A5000|A6000)", ()),
    (r"(?P<exact>T4G?|A2|A10|A10G|A16|A30|A40|L4|L40|L40S|H20|H[18]00|H200|B200|B300)", ()),
)


def known_as(name: str, memory_mib: int = 0) -> Card | None:
    """The card of the table whose family a name tells, None where it tells none.

    A mobile part is slower than the card whose number it has, and so are a variant such as RTX 4090 D and a MIG slice.
    """
    if re.search(r"laptop|max-q|mobile|notebook|\bMIG\b", name, re.I):
        return None
    for pattern, keys in FAMILIES:
        # After the model's name: nothing, or what says bus, memory, or which part of a virtual card it is.
        found = re.search(rf"(?<![A-Z0-9]){pattern}(?![A-Z0-9]|[ -]?(?:Ti|SUPER|D)\b)", name, re.I)
        if found is None:
            continue
        if not keys:
            exact = found["exact"].lower().replace(" ", "").replace("h800", "h100").replace("t4g", "t4")
            keys = (exact if exact in CARDS else f"rtx{exact}",)
        return min((CARDS[key] for key in keys), key=lambda card: abs(card.memory_mib - memory_mib))
    return None


def card_named(name: str) -> Card:
    """A card of the table, by its key there or by a name that nvidia-smi gives it.

    Raises:
        UserError: there is none of that name.
    """
    memory = re.search(r"(\d+) ?GB", name, re.I)
    card = CARDS.get(name.lower()) or known_as(name, 1024 * int(memory[1]) if memory else 0)
    if card is None:
        raise UserError(f"--gpu {name}: unknown card; known: {', '.join(CARDS)}.")
    return card

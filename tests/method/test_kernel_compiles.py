"""The loss's Triton kernel compiles for every card that the package speaks of, on a machine that has none of them.

In a process of its own: elsewhere in the tests Triton is told to interpret, which it reads once.
"""

import json
import os
import subprocess
import sys

import pytest

from ssb_unsloth.machine.cards import CARDS

CAPABILITIES = (75, 80, 90, 100)  # T4, A100, H100, B200; the others have their instructions
SCRIPT = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ssb_unsloth.method.kernels import BLOCK, WARPS, _kd_rows

FLOATS = {"s_ptr", "t_ptr", "kl_ptr", "ce_ptr", "agreement_ptr", "t_entropy_ptr", "s_entropy_ptr"}
NUMBERS = {"scale", "softcap", "temperature", "t_temperature", "kd_share", "ce_share", "beta", "clip", "lift"}
FLAGS = ("HAS_BIAS", "HAS_CAP", "RAW_TEACHER", "HAS_CE", "STATS", "GRADIENT", "REVERSE", "JSD")

def types(bias):
    known = {**{n: "*fp32" for n in FLOATS}, **{n: "fp32" for n in NUMBERS}, "bias_ptr": bias, "words_ptr": "*i64"}
    known["g_ptr"] = bias  # fp32 over the logits, or as narrow as the head
    known |= {"stride_s": "i32", "stride_t": "i32", "stride_g": "i32", "vocabulary": "i32"}
    return {name: known.get(name, "constexpr") for name in _kd_rows.arg_names}

for capability in json.loads(sys.argv[1]):
    for flags in json.loads(sys.argv[2]):
        given = {**dict(zip(FLAGS, map(bool, flags), strict=True)), "BLOCK": BLOCK}
        constants = {(_kd_rows.arg_names.index(name),): value for name, value in given.items()}
        source = ASTSource(_kd_rows, types("*bf16" if flags[0] else "*fp32"), constexprs=constants)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": WARPS})
        print("RESULT", json.dumps([capability, flags, len(made.asm["cubin"]), f"sm_{capability}" in made.asm["ptx"]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
def test_the_kernel_compiles_without_a_gpu(tmp_path):
    """To machine code, by the assembler that Triton brings: as the default is, and the other divergences with more."""
    forms = [(0, 0, 1, 0, 1, 1, 0, 0), (1, 1, 0, 1, 1, 1, 1, 0), (0, 1, 1, 1, 1, 1, 0, 1)]
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    words = [sys.executable, "-c", SCRIPT, json.dumps(CAPABILITIES), json.dumps(forms)]
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    made = [json.loads(line.split("RESULT ")[1]) for line in done.stdout.splitlines() if "RESULT" in line]
    assert [(capability, tuple(form)) for capability, form, *_ in made] == [(c, f) for c in CAPABILITIES for f in forms]
    assert all(size > 1000 and right for *_, size, right in made)


def test_every_card_of_the_table_has_one_of_these_instructions_or_newer():
    for card in CARDS.values():
        assert max(c for c in CAPABILITIES if c <= 10 * card.capability[0] + card.capability[1])

#!/usr/bin/env bash
# Fifteen minutes of a bare CUDA machine, the most telling first (docs/gpu.md). It needs Python 3.12 with torch 2.11,
# transformers 5.17, peft, accelerate, triton, pytest and pytest-xdist, or the environment of `make reproduce`; no
# network, no vLLM. On a bare machine the wheels of scripts/slim_wheels.py bring what is missing:
#
#   before:  python3 scripts/slim_wheels.py .whl          25 MB, to be carried along with the checkout
#   there:   bash scripts/visit.sh 1                      is it right, and what does 3B take: 5 to 9 minutes
#            bash scripts/visit.sh 2                      the loss, the pass, numerics: 7 to 9 minutes
#            bash scripts/visit.sh 3                      the method beside its controls at 20 million parameters: 8 minutes
#
# Rows, reports and logs.tgz go to $OUT, after every step. Each step has its own limit and log, and one that fails does
# not stop the next; together a part's limits come to less than ten minutes. In part 1 what is only right or wrong runs
# at the same time; what is timed runs alone.
# VISIT_DEVICE=cpu rehearses it at toy sizes.
set -u
OUT=${OUT:-visit-out}; W=${VISIT_DIR:-$HOME/visit}; mkdir -p "$OUT" "$W/logs"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=$PWD
[ -f .whl/commit ] && export SSB_COMMIT=$(cat .whl/commit)
if ls .whl/*.whl >/dev/null 2>&1; then
  if [ ! -d "$W/site/unsloth" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$W/site" .whl/*.whl || exit 1
  fi
  export PYTHONPATH=$W/site:$PWD
fi

small="problems.limit=96 curate.pairs=12 curate.wave=48 evaluate.benchmarks.test.limit=24 evaluate.benchmarks.test-hard.limit=12"
dtype=bfloat16; backend=unsloth; toy=""; pocket="--seconds ${POCKET_SECONDS:-80}"; family="--device cuda --dtype bfloat16"
if [ "${VISIT_DEVICE:-cuda}" = cpu ]; then
  dtype=float32; backend=transformers; toy="--device cpu --tiny"; pocket="--seconds 5 --problems 2 --workers 1 --device cpu"
  family="--hidden 64 --vocab 500 --rows 32"; export TOY="$small"
fi
model="model.dtype=$dtype model.backend=$backend sampler.engine=transformers"

step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS; shift 2
  { echo "### $name: $*"; timeout -k 5 "$limit" "$@"; echo "### $name: rc $? after $((SECONDS - began)) s"; } >"$W/logs/$name.log" 2>&1
  grep "^### $name: rc" "$W/logs/$name.log"; grep -v "^###" "$W/logs/$name.log" | tail -n "${SHOWN:-4}" | cut -c1-300
  for run in visit controls-1 controls-2 controls-3; do cp "$W/runs/$run/report/report.json" "$OUT/$run-report.json" 2>/dev/null; done
  tar czf "$W/$name.tgz" -C "$W" logs; mv "$W/$name.tgz" "$OUT/logs.tgz" # whole at any moment: steps run side by side
}
ssb() { # NAME SECONDS STAGE KEY=VALUE...: a run of the pocket
  local name=$1 limit=$2 stage=$3; shift 3
  step "$name" "$limit" python3 -m ssb_unsloth "$stage" recipes/pocket.yaml --runs "$W/runs" "$@"
}
check() { # NAME SECONDS CHECK...
  local name=$1 limit=$2; shift 2
  step "$name" "$limit" python3 -m scripts.gpu_checks "$@" --out "$OUT/$name.jsonl" --backend $backend $toy
}
# -v: what has passed is there to read if the limit ends it.
tests() { step tests 300 env SSB_REQUIRE_GPU=1 python3 -m pytest tests/gpu -n 6 -v --tb=short -k "${TESTS:-}"; }
chain() { ssb chain 200 run name=visit $model $small train.epochs=2 train.probe_steps=4 train.gradient_checkpointing=true; }
grpo() { ssb grpo 200 train name=visit-grpo model.dtype=$dtype train.method=grpo train.grpo.steps=3 train.grpo.questions=32 train.grpo.use_vllm=false; }
# SSB, the best control, and guidance, beside each other: every student in a process of its own, on the one card. Learning
# rates are half of those tuned on the small pocket, for four times its width; nobody tuned them at this size.
controls() { # SEED MODEL
  cat >"$W/controls-$1.yaml" <<YAML
base: pocket
name: controls-$1
seed: $1
model: {name: $2, dtype: $dtype, backend: $backend}
sampler: {engine: transformers, batch_size: 512}
train: {learning_rate: 2e-3, probe_steps: 0}
evaluate:
  references: [base, ssb, rft-t2]
  benchmarks:
    drills: {title: plain sums (drills), source: pocket, split: drills, limit: 200, max_tokens: 96, greedy: false}
variants:
  rft-t2: {teach: {replies: right, each: 1, right: tokens}, train: {learning_rate: 1e-3}}
  guide-both: {teach: {replies: rollouts, each: 1, hint: right, guidance: 1}, train: {epochs: 2}}
  mix-all: {teach: {replies: rollouts, hint: right, guidance: 1, right: tokens}, train: {epochs: 1, learning_rate: 1e-3}}
${MORE:-}
YAML
  step "controls-$1" "${CONTROLS_SECONDS:-410}" python3 -m ssb_unsloth sweep "$W/controls-$1.yaml" --runs "$W/runs" --workers 5 ${TOY:-}
}

case ${1:-1} in
1)
  SHOWN=12 step machine 20 sh -c 'nvidia-smi; df -h . | tail -n 1; python3 -m pip list 2>/dev/null | grep -iE "^(torch|triton|transformers|peft|accelerate|numpy|trl|unsloth) "'
  if [ $backend = unsloth ]; then tests & chain & grpo & wait; else chain; grpo; fi
  check unsloth-train 240 unsloth-train memory-caps
  ;;
2)
  check numerics 160 numerics
  check kd-kernel 90 kd-kernel
  step kd-divergence 130 python3 -m benchmarks.kd_loss --out "$OUT/kd-divergence.json" --divergences forward reverse jsd $family
  check kd-parts 80 kd-parts
  check teacher-pass 120 teacher-pass
  ;;
3)
  [ -n "${MODEL:-}" ] || step pocket20m 165 python3 -m scripts.scaled_pocket --out "$W/pocket20m" --rows "$OUT/scaled-pocket.jsonl" $pocket
  for seed in ${SEEDS:-1 2}; do controls $seed "${MODEL:-$W/pocket20m}" & done; wait
  ;;
esac

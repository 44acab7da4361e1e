#!/usr/bin/env bash
# Fifteen minutes of a bare CUDA machine, the most telling first (docs/gpu.md). It needs Python 3.12 with torch 2.11,
# transformers 5.17, peft, accelerate, triton, pytest and pytest-xdist, or the environment of `make reproduce`; no
# network, no vLLM. On a bare machine the wheels of benchmarks/slim_wheels.py bring what is missing:
#
#   before:  python3 benchmarks/slim_wheels.py .whl       25 MB, to be carried along with the checkout
#   there:   bash benchmarks/visit.sh 1                   eight minutes at most: is it right, and what does 3B take
#            bash benchmarks/visit.sh 2                   six minutes at most: the kernel, the pass, numerics, 20 M
#
# Rows, reports and logs.tgz go to $OUT. Each step has its own limit and log, and one that fails does not stop the next. In part 1
# what is only right or wrong runs at the same time; what is timed runs alone.
set -u
OUT=${OUT:-visit-out}; W=${VISIT_DIR:-$HOME/visit}; mkdir -p "$OUT" "$W/logs"
DEVICE=${VISIT_DEVICE:-cuda}   # cpu: the rehearsal, at toy sizes
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH=$PWD
[ -f .whl/commit ] && export SSB_COMMIT=$(cat .whl/commit)
if ls .whl/*.whl >/dev/null 2>&1; then
  [ -d "$W/site/unsloth" ] || python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$W/site" .whl/*.whl || exit 1
  export PYTHONPATH=$W/site:$PWD
fi
step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS; shift 2
  { echo "### $name: $*"; timeout -k 5 "$limit" "$@"; echo "### $name: rc $? after $((SECONDS - began)) s"; } >"$W/logs/$name.log" 2>&1
  grep "^### $name: rc" "$W/logs/$name.log"; grep -v "^###" "$W/logs/$name.log" | tail -n "${LINES_SHOWN:-4}" | cut -c1-300
}
small="problems.limit=96 curate.pairs=12 curate.wave=48 evaluate.benchmarks.test.limit=24 evaluate.benchmarks.test-hard.limit=12"
dtype=bfloat16; backend=unsloth; toy=""
[ "$DEVICE" = cpu ] && { dtype=float32; backend=transformers; toy="--device cpu --tiny"; }
model="model.dtype=$dtype model.backend=$backend sampler.engine=transformers"
check() { python3 -m benchmarks.gpu_checks "$@" --backend $backend $toy; }
export -f check; export backend toy

tests() { step tests 240 env SSB_REQUIRE_GPU=1 python3 -m pytest tests/gpu -n 6 -q --tb=short -k "${TESTS:-}"; }
chain() { step chain 200 python3 -m ssb_unsloth run recipes/pocket.yaml --runs "$W/runs" name=visit $model $small train.epochs=2 train.probe_steps=4 train.gradient_checkpointing=true; }
grpo() { step grpo 200 python3 -m ssb_unsloth train recipes/pocket.yaml --runs "$W/runs" name=visit-grpo model.dtype=$dtype train.method=grpo train.grpo.steps=3 train.grpo.questions=32 train.grpo.use_vllm=false; }
case ${1:-1} in
1)
  LINES_SHOWN=12 step machine 20 sh -c 'nvidia-smi; df -h . | tail -n 1; python3 -m pip list 2>/dev/null | grep -iE "^(torch|triton|transformers|peft|accelerate|numpy|trl|unsloth) "'
  if [ "$DEVICE" = cpu ]; then chain; grpo; else tests & chain & grpo & wait; fi
  step 3b 240 bash -c "check unsloth-train memory-caps --out $OUT/unsloth-train.jsonl"
  ;;
2)
  step kernel 150 bash -c "check kd-kernel --out $OUT/kd-kernel.jsonl"
  step rest 120 bash -c "check teacher-pass numerics --out $OUT/rest.jsonl"
  if [ "$DEVICE" = cpu ]; then time="--seconds 5 --problems 2 --workers 1 --device cpu"; else time="--seconds ${POCKET_SECONDS:-90}"; fi
  step pocket20m 180 python3 -m benchmarks.scaled_pocket --out "$W/pocket20m" --rows "$OUT/scaled-pocket.jsonl" $time &
  [ -z "${TESTS:-}" ] || tests # those of part 1 that are worth another look
  wait
  [ "$DEVICE" = cpu ] || step method20m 150 python3 -m ssb_unsloth run recipes/pocket.yaml --runs "$W/runs" name=visit-20m model.name="$W/pocket20m" $model sampler.batch_size=512
  ;;
esac
for run in visit visit-20m; do
  cp "$W/runs/$run/report/report.json" "$OUT/$run-report.json" 2>/dev/null
done
cp "$W/runs/visit/train/history.jsonl" "$OUT/visit-history.jsonl" 2>/dev/null
tar czf "$OUT/logs.tgz" -C "$W" logs

"""What spreading a stage over Ray's replicas costs beside the sampling: for the start, and for each reply.

python -m benchmarks.replicas

No model: the replies are a rule's (`memory`), of 150 tokens and some 700 characters, so that all time is spent on
asking. `ours:start` is Ray and the replicas from nothing until all are ready, `ours` a reply's way from this process to
one of them and back, `raw` the same rule in this process. CPU seconds are this process's own.
"""

from __future__ import annotations

from ssb_unsloth.backends.replicas import ReplicasSampler
from ssb_unsloth.backends.sampler import Request
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig, SamplingConfig

from . import common
from .memory import Scripted

DECODING = SamplingConfig(max_tokens=200)


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=256, help="requests that a replica is given at a time")
    args = parser.parse_args(argv)
    requests = [Request([number, 0, *range(100)], number) for number in range(args.requests)]
    wall, cpu, sampler = common.timed(lambda: started(args.replicas, args.batch), args.device)
    size = {"hidden": 0, "vocabulary": 0, "replicas": args.replicas}
    results = [common.row("replicas", "ours:start", common.Times([wall], [cpu]), args, rows=args.replicas, **size)]
    contestants = {
        "ours": lambda: sampler.sample(requests, DECODING, quiet=True),
        "raw": lambda: Scripted().sample(requests, DECODING),
    }
    if contestants["ours"]() != contestants["raw"]():
        raise SystemExit("The replicas give other replies than the rule.")
    for name, times in common.in_turn(contestants, args.repeats, args.device).items():
        rate = args.requests / min(times.wall)
        results.append(common.row("replicas", name, times, args, rows=args.requests, replies_per_second=rate, **size))
    sampler.close()
    common.show(results)
    common.save(results, "replicas", args)


def started(count: int, batch: int) -> ReplicasSampler:
    """So many replicas of the rule, all ready."""
    config = SamplerConfig(engine="ray", replicas=count, batch_size=batch)
    return ReplicasSampler(ModelConfig(name="pocket", dtype="float32"), config, "transformers", ruled)


def ruled(model: ModelConfig) -> Scripted:
    return Scripted()


if __name__ == "__main__":
    main()

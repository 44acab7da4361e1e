"""The benchmarks that go by a name: where each one's problems are, and how many there have to be.

Recipes (`evaluate.benchmarks`) and the command line (`--benchmark`) read this table; a row's keys are those of
`BenchmarkConfig`. A new one is a row here. Nothing heavy is imported.
"""

from __future__ import annotations

from typing import Any

BENCHMARKS: dict[str, dict[str, Any]] = {  # length limits are ours, and fit the default sampler.max_model_len
    "math500": {
        "source": "HuggingFaceH4/MATH-500",
        "split": "test",
        "question": "problem",
        "id": "unique_id",
        "count": 500,
        "max_tokens": 3072,
    },
    "aime2024": {
        "source": "HuggingFaceH4/aime_2024",
        "split": "train",
        "question": "problem",
        "count": 30,
        "max_tokens": 3072,
    },
    "aime2025": {"source": "math-ai/aime25", "split": "test", "question": "problem", "count": 30, "max_tokens": 3072},
    "gsm8k": {"source": "openai/gsm8k", "config": "main", "split": "test", "gold_format": "####", "count": 1319},
    "pocket-test": {"source": "pocket", "split": "test", "limit": 300, "max_tokens": 160},
    "pocket-test-hard": {"source": "pocket", "split": "test_hard", "limit": 200, "max_tokens": 200},
}

"""What a GPU's owner runs: `make test-gpu`. Nothing here is skipped: without a CUDA GPU every test is an error.

The tests marked `vllm` are left out, and that is said, only where no vLLM is installed (`scripts/visit.sh`).
"""

from importlib.util import find_spec

import pytest


def pytest_collection_modifyitems(config, items):
    if find_spec("vllm") is None:
        left_out = [item for item in items if item.get_closest_marker("vllm")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_report_header():
    return None if find_spec("vllm") else "vLLM is not installed: the tests that sample by it are left out."


@pytest.fixture(scope="session", autouse=True)
def gpu():
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(
            "These tests need a CUDA GPU and torch's CUDA build; `ssb doctor` says what is missing here."
        )
    return torch.cuda.get_device_name()

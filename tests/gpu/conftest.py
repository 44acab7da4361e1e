"""What a GPU's owner runs: `make test-gpu`. Nothing here is skipped: without a CUDA GPU every test is an error."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def gpu():
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(
            "These tests need a CUDA GPU and torch's CUDA build; `ssb doctor` says what is missing here."
        )
    return torch.cuda.get_device_name()

"""Settings of every test process."""

import os

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Leave the other cores to the other workers of pytest-xdist."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the programs that tests start

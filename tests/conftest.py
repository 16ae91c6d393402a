"""What all tests need."""

import os
import signal

import pytest
import torch

# Started in the background of a script, pytest ignores Ctrl-C, and so would the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; two threads in each would wait for one another
    torch.set_num_threads(1)


@pytest.fixture(params=["cpu", *["cuda"] * torch.cuda.is_available()], scope="module")
def device(request):
    """Each device that the values are compared on: what a test makes is made there. (MPS has no float64 to compare with.)"""
    torch.set_default_device(request.param)
    yield request.param
    torch.set_default_device(None)

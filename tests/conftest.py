"""What all tests need."""

import os
import signal

import torch

# Started in the background of a script, pytest ignores Ctrl-C, and so would the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; two threads in each would wait for one another
    torch.set_num_threads(1)

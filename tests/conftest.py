"""What all tests need."""

import signal

# Started in the background of a script, pytest ignores Ctrl-C, and so would the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

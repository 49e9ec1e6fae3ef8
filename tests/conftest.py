"""What all tests have in common."""

import signal

from hypothesis import settings

# The same examples each time, and as long as a busy machine takes.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")

# A shell ignores Ctrl-C for what it runs in the background, and so would the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

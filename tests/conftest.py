"""What all tests have in common."""

from hypothesis import settings

# The same examples each time, and as long as a busy machine takes.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")

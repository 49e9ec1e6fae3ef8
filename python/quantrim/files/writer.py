from .disk.writer import *  # noqa: F403

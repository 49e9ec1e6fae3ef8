from .disk.overlap import *  # noqa: F403

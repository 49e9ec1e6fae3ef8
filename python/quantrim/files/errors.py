from .disk.errors import *  # noqa: F403

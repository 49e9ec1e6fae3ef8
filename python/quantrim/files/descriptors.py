from .disk.descriptors import *  # noqa: F403

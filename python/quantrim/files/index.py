from .folder import *  # noqa: F403

from .disk.strict_json import *  # noqa: F403

from .disk.strict_json import collector_paused as collector_paused

"""Python in another process, where a test needs a fresh import or a life of its own."""

from __future__ import annotations

import os
import subprocess
import sys

PASSED_ON = (
    "PATH",
    "HOME",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "ASAN_OPTIONS",
    "PYTHONPATH",
    "TMPDIR",
    "VIRTUAL_ENV",
)


def child(
    code: str, *, limit: float = 60, command: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `code` with warnings as errors and little in the environment; fails after `limit` seconds.

    command: what runs Python, an emulator say.
    """
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | environment
    line = [*command, sys.executable, "-W", "error", "-c", code]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=limit, check=False)


def printed(code: str, *, limit: float = 60, command: tuple[str, ...] = (), **environment: str) -> str:
    """What the code prints; it must succeed without a word of complaint."""
    result = child(code, limit=limit, command=command, **environment)
    assert result.returncode == 0, result.stderr
    assert [x for x in result.stderr.splitlines() if not x.startswith("qemu-x86_64: warning")] == []
    return result.stdout.strip()

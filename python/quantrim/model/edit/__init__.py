"""Checkpoints cut, joined, without some of their neurons, or the same in fewer bytes."""

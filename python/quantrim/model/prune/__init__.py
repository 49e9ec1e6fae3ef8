"""Pruning of tensors before they are rounded, chunk by chunk: the same as the public functions prune of the whole."""

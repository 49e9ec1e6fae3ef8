"""From pruned weights to bytes: codes are found, encoded in a layout, written and measured."""

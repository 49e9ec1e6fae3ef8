"""What a tensor loses before it is rounded, chunk by chunk: what the public functions take from the whole."""

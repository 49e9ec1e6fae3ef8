"""Tensors on their way: in chunks, on all threads, under their own names whatever their layout is."""

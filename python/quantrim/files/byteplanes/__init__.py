"""Lossless files: byte planes that zstandard compresses, in a safetensors file that stands for another."""

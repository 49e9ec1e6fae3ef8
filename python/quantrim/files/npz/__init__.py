"""numpy's own formats: .npz, a zip of arrays, and .npy, one array."""

"""The plan: what is done to each tensor, in which layout and file, and how many bytes come of it."""

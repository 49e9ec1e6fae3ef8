"""Reports: what compression did and cost, and what is in a checkpoint."""

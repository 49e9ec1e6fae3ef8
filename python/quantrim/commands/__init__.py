"""The commands: for each a function that returns data, and one that prints it."""

"""What the command line does: for each command a function that returns data, and one that prints it."""

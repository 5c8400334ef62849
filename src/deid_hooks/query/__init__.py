"""Search: what a condition means, how terms are read, and the reference matcher."""

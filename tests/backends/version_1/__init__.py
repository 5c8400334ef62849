"""A log of version 1 in each database; see README.md."""

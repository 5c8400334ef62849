"""A log of version 2 in each database; see README.md."""

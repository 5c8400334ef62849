"""The records of the log: what they are, their digests, keys and seals, and their form as JSON."""

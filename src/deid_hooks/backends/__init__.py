"""Stores of the log: the contract that each keeps, and the stores of this package."""

"""What other systems kept of their de-identification, one module for each kind of file."""

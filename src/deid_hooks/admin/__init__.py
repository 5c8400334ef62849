"""What an administrator does with the log, apart from the terminal. Every look is recorded."""

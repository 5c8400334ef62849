"""What an administrator does with the log, apart from the terminal. Every access is recorded."""

"""The tables of the log in any SQL database: their columns, what rows hold, what a search asks."""

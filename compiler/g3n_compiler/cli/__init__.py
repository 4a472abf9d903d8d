"""The command line: one console script a verb."""

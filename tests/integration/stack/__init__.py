"""The stack's servers and processes, for real."""

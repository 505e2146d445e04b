"""The pure parts of the stack."""

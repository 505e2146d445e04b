"""Frozen records, enums and the exception tree: standard library only.

Every other layer speaks in these values; nothing here does anything.
"""

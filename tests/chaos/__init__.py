"""Kills and outages on the whole stack (``make chaos SEEDS=5``), named after what they attack."""

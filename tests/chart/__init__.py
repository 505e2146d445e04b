"""The chart, rendered by a real helm: ``make test-chart``."""

"""The executor under load for minutes: two schedulers, pods without processes, workers that run nothing.

``make load``; the page docs/explanation/scale.md carries what it finds to more tasks than it ran.
"""

"""Kills a scheduler at any line of a task's way, in seconds; for ``tests/chaos/test_every_step.py``."""

import pytest

pytest.register_assert_rewrite("tests.steps.stage")

"""Kills at each step, kills and outages on the whole stack (``make chaos``), named after what they attack."""

import pytest

pytest.register_assert_rewrite("tests.chaos.kill_suite", "tests.chaos.scene")

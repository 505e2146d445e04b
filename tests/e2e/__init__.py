"""The whole stack, from the DAG file to the end of its runs."""

import pytest

pytest.register_assert_rewrite("tests.e2e.examples_suite")

"""Kill -9 of what the stack stands on, in the middle of a run, and its return some seconds later."""

from tests.chaos.kill_suite import OutageSuite


class TestOutages(OutageSuite):
    """With the pods on the embedded cluster."""

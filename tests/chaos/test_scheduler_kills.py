"""Kill -9 of the scheduler: at random moments of a run, and in each gap of a task's golden path."""

from tests.chaos.kill_suite import SchedulerKillSuite


class TestSchedulerKills(SchedulerKillSuite):
    """With the pods on the embedded cluster."""

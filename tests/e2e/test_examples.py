"""Every DAG in dags/ on the whole stack, with its pods on the embedded cluster."""

from tests.e2e.examples_suite import ExamplesSuite


class TestExamplesOnTheEmbeddedCluster(ExamplesSuite):
    """As on any other."""

"""The whole product on one machine: servers from wheels, Airflow, a worker, Flower, and their keeper."""

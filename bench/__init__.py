"""This executor beside Airflow's own, measured in one run: ``make bench``; see README.md."""

"""How many workers a pool needs: the query that an autoscaler asks, and its text for the chart.

Pure: settings in, text out. ``airflow hybrid scaling`` prints and asks it,
``helm/generate_scaling.py`` writes it into the chart, and the autoscaler, which
is no part of Airflow, runs it on the metadata database.
"""

from hybrid_executor.scaling.query import Demand, Dialect, demand_of, in_flight_query, trigger_query

__all__ = ["Demand", "Dialect", "demand_of", "in_flight_query", "trigger_query"]

"""The ledger's live half, in Redis or Valkey: what is in flight now, and a stream of what has just changed.

A copy, never an authority: everything in it is written after the database has
it, may be lost at any time, and is made anew from the database. ``writer`` is
fed by the executor; ``reader`` serves results, status and doctor. The keys
stand in ``schema``. Knows nothing of Airflow.
"""

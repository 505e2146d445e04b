"""The ledger's migrations: run by Alembic alone, imported by nobody."""

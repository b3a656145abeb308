"""Alembic's migrations from one version of the journal's tables to the next.

A released migration is never changed. Migrations only add, so that processes of the
version before, which checked the tables when they began, can go on beside the new ones
during a deployment.
"""

"""The steps from one version of the journal's tables to the next, for Alembic.

A migration that was released is never changed. Each only adds, so that processes
of the version before, which have checked the tables when they began, go on beside
the new ones during a deployment.
"""

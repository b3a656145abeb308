"""Pages on which people see executions, and act on them."""

from __future__ import annotations

from .routes import add_console as add_console

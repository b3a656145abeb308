"""A filter for logs: drops what a view logs again, and says whose a record is."""

from __future__ import annotations

import logging

from .scope import current_scope
from .scope import running_step

PACKAGE = __name__.partition(".")[0]


class ReplayFilter(logging.Filter):
    """Drops what a view logs while it goes again through completed steps.

    Other records get ``execution_id``, ``attempt`` and ``step``, each ``None`` if
    there is none. Records of this package always pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to log a record, and note in it to what it belongs."""
        scope = current_scope.get()
        step = running_step.get()
        record.execution_id = scope.attempt.id if scope else None
        record.attempt = scope.attempt.attempt if scope else None
        record.step = step.id if step else None

        if scope is None or step is not None or not scope.attempt.walks_again:
            return True

        return record.name.partition(".")[0] == PACKAGE


replay_filter = ReplayFilter()
"""The filter, for handlers and loggers: ``handler.addFilter(replay_filter)``."""

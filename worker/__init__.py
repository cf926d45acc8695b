"""kzpark: Kazoo's `park` callflow action as a remote AMQP worker."""

from __future__ import annotations

__version__ = "0.1.0"

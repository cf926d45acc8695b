"""The exception tree.

    WorkerError
    ├── UsageError              a setting, argument or file the user gave is wrong      exit 2
    ├── BrokerError
    │   ├── BrokerUnreachableError   no connection could be made                        exit 3
    │   ├── BrokerTooOldError        the broker lacks streams (RabbitMQ < 3.9)          exit 4
    │   ├── BrokerConflictError      something exists with other arguments
    │   ├── BrokerLostError          the link died under the call
    │   └── QueueGoneError           a queue that should exist does not
    └── MalformedMessageError   a peer sent what the contract does not allow
        └── InvalidNodeError    the envelope is good, the node's data is not
"""

from __future__ import annotations


class WorkerError(Exception):
    """Root of everything this package raises on purpose. ``str(error)`` is one clear line."""


class UsageError(WorkerError):
    """The user gave something wrong; the text says what to do."""


class BrokerError(WorkerError):
    """Something about the broker."""


class BrokerUnreachableError(BrokerError):
    """No connection could be made."""


class BrokerTooOldError(BrokerError):
    """The broker has no streams."""


class BrokerConflictError(BrokerError):
    """An exchange or queue exists with other flags or arguments."""


class BrokerLostError(BrokerError):
    """The connection died."""


class QueueGoneError(BrokerError):
    """A queue that should exist does not."""


class MalformedMessageError(WorkerError):
    """A message that breaks its schema. ``pointer`` is the JSON pointer of the place."""

    def __init__(self, reason: str, pointer: str = "") -> None:
        super().__init__(f"{pointer or '/'}: {reason}")
        self.reason = reason
        self.pointer = pointer


class InvalidNodeError(MalformedMessageError):
    """The node's data is refused: the call goes on with *continue* (design §7)."""

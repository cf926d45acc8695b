"""Change notices of Kazoo's documents (contract §9.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.kapi.fields import Payload, required_text, text
from worker.parking.model import AccountId

_CHANGES: Final = frozenset({"doc_created", "doc_edited", "doc_deleted"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentChange:
    """A document was created, edited or deleted; its content is not in the notice."""

    event: str
    document: str
    database: str
    kind: str
    """The document's type, such as ``system_config``."""
    account: AccountId = AccountId("")


def parse_document_change(payload: Payload) -> DocumentChange | None:
    """A notice about a document; None for other messages of the exchange.

    Raises MalformedMessageError.
    """
    event = required_text(payload, "Event-Name")
    if event not in _CHANGES:
        return None
    return DocumentChange(
        event=event,
        document=required_text(payload, "ID"),
        database=text(payload, "Database"),
        kind=text(payload, "Type"),
        account=AccountId(text(payload, "Account-ID")),
    )

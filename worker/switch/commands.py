"""What ecallmgr demands of a channel command before it looks at it (contract §4.1, §4.2). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from worker.switch.wire import DroppedError, Payload

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "answer": (),
    "hold": (),
    "park": (),
    "break": (),
    "hangup": (),
    "noop": ("Msg-ID",),
    "play": ("Media-Name",),
    "say": ("Say-Text", "Language", "Type", "Method"),
    "set": ("Custom-Channel-Vars", "Custom-Call-Vars"),
    "bridge": ("Endpoints",),
    "call_pickup": ("Target-Call-ID",),
    "queue": ("Commands",),
}
"""Fields without which a command is dropped, besides Application-Name and Call-ID."""

INSERT_AT = frozenset({"now", "head", "tail", "flush"})
INVITE_FORMATS = frozenset(
    {
        *("endpoint", "route", "loopback", "forward", "username", "contact"),
        *("e164", "npan", "1npan", "strip_plus"),
    }
)


def check(command: Payload) -> None:
    """Raises DroppedError for a command whose schema does not hold: no error event is sent."""
    name = command.get("Application-Name")
    if not isinstance(name, str) or not name:
        raise DroppedError("command without Application-Name")
    if not isinstance(command.get("Call-ID"), str) or not command["Call-ID"]:
        raise DroppedError(f"{name} without Call-ID")
    missing = [field for field in REQUIRED.get(name, ()) if field not in command]
    if missing:
        raise DroppedError(f"{name} without {', '.join(missing)}")
    if any(value is None for value in command.values()):
        raise DroppedError(f"{name} with a null field")
    if command.get("Insert-At", "tail") not in INSERT_AT:
        raise DroppedError(f"{name} with Insert-At {command['Insert-At']!r}")
    if name == "set":
        _check_tables(command)
    if name == "bridge":
        _check_endpoints(command["Endpoints"])


def _check_tables(command: Payload) -> None:
    for field in ("Custom-Channel-Vars", "Custom-Call-Vars"):
        if not isinstance(command[field], dict):
            raise DroppedError(f"set with {field} that is no object")


def _check_endpoints(endpoints: object) -> None:
    if not isinstance(endpoints, list):
        raise DroppedError("bridge with Endpoints that is no list")
    for endpoint in endpoints:
        if not isinstance(endpoint, dict) or endpoint.get("Invite-Format") not in INVITE_FORMATS:
            raise DroppedError("bridge with an invalid endpoint")


def flatten(command: Payload) -> list[Payload]:
    """The commands of a ``queue`` in order of execution, others alone (contract §4.1).

    The last element runs first unless Insert-At is ``now``. Elements inherit the parent's
    default headers; their own Msg-ID wins."""
    if command["Application-Name"] != "queue":
        return [command]
    elements = command["Commands"]
    if not isinstance(elements, list):
        raise DroppedError("queue with Commands that is no list")
    inherited = {
        key: value
        for key, value in command.items()
        if key not in {"Application-Name", "Commands", "Insert-At"}
    }
    ordered = elements if command.get("Insert-At") == "now" else list(reversed(elements))
    commands: list[Payload] = []
    for element in ordered:
        if not isinstance(element, dict):
            raise DroppedError("queue with an element that is no object")
        whole: Payload = {**inherited, **element}
        check(whole)
        commands.append(whole)
    return commands

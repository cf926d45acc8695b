"""The applications a worker asks: sysconf and the registrar (contract §9). Pure."""

from __future__ import annotations

from worker.switch.plan import Device
from worker.switch.wire import Outgoing, Payload, split_address, text
from worker.switch.world import World


def sysconf_asked(world: World, request: Payload) -> None:
    """sysconf.get: the value, or the text ``undefined`` (contract §9.1)."""
    if not world.plan.alone or text(request, "Event-Name") != "get_req":
        return
    key = request.get("Key")
    name = key[0] if isinstance(key, list) and key else key
    value: object = "undefined"
    if text(request, "Category") == "callflow.park" and isinstance(name, str):
        value = world.plan.sysconf.get(name, "undefined")
    _answer(
        world,
        request,
        {
            "Event-Category": "sysconf",
            "Event-Name": "get_resp",
            "App-Name": "sysconf",
            "Category": text(request, "Category"),
            "Key": key,
            "Value": value,
        },
    )


def registration_asked(world: World, devices: dict[str, Device], request: Payload) -> None:
    """registration.query: every ecallmgr answers, one of them knows (contract §9.4)."""
    if text(request, "Event-Name") != "reg_query":
        return
    user, realm = text(request, "Username"), text(request, "Realm")
    known = [
        device
        for device in devices.values()
        if device.registered and device.username == user and device.realm == realm
    ]
    if not known and not world.plan.alone:
        return
    unknown: Payload = {
        "Event-Category": "directory",
        "Event-Name": "reg_query_error",
        "App-Name": "ecallmgr",
        "Registrations-Count": 0,
    }
    for _ in range(world.plan.ecallmgr_nodes - 1):
        _answer(world, request, unknown)
    if not known:
        _answer(world, request, unknown)
        return
    fields: list[Payload] = [
        {
            "Username": device.username,
            "Realm": device.realm,
            "Account-ID": device.account,
            "Account-Realm": device.realm,
            "Authorizing-ID": device.id,
            "Authorizing-Type": "device",
            "Contact": f"sip:{device.username}@10.0.0.9:5060",
        }
        for device in known
    ]
    _answer(
        world,
        request,
        {
            "Event-Category": "directory",
            "Event-Name": "reg_query_resp",
            "App-Name": "ecallmgr",
            "Fields": fields,
        },
    )


def _answer(world: World, request: Payload, answer: Payload) -> None:
    queue, headers = split_address(text(request, "Server-ID"))
    if not queue:
        return
    payload: Payload = {
        **answer,
        "App-Version": "4.0.0",
        "Node": world.node,
        "Msg-ID": text(request, "Msg-ID"),
    }
    world.publish(
        Outgoing(exchange="targeted", routing_key=queue, payload=payload, headers=headers)
    )

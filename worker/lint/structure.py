"""The schemas the worker itself uses, applied node by node.

Nodes are checked one at a time: a flow may be nested deeper than a validator can recurse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from worker.kapi.schema import load_schema
from worker.lint.scan import Path

_SHOWN_LENGTH = 60
_TYPES = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


@dataclass(frozen=True, slots=True)
class Misfit:
    """One place that breaks a schema. ``key``: the key itself is wrong, not its value.

    The message begins with the verb: what the place must be, or is.
    """

    path: Path
    message: str
    key: bool = False


@cache
def park_schema() -> dict[str, Any]:
    """The schema of the park node's data."""
    return dict(load_schema("callflows.park"))


@cache
def node_schema() -> dict[str, Any]:
    """The schema of one node, its children left aside."""
    whole = load_schema("callflow.node")
    properties = dict(whole["properties"])
    properties["children"] = {"type": properties["children"]["type"]}
    return {"type": whole["type"], "required": whole["required"], "properties": properties}


@cache
def _park_validator() -> Draft202012Validator:
    return Draft202012Validator(_inlined(park_schema(), park_schema()))


@cache
def _node_validator() -> Draft202012Validator:
    return Draft202012Validator(_inlined(node_schema(), node_schema()))


def park_misfits(data: object) -> Iterator[Misfit]:
    """What is wrong with a park node's data."""
    return _misfits(_park_validator(), data)


def node_misfits(node: object) -> Iterator[Misfit]:
    """What is wrong with a node's shape, its children's insides not looked at."""
    return _misfits(_node_validator(), node)


def node_keys() -> frozenset[str]:
    """Keys a node knows."""
    return frozenset(node_schema()["properties"])


def data_keys() -> frozenset[str]:
    """Keys the park node's data knows."""
    return frozenset(park_schema()["properties"])


def slot_keys() -> frozenset[str]:
    """Keys one entry of ``slots`` knows."""
    return frozenset(park_schema()["$defs"]["slot_options"]["properties"])


def shown(value: object) -> str:
    """A value as JSON, short enough for a message. Never recurses into what it shows."""
    if isinstance(value, dict | list):
        return _TYPES["object" if isinstance(value, dict) else "array"]
    if isinstance(value, str) and len(value) > _SHOWN_LENGTH:
        value = value[:_SHOWN_LENGTH] + "…"
    return json.dumps(value, ensure_ascii=False)


def _inlined(part: object, root: dict[str, Any]) -> Any:
    """The schema with its local references written out: twice as fast to check."""
    if isinstance(part, list):
        return [_inlined(item, root) for item in part]
    if not isinstance(part, dict):
        return part
    whole = {key: _inlined(value, root) for key, value in part.items() if key not in _ASIDE}
    if "$ref" in part:
        target: Any = root
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return {**_inlined(target, root), **whole}
    return whole


_ASIDE = frozenset({"$ref", "$defs", "description", "title", "default", "examples"})


def _misfits(validator: Draft202012Validator, instance: object) -> Iterator[Misfit]:
    for error in validator.iter_errors(instance):
        path = tuple(error.absolute_path)
        if "propertyNames" in error.absolute_schema_path:
            yield Misfit((*path, str(error.instance)), _phrase(error), key=True)
        else:
            yield Misfit(path, _phrase(error))


def _phrase(error: ValidationError) -> str:
    found = shown(error.instance)
    limit: Any = error.validator_value
    if error.validator == "type":
        return f"must be {_types(limit)}, not {found}"
    if error.validator == "enum":
        words = ", ".join(shown(word) for word in limit if word is not None)
        return f"must be one of {words}, not {found}"
    if error.validator == "required":
        instance: Any = error.instance
        missing = [key for key in limit if key not in instance]
        return f"has no {', '.join(shown(key) for key in missing)}"
    if error.validator == "maxLength":
        return f"is longer than {limit} characters"
    if error.validator == "minLength":
        return "must not be empty"
    if error.validator in {"minimum", "maximum"}:
        return f"must not be {'below' if error.validator == 'minimum' else 'above'} {limit}"
    if error.validator == "pattern":
        return f"must be a whole number of one to ten digits, not {found}"
    return f"breaks {error.validator} of the schema"


def _types(names: str | list[str]) -> str:
    listed = [names] if isinstance(names, str) else [name for name in names if name != "null"]
    return " or ".join(_TYPES[name] for name in listed)

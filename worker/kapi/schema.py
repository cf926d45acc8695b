"""The JSON Schemas of ``schemas/``: loading, validating, and saying what is wrong where."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from worker.errors import InvalidNodeError, MalformedMessageError
from worker.kapi.envelope import type_name
from worker.kapi.fields import child_pointer

NODE_SCHEMA: Final = "callflows.park"
"""The park node's ``data``."""

_Schema = dict[str, Any]
_ERRORS_LOOKED_AT: Final = 64
_REASON_CHARS: Final = 160
_ANNOTATIONS: Final = frozenset({"title", "description", "examples", "default", "$comment"})


def schema_dir() -> Path:
    """Where the schemas are: inside the installed package, else beside it in the source tree."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


@cache
def schema_names() -> tuple[str, ...]:
    """Every schema, by file name without ``.json``."""
    return tuple(sorted(path.name.removesuffix(".json") for path in schema_dir().glob("*.json")))


@cache
def load_schema(name: str) -> Mapping[str, Any]:
    """One schema as it stands in its file. Raises KeyError for a name that is none."""
    if name not in schema_names():
        raise KeyError(name)
    schema: _Schema = orjson.loads((schema_dir() / f"{name}.json").read_bytes())
    return schema


def validate(name: str, payload: object) -> None:
    """Check a message against a schema such as ``action.execute``.

    Raises MalformedMessageError with the one most telling error.
    """
    error = first_error(name, payload)
    if error is not None:
        raise MalformedMessageError(*error)


def validate_node(data: object) -> Mapping[str, object]:
    """Check a park node's data and return it.

    Raises InvalidNodeError; its pointer starts with ``/Data``.
    """
    error = first_error(NODE_SCHEMA, data)
    if error is not None:
        reason, pointer = error
        raise InvalidNodeError(reason, f"/Data{pointer}")
    if not isinstance(data, dict):
        raise InvalidNodeError(f"must be an object, is {type_name(data)}", "/Data")
    return data


def first_error(name: str, payload: object) -> tuple[str, str] | None:
    """Reason and JSON pointer of what is wrong with ``payload``; None when it is valid."""
    errors = _validator(name).iter_errors(payload)
    first = next(errors, None)
    if first is None:
        return None
    # Bounded: a large hostile message may have a hundred thousand errors.
    best = best_match(itertools.islice(itertools.chain([first], errors), _ERRORS_LOOKED_AT))
    return _describe(first if best is None else best)


@cache
def _validator(name: str) -> Draft202012Validator:
    schema = _prune(load_schema(name))
    return Draft202012Validator(schema, registry=_registry())


@cache
def _registry() -> Registry[Any]:
    """All schemas, by file name (as relative references name them) and by $id."""
    resources = []
    for name in schema_names():
        schema = load_schema(name)
        resource = Resource.from_contents(_prune(schema), default_specification=DRAFT202012)
        resources.append((f"{name}.json", resource))
        if "$id" in schema:
            resources.append((schema["$id"], resource))
    return Registry().with_resources(resources)


def _prune(schema: Any) -> Any:
    """The schema without what checks nothing: the validator walks every keyword there is."""
    if not isinstance(schema, Mapping):
        return schema
    pruned: _Schema = {}
    for keyword, value in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        if keyword in {"properties", "patternProperties", "$defs"}:
            pruned[keyword] = {name: _prune(child) for name, child in value.items()}
        elif keyword in {"allOf", "anyOf", "oneOf", "prefixItems"}:
            pruned[keyword] = [_prune(child) for child in value]
        else:
            pruned[keyword] = _prune(value) if keyword in _SUBSCHEMAS else value
    if not {"additionalProperties", "unevaluatedProperties"} & schema.keys():
        known = pruned.get("properties", {})
        pruned["properties"] = {name: child for name, child in known.items() if child != {}}
        if not pruned["properties"]:
            del pruned["properties"]
    return pruned


_SUBSCHEMAS: Final = frozenset(
    {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}
)


def _describe(error: ValidationError) -> tuple[str, str]:
    pointer = ""
    for part in error.absolute_path:
        pointer = child_pointer(pointer, str(part))
    keyword, expected, instance = str(error.validator), error.validator_value, error.instance
    if keyword == "required" and isinstance(instance, Mapping) and isinstance(expected, list):
        missing = next((name for name in expected if name not in instance), "")
        return "is required", child_pointer(pointer, missing)
    if keyword == "additionalProperties" and expected is False and isinstance(instance, Mapping):
        known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
        unknown = next((name for name in instance if name not in known), "")
        return "is not known", child_pointer(pointer, unknown)
    reason = _REASONS.get(keyword)
    return (_cut(error.message) if reason is None else _cut(reason(expected, instance))), pointer


def _type_reason(expected: Any, instance: object) -> str:
    allowed = [expected] if isinstance(expected, str) else expected
    return f"must be {_either(_ARTICLES.get(name, name) for name in allowed)}, is " + type_name(
        instance
    )


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _forbidden(schema: Any) -> str:
    """What a ``not`` says, in the two forms our schemas have."""
    return _either(map(_json, schema["enum"])) if "enum" in schema else str(schema.get("type"))


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


_ARTICLES: Final[Mapping[str, str]] = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "object": "an object",
    "array": "an array",
}
_REASONS: Final[Mapping[str, Callable[[Any, Any], str]]] = {
    "type": _type_reason,
    "enum": lambda expected, _: f"must be one of {', '.join(map(_json, expected))}",
    "const": lambda expected, _: f"must be {_json(expected)}",
    "pattern": lambda expected, _: f"must match {expected}",
    "minimum": lambda expected, _: f"must be at least {expected}",
    "maximum": lambda expected, _: f"must be at most {expected}",
    "minLength": lambda expected, _: (
        "must not be empty" if expected == 1 else f"must have at least {expected} characters"
    ),
    "maxLength": lambda expected, _: f"must have at most {expected} characters",
    "minItems": lambda expected, _: f"must have at least {expected} items",
    "maxItems": lambda expected, _: f"must have at most {expected} items",
    "minProperties": lambda expected, _: f"must have at least {expected} keys",
    "maxProperties": lambda expected, _: f"must have at most {expected} keys",
    "not": lambda expected, _: f"must not be {_forbidden(expected)}",
}


def _cut(text: str) -> str:
    return text if len(text) <= _REASON_CHARS else f"{text[:_REASON_CHARS]}…"

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.engines.draw import Draw
from spark_helium.gpu_executor.engines.json_sampler import compile_schema

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "children", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}

SCHEMAS: list[Any] = [
    True,
    {},
    {"type": "string"},
    {"type": "string", "minLength": 30, "maxLength": 31},
    {"type": "string", "maxLength": 2},
    {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$", "maxLength": 5},
    *({"type": "string", "format": name} for name in ("date", "time", "date-time", "email", "ipv4", "ipv6", "uuid")),
    {"type": "integer"},
    {"type": "integer", "minimum": 5, "maximum": 5},
    {"type": "integer", "minimum": -3.5, "exclusiveMaximum": 0},
    {"type": "integer", "maximum": -1},
    {"type": "integer", "multipleOf": 7, "minimum": 50, "maximum": 60},
    {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    {"type": "number"},
    {"type": "number", "minimum": 0.25, "maximum": 0.25},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "exclusiveMinimum": 0.001, "exclusiveMaximum": 0.0011},
    {"type": "number", "multipleOf": 3, "minimum": 4},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"]},
    {"type": ["integer", "null"], "minimum": 3},
    {"enum": ["a", 1, None, {"b": [2]}]},
    {"type": "string", "enum": ["a", 1, None]},
    {"const": {"a": [1, "two"]}},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]},
    {"type": "object", "properties": {"a": True}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": ["null", "array"]}]},
    {"oneOf": [{"const": 1}, {"const": 2}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "null"}}, "required": ["b"]},
        ]
    },
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
    {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False, "minItems": 2},
    {"type": "array", "maxItems": 0},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["b"]},
    {"type": "object", "properties": {"a": True, "b": True, "c": True}, "minProperties": 2, "maxProperties": 2},
    {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 2, "maxProperties": 3},
    {"type": "object", "required": ["unlisted"], "additionalProperties": {"type": "null"}},
    {"properties": {"a": {"minimum": 3}}, "required": ["a"], "title": "no types at all", "default": {}},
    TREE,
    {"$defs": {"a/b": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/a~1b", "minimum": 7}}},
]


def check(schema: Any, text: str) -> None:
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(json.loads(text))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_draws_valid_instances(schema: Any) -> None:
    sample = compile_schema(json.dumps(schema))
    for seed in range(100):
        check(schema, sample(Draw(seed)))


def test_keeps_the_order_of_properties_and_escapes_text() -> None:
    schema = {"properties": {"z": {"const": 'a "b"\n'}, "a": {"const": "ü"}}, "required": ["z", "a"]}
    assert compile_schema(json.dumps(schema))(Draw(1)) == '{"z": "a \\"b\\"\\n", "a": "ü"}'


def test_optional_parts_come_and_go() -> None:
    sample = compile_schema('{"properties": {"a": {"type": ["string", "null"]}}}')
    kinds = {type(json.loads(sample(Draw(seed))).get("a", 0)) for seed in range(100)}
    assert kinds == {str, type(None), int}


scalars = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda low, width: {"type": "integer", "minimum": low, "maximum": low + width},
              st.integers(-1000, 1000), st.integers(0, 50)),
    st.builds(lambda low, width: {"type": "number", "minimum": low, "exclusiveMaximum": low + width},
              st.floats(-1e6, 1e6).map(lambda x: round(x, 4)), st.integers(1, 9)),
    st.builds(lambda low, width: {"type": "string", "minLength": low, "maxLength": low + width},
              st.integers(0, 40), st.integers(0, 9)),
    st.builds(lambda values: {"enum": values}, st.lists(st.integers() | st.text(max_size=3), min_size=1, max_size=4)),
)  # fmt: skip


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def table(properties: dict[str, Any], optional: int, extra: bool) -> dict[str, Any]:
        required = list(properties)[optional:]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": extra}

    return st.one_of(
        st.builds(table, st.dictionaries(st.text(max_size=4), inner, max_size=4), st.integers(0, 4), st.booleans()),
        st.builds(
            lambda item, low, width: {"type": "array", "items": item, "minItems": low, "maxItems": low + width},
            inner, st.integers(0, 4), st.integers(0, 3),
        ),
        st.builds(lambda alternatives: {"anyOf": alternatives}, st.lists(inner, min_size=1, max_size=3)),
    )  # fmt: skip


@given(schema=st.recursive(scalars, nested, max_leaves=12), seed=st.integers(0, 2**64 - 1))
def test_draws_valid_instances_of_made_up_schemas(schema: dict[str, Any], seed: int) -> None:
    check(schema, compile_schema(json.dumps(schema))(Draw(seed)))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{nope", "not JSON"),
        ("[]", "must be an object"),
        ("false", "allows no value"),
        ('{"type": "objekt"}', "'objekt' is not a type"),
        ('{"not": {"type": "string"}}', "keyword 'not'"),
        ('{"type": "integer", "minimum": 2, "maximum": 1}', "no number satisfies"),
        ('{"type": "string", "minLength": 2, "maxLength": 1}', "from 2 to 1"),
        ('{"type": "string", "pattern": "("}', "cannot be used"),
        ('{"type": "string", "format": "date", "maxLength": 3}', "found no text"),
        ('{"type": "array", "minItems": 2, "maxItems": 1}', "2 items or more and allows 1"),
        ('{"type": "array", "items": {"const": 1}, "uniqueItems": true, "minItems": 2}', "no 2 different items"),
        ('{"type": "object", "required": ["a"], "additionalProperties": false}', "requires 'a'"),
        ('{"type": "object", "minProperties": 2, "maxProperties": 1}', "maxProperties"),
        ('{"type": "string", "enum": [1]}', "no value of enum"),
        ('{"$ref": "#/nowhere"}', "leads nowhere"),
        ('{"$ref": "#"}', "circle"),
        ('{"$ref": "https://example.org/schema"}', "only references within"),
        ('{"oneOf": [{"type": "integer"}, {"type": "number"}]}', "oneOf only where"),
        ('{"allOf": [{"minimum": 1}, {"minimum": 2}]}', "both say 'minimum'"),
        ('{"$defs": {"a": {"properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}, "$ref": "#/$defs/a"}',
         "without end"),
    ],
)  # fmt: skip
def test_says_why_a_schema_cannot_be_used(schema: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compile_schema(schema)(Draw(1))

"""JSON values that are valid for a JSON schema, drawn deterministically. The simulator's form of guided decoding."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from spark_helium.gpu_executor.engines.draw import Draw
from spark_helium.gpu_executor.engines.regex_sampler import compile_regex

Node = Callable[[Draw, int], Any]  # the second argument is how deep the value stands

_MAX_DEPTH = 48
_SHALLOW = 8  # from this depth on only what must be there is drawn, so that recursive schemas end
_TRIES = 64
_EXTRA_ITEMS = 3

_ANNOTATIONS = frozenset(
    "$schema $id $comment $defs $anchor definitions title description default examples deprecated readOnly writeOnly "
    "contentMediaType contentEncoding".split()
)
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset("properties required additionalProperties minProperties maxProperties".split()),
    "array": frozenset("items prefixItems minItems maxItems uniqueItems".split()),
    "string": frozenset("minLength maxLength pattern format".split()),
    "number": frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()),
    "boolean": frozenset(),
    "null": frozenset(),
}
_ALL_KEYWORDS = frozenset().union(*_KEYWORDS.values()) | {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def compile_schema(text: str) -> Callable[[Draw], str]:
    """A function that draws JSON texts valid for the schema in ``text``.

    Raises
    ------
    ValueError
        The schema is not JSON, uses a keyword that the simulator does not know, or contradicts itself.
        Drawing raises it too, when no valid value was found in a number of tries.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"the JSON schema is not JSON: {e}") from e
    try:
        root = _Compiler(schema).node(schema)
    except RecursionError:
        raise ValueError("the JSON schema is nested too deeply") from None
    return lambda draw: json.dumps(root(draw, 0), ensure_ascii=False)


class _Compiler:
    """Turns schemas into nodes. References are compiled once, so that a schema may contain itself."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._references: dict[str, Node | None] = {}

    def node(self, schema: Any) -> Node:
        if schema is True or schema == {}:
            return lambda draw, depth: draw.word()
        if schema is False:
            raise ValueError("the JSON schema allows no value at all (false)")
        if not isinstance(schema, dict):
            raise ValueError(f"a JSON schema must be an object or a boolean, not {schema!r}")
        schema = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
        unknown = sorted(schema.keys() - _ALL_KEYWORDS)
        if unknown:
            raise ValueError(f"the simulator does not know the JSON schema keyword {unknown[0]!r}")
        for combine in ("allOf", "anyOf", "oneOf"):
            if combine in schema:
                rest = {key: value for key, value in schema.items() if key != combine}
                return self._combined(combine, schema[combine], rest)
        if "$ref" in schema:
            return self._reference(schema)
        if "const" in schema:
            return self._enumeration([schema["const"]], schema)
        if "enum" in schema:
            return self._enumeration(schema["enum"], schema)
        return self._typed(schema)

    # -- combinations -------------------------------------------------------------------------------------

    def _combined(self, combine: str, alternatives: Any, rest: dict[str, Any]) -> Node:
        if not isinstance(alternatives, list) or not alternatives:
            raise ValueError(f"{combine} of a JSON schema must be a list that is not empty")
        if combine == "allOf":
            merged = rest
            for part in alternatives:
                merged = _merge(merged, self._resolved(part))
            return self.node(merged)
        schemas = [_merge(rest, alternative) if rest else alternative for alternative in alternatives]
        if combine == "oneOf":
            self._check_exclusive(schemas)
        nodes = [self.node(schema) for schema in schemas]
        # Deep down the alternative that nests least comes first.
        flattest = sorted(range(len(nodes)), key=lambda i: _nesting(self._resolved(schemas[i])))[0]

        def node(draw: Draw, depth: int) -> Any:
            chosen = flattest if depth >= _SHALLOW else draw.below(len(nodes))
            return nodes[chosen](draw, depth)

        return node

    def _check_exclusive(self, schemas: list[Any]) -> None:
        seen: set[str] = set()
        for schema in schemas:
            resolved = self._resolved(schema)
            if "const" in resolved:
                marks = {json.dumps(resolved["const"], sort_keys=True)}
            elif "type" in resolved:
                marks = {"number" if kind == "integer" else kind for kind in _as_list(resolved["type"])}
            else:
                marks = {""}
            if marks & seen or marks == {""}:
                raise ValueError("the simulator takes oneOf only where the alternatives differ in type or in const")
            seen |= marks

    def _reference(self, schema: dict[str, Any]) -> Node:
        name = schema["$ref"]
        if len(schema) > 1:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return self.node(_merge(rest, self._resolved({"$ref": name})))
        if name not in self._references:
            self._references[name] = None  # a schema that contains itself finds this and looks again when drawing
            self._references[name] = self.node(self._resolved(schema))

        def node(draw: Draw, depth: int) -> Any:
            if depth > _MAX_DEPTH:
                raise ValueError(f"the JSON schema {name} nests in itself without end")
            target = self._references[name]
            assert target is not None, f"the JSON schema {name} was drawn from before it was compiled"
            return target(draw, depth + 1)

        return node

    def _resolved(self, schema: Any) -> Any:
        """``schema`` with a reference at its top replaced by what it leads to."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema if isinstance(schema, dict) else {}
            name = schema["$ref"]
            if not isinstance(name, str) or not name.startswith("#"):
                raise ValueError(f"the simulator follows only references within the JSON schema, not {name!r}")
            found = self._root
            try:
                for step in name.removeprefix("#").strip("/").split("/") if name != "#" else ():
                    step = step.replace("~1", "/").replace("~0", "~")
                    found = found[int(step)] if isinstance(found, list) else found[step]
            except (KeyError, IndexError, ValueError, TypeError):
                raise ValueError(f"the reference {name!r} of the JSON schema leads nowhere") from None
            schema = found
        raise ValueError("references of the JSON schema lead in a circle")

    def _enumeration(self, values: Any, schema: dict[str, Any]) -> Node:
        kinds = _as_list(schema.get("type", list(_TYPES)))
        allowed = [value for value in values if any(_has_type(value, kind) for kind in kinds)]
        if not allowed:
            raise ValueError(f"no value of enum or const of the JSON schema has the type {schema.get('type')!r}")
        return lambda draw, depth: allowed[draw.below(len(allowed))]

    # -- types --------------------------------------------------------------------------------------------

    def _typed(self, schema: dict[str, Any]) -> Node:
        kinds = _as_list(schema["type"]) if "type" in schema else [_implied_type(schema)]
        makers: dict[str, Callable[[dict[str, Any]], Node]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": lambda schema: self._number(schema, whole=True),
            "number": lambda schema: self._number(schema, whole=False),
            "boolean": lambda schema: lambda draw, depth: draw.below(2) == 1,
            "null": lambda schema: lambda draw, depth: None,
        }
        for kind in kinds:
            if kind not in makers:
                raise ValueError(f"{kind!r} is not a type of JSON schema; types are {', '.join(_TYPES)}")
        nodes = [makers[kind](schema) for kind in kinds]
        if len(nodes) == 1:
            return nodes[0]
        flattest = min(range(len(nodes)), key=lambda i: kinds[i] in ("object", "array"))

        def node(draw: Draw, depth: int) -> Any:
            return nodes[flattest if depth >= _SHALLOW else draw.below(len(nodes))](draw, depth)

        return node

    def _object(self, schema: dict[str, Any]) -> Node:
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        extra = schema.get("additionalProperties", True)
        unlisted = [name for name in schema.get("required", ()) if name not in properties]
        least = schema.get("minProperties", 0)
        most = schema.get("maxProperties")
        if unlisted and extra is False:
            raise ValueError(f"the JSON schema requires {unlisted[0]!r} and does not allow it")
        if most is not None and (most < least or most < len(required)):
            raise ValueError(f"the JSON schema asks for more properties than maxProperties = {most}")
        if extra is False and least > len(properties):
            raise ValueError(f"the JSON schema asks for minProperties = {least} and allows {len(properties)}")
        fields = [(name, self.node(value), name in required) for name, value in properties.items()]
        extra_node = None if extra is False else self.node(extra)
        optional = [name for name, _, needed in fields if not needed]
        # A schema of additionalProperties alone is a map: give it entries.
        is_map = isinstance(extra, dict) and bool(extra) and not properties

        def node(draw: Draw, depth: int) -> Any:
            room = math.inf if most is None else most - len(required)
            missing = max(0, least - len(required))
            chosen = set()
            for position, name in enumerate(optional):
                must = len(optional) - position <= missing
                if room > 0 and (must or (depth < _SHALLOW and draw.below(4) > 0)):
                    chosen.add(name)
                    room -= 1
                    missing -= 1
            value = {name: item(draw, depth + 1) for name, item, needed in fields if needed or name in chosen}
            if extra_node is None:
                return value
            for name in unlisted:
                value[name] = extra_node(draw, depth + 1)
            wanted = draw.between(1, 3) if is_map and depth < _SHALLOW else 0
            target = max(least, min(len(value) + wanted, len(value) + room))
            while len(value) < target:
                name = draw.word()
                value[name if name not in value and name not in properties else f"{name}_{len(value)}"] = extra_node(
                    draw, depth + 1
                )
            return value

        return node

    def _array(self, schema: dict[str, Any]) -> Node:
        heads = [self.node(item) for item in schema.get("prefixItems", ())]
        items = schema.get("items", True)
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, len(heads)) + _EXTRA_ITEMS)
        if items is False:
            most = min(most, len(heads))
        tail = None if items is False or most <= len(heads) else self.node(items)
        unique = schema.get("uniqueItems", False)
        if least > most:
            raise ValueError(f"the JSON schema asks for {least} items or more and allows {most}")
        most = min(most, max(least, len(heads)) + _EXTRA_ITEMS)

        def node(draw: Draw, depth: int) -> Any:
            wanted = least if depth >= _SHALLOW else draw.between(least, most)
            values: list[Any] = []
            seen: set[str] = set()
            while len(values) < wanted:
                item = heads[len(values)] if len(values) < len(heads) else tail
                assert item is not None, "an array was to get more items than its schema allows"
                value = item(draw, depth + 1)
                if unique:
                    tries = 1
                    while (mark := json.dumps(value, sort_keys=True)) in seen and tries < _TRIES:
                        value = item(draw, depth + 1)
                        tries += 1
                    if mark in seen:
                        if len(values) >= least:
                            break
                        raise ValueError(f"the simulator found no {least} different items for the JSON schema")
                    seen.add(mark)
                values.append(value)
            return values

        return node

    def _string(self, schema: dict[str, Any]) -> Node:
        least = schema.get("minLength", 0)
        most = schema.get("maxLength", math.inf)
        if least > most:
            raise ValueError(f"the JSON schema asks for texts from {least} to {most} characters")
        text: Callable[[Draw], str]
        if "pattern" in schema:
            text = compile_regex(schema["pattern"])
        elif schema.get("format") in _FORMATS:
            text = _FORMATS[schema["format"]]
        else:
            return lambda draw, depth: _words(draw, least, most)

        def node(draw: Draw, depth: int) -> Any:
            for _ in range(_TRIES):
                value = text(draw)
                if least <= len(value) <= most:
                    return value
            raise ValueError(f"the simulator found no text of {least} to {most} characters for the JSON schema")

        return node

    def _number(self, schema: dict[str, Any], whole: bool) -> Node:
        step = schema.get("multipleOf")
        if whole and (step is None or Decimal(str(step)) % 1 != 0):
            if step is not None and 1 % Decimal(str(step)) != 0:
                raise ValueError(f"the simulator cannot draw integers with multipleOf = {step}")
            step = 1
        lows = [Decimal(str(schema[key])) for key in ("minimum", "exclusiveMinimum") if key in schema]
        highs = [Decimal(str(schema[key])) for key in ("maximum", "exclusiveMaximum") if key in schema]
        if step is not None:
            unit = Decimal(str(step))
            if unit <= 0:
                raise ValueError(f"multipleOf of a JSON schema must be above 0, not {step}")
        else:
            unit = Decimal("0.01")
            if lows and highs and max(lows) < min(highs):
                while (min(highs) - max(lows)) < 4 * unit:  # a narrow range needs finer steps
                    unit /= 10
        first = max((math.ceil(low / unit) for low in lows), default=None)
        last = min((math.floor(high / unit) for high in highs), default=None)
        above = Decimal(str(schema.get("exclusiveMinimum", "-Infinity")))
        below = Decimal(str(schema.get("exclusiveMaximum", "Infinity")))
        if first is not None and first * unit <= above:
            first += 1
        if last is not None and last * unit >= below:
            last -= 1
        if first is None:
            first = 0 if last is None or last >= 0 else last - 999
        if last is None:
            last = first + 999
        if step is None and first > last:  # a single number that is no multiple of the step
            only = max(lows)
            if only == min(highs) and not {"exclusiveMinimum", "exclusiveMaximum"} & schema.keys():
                return lambda draw, depth: float(only)
        if first > last:
            bounds = {key: schema[key] for key in sorted(_KEYWORDS["number"] & schema.keys())}
            raise ValueError(f"no number satisfies {bounds} of the JSON schema")

        def node(draw: Draw, depth: int) -> Any:
            value = draw.between(first, last) * unit
            return int(value) if value % 1 == 0 and (whole or step is not None) else float(value)

        return node


def _words(draw: Draw, least: int, most: float) -> str:
    text = " ".join([draw.word() for _ in range(draw.between(1, 4))])
    while len(text) < least:
        text += " " + draw.word()
    return text if len(text) <= most else text[: int(most)].rstrip().ljust(least, "x")


def _date(draw: Draw) -> str:
    return f"{draw.between(2000, 2030)}-{draw.between(1, 12):02d}-{draw.between(1, 28):02d}"


def _time(draw: Draw) -> str:
    return f"{draw.below(24):02d}:{draw.below(60):02d}:{draw.below(60):02d}"


def _hex(draw: Draw, digits: int) -> str:
    return f"{draw.below(16**digits):0{digits}x}"


_FORMATS: Mapping[str, Callable[[Draw], str]] = {
    "date": _date,
    "time": lambda draw: _time(draw) + "Z",
    "date-time": lambda draw: f"{_date(draw)}T{_time(draw)}Z",
    "email": lambda draw: f"{draw.word()}@{draw.word()}.example",
    "hostname": lambda draw: f"{draw.word()}.example",
    "uri": lambda draw: f"https://{draw.word()}.example/{draw.word()}",
    "ipv4": lambda draw: ".".join(str(draw.below(256)) for _ in range(4)),
    "ipv6": lambda draw: ":".join(_hex(draw, 4) for _ in range(8)),
    "uuid": lambda draw: f"{_hex(draw, 8)}-{_hex(draw, 4)}-4{_hex(draw, 3)}-a{_hex(draw, 3)}-{_hex(draw, 12)}",
}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _implied_type(schema: dict[str, Any]) -> str:
    return next((kind for kind, keywords in _KEYWORDS.items() if keywords & schema.keys()), "string")


def _has_type(value: Any, kind: str) -> bool:
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
    return isinstance(value, dict)


def _nesting(schema: Any) -> int:
    if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
        return 0
    kinds = _as_list(schema.get("type", _implied_type(schema)))
    return 0 if all(kind not in ("object", "array") for kind in kinds) and "anyOf" not in schema else 1


def _merge(left: Any, right: Any) -> dict[str, Any]:
    """One schema that asks for what both ask for.

    Raises
    ------
    ValueError
        Both say something else about the same keyword.
    """
    if not isinstance(left, dict) or not isinstance(right, dict):
        raise ValueError("the simulator combines only JSON schemas that are objects")
    merged = dict(left)
    for key, value in right.items():
        if key not in merged or merged[key] == value or key in _ANNOTATIONS:
            merged[key] = value
        elif key == "required":
            merged[key] = [*merged[key], *(name for name in value if name not in merged[key])]
        elif key == "properties":
            both = {name: _merge(merged[key][name], value[name]) for name in value if name in merged[key]}
            merged[key] = {**merged[key], **value, **both}
        else:
            raise ValueError(f"the simulator cannot combine two JSON schemas that both say {key!r}")
    return merged

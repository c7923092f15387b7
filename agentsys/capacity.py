"""How many bits a value of a fixed schema can carry: the bound on what an influencer can say through it."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel

BITS_PER_CHARACTER = math.log2(0x110000)
BITS_PER_NUMBER = 64.0


def capacity_of(schema: type[BaseModel]) -> float:
    """Return the base-2 logarithm of the number of values ``schema`` admits; infinite for unbounded text."""
    document = schema.model_json_schema()
    return _bits(document, document.get("$defs", {}), frozenset())


def _bits(node: dict[str, Any], definitions: dict[str, Any], open_references: frozenset[str]) -> float:
    if "$ref" in node:
        name = str(node["$ref"]).rpartition("/")[2]
        if name in open_references:
            return math.inf
        return _bits(definitions[name], definitions, open_references | {name})
    if "const" in node:
        return 0.0
    if "enum" in node:
        return math.log2(len(node["enum"]))
    for union in ("anyOf", "oneOf"):
        if union in node:
            return _log2_sum([_bits(option, definitions, open_references) for option in node[union]])
    return _bits_of_type(node, definitions, open_references)


def _bits_of_type(node: dict[str, Any], definitions: dict[str, Any], open_references: frozenset[str]) -> float:
    match node.get("type"):
        case "null":
            return 0.0
        case "boolean":
            return 1.0
        case "integer":
            return _integer_bits(node)
        case "number":
            return BITS_PER_NUMBER
        case "string":
            length = node.get("maxLength")
            return math.inf if length is None else length * BITS_PER_CHARACTER
        case "array":
            return _array_bits(node, definitions, open_references)
        case "object" if "properties" in node and not node.get("additionalProperties"):
            return _record_bits(node, definitions, open_references)
        case _:
            return math.inf


def _record_bits(node: dict[str, Any], definitions: dict[str, Any], open_references: frozenset[str]) -> float:
    required, total = node.get("required", []), 0.0
    for name, part in node["properties"].items():
        bits = _bits(part, definitions, open_references)
        # That a field is left out says something, too.
        total += bits if name in required else _log2_sum([bits, 0.0])
    return total


def _integer_bits(node: dict[str, Any]) -> float:
    low = node.get("minimum", node.get("exclusiveMinimum"))
    high = node.get("maximum", node.get("exclusiveMaximum"))
    if low is None or high is None:
        return math.inf
    count = math.floor(high) - math.ceil(low) + 1 - ("exclusiveMinimum" in node) - ("exclusiveMaximum" in node)
    return math.log2(count) if count > 0 else 0.0


def _array_bits(node: dict[str, Any], definitions: dict[str, Any], open_references: frozenset[str]) -> float:
    if "prefixItems" in node:
        return sum(_bits(part, definitions, open_references) for part in node["prefixItems"])
    longest = node.get("maxItems")
    if longest is None:
        return math.inf
    item = _bits(node.get("items", {}), definitions, open_references)
    return _log2_sum([item * length if length else 0.0 for length in range(node.get("minItems", 0), longest + 1)])


def _log2_sum(bits: list[float]) -> float:
    """Return log2 of the sum of ``2**b``, without overflow."""
    largest = max(bits)
    return largest if math.isinf(largest) else largest + math.log2(sum(2.0 ** (b - largest) for b in bits))

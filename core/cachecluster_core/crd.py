"""The CustomResourceDefinitions, generated from the models: what pydantic says, made structural for the API server."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from .cluster_status import CacheClusterStatus
from .map_schema import HashRingSchema
from .spec import CacheClusterSpec
from .spec_parts import rule

GROUP = "cachecluster.io"
VERSION = "v1alpha1"
MAX_NAME = 52
"""Of a cluster's name: pods, services and secrets append to it and must stay DNS labels of 63 characters."""

Schema = dict[str, Any]

_KEPT_WHOLE = "x-kubernetes-int-or-string"
_DROPPED = ("$defs", "title", "additionalProperties")


def to_structural(schema: Schema, definitions: Schema | None = None) -> Schema:
    """A pydantic JSON schema as the structural schema that CRDs demand.

    References are put in line (what stands beside one wins), `X | None` becomes a nullable-free optional X, `const`
    an `enum`, tuples plain lists, and defaults of objects are written as `{}` so that nested defaults show.
    """
    definitions = definitions if definitions is not None else schema.get("$defs", {})
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    if schema.get(_KEPT_WHOLE):
        return {key: value for key, value in schema.items() if key not in _DROPPED}
    if "anyOf" in schema:
        schema = _without_null(schema)
        return to_structural(schema, definitions)
    result = {key: value for key, value in schema.items() if key not in _DROPPED}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if "properties" in result:
        result["properties"] = {
            name: _with_object_default(to_structural(item, definitions)) for name, item in result["properties"].items()
        }
    if "items" in result:
        result["items"] = to_structural(result["items"], definitions)
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = to_structural(schema["additionalProperties"], definitions)
    if result.get("type") == "integer":
        result["format"] = "int64"
    if result.get("default", ...) in (None, [], ()):
        del result["default"]
    return result


def _without_null(schema: Schema) -> Schema:
    """`anyOf: [X, null]` as X: an optional field is one that may be left out."""
    choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
    assert len(choices) == 1, f"not an optional of one type: {schema['anyOf']}"
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**choices[0], **rest}


def _with_object_default(schema: Schema) -> Schema:
    """Objects whose fields have defaults get `{}` as their own, unless a field is required or nothing has one."""
    nested = schema.get("properties", {})
    if nested and "required" not in schema and any("default" in item for item in nested.values()):
        return {**schema, "default": {}}
    return schema


def _schema_of(model: type[BaseModel]) -> Schema:
    return to_structural(model.model_json_schema(by_alias=True))


def _without_defaults(schema: Schema) -> Schema:
    """For what the operator writes itself: what is stored is what it wrote, or it would see a difference for ever."""
    result = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in result:
        result["properties"] = {name: _without_defaults(item) for name, item in result["properties"].items()}
    if "items" in result:
        result["items"] = _without_defaults(result["items"])
    return result


def _crd(kind: str, plural: str, short: str, version: Schema) -> Schema:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["cachecluster"],
            },
            "versions": [{"name": VERSION, "served": True, "storage": True, **version}],
        },
    }


def _root(described: str, required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "description": described, "required": required, "properties": properties}


def _column(name: str, path: str, kind: str = "string", priority: int = 0, described: str = "") -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path, "description": described}
    return {**column, "priority": priority} if priority else column


def cache_cluster_crd() -> Schema:
    """The CRD of `CacheCluster`."""
    schema = _root(
        "A Redis cache that any client can use: partitioned over nodes, replicated, and repaired by itself.",
        ["spec"],
        spec=_schema_of(CacheClusterSpec),
        status=_without_defaults(_schema_of(CacheClusterStatus)),
    )
    schema["x-kubernetes-validations"] = [
        rule(
            f"self.metadata.name.size() <= {MAX_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            f"metadata.name must begin with a letter and have at most {MAX_NAME} lower case letters, digits and"
            " hyphens: it is the first part of the names of pods and services",
        )
    ]
    columns = [
        _column("Ready", ".status.conditions[?(@.type=='Ready')].status", described="Every partition is served."),
        _column("Nodes", ".status.nodesReady", described="Ready pods of those asked for."),
        _column("Partitions", ".status.partitionsServed", described="Served partitions of all."),
        _column("Usable", ".status.memory.usable", priority=1, described="Data that the cluster can hold."),
        _column("Message", ".status.message", priority=1, described="What is being done, or waited for."),
        _column("Age", ".metadata.creationTimestamp", "date", described="Time since it was created."),
    ]
    scale = {
        "specReplicasPath": ".spec.nodes",
        "statusReplicasPath": ".status.nodes",
        "labelSelectorPath": ".status.selector",
    }
    version = {
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, "scale": scale},
        "additionalPrinterColumns": columns,
    }
    return _crd("CacheCluster", "cacheclusters", "cc", version)


def hash_ring_crd() -> Schema:
    """The CRD of `HashRing`, the map."""
    spec = _without_defaults(_schema_of(HashRingSchema))
    version = {
        "schema": {"openAPIV3Schema": _root("The map of one CacheCluster.", ["spec"], spec=spec)},
        "additionalPrinterColumns": [
            _column("Partitions", ".spec.partitions", "integer", described="Number of partitions."),
            _column("Engine", ".spec.settings.engine", described="The engine of the cluster."),
            _column("Age", ".metadata.creationTimestamp", "date", described="Time since it was created."),
        ],
    }
    return _crd("HashRing", "hashrings", "hr", version)


def custom_resource_definitions() -> dict[str, Schema]:
    """Both CRDs by the name of the file that they are written to."""
    return {"cacheclusters.yaml": cache_cluster_crd(), "hashrings.yaml": hash_ring_crd()}

"""The CRDs in the repository are what the models say, and their schemas are what the API server takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cachecluster_core.crd import cache_cluster_crd, custom_resource_definitions, hash_ring_crd
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_core.map_schema import EntrySchema, HashRingSchema
from cachecluster_operator.write_crds import crd_files, main

pytestmark = pytest.mark.t0

FOLDERS = ("crds", "charts/cachecluster-operator/crds")


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", custom_resource_definitions())
def test_file_is_current(folder: str, name: str) -> None:
    assert (Path(folder) / name).read_text() == crd_files()[name], "run `make crds`"


def test_no_other_files_beside_them() -> None:
    for folder in FOLDERS:
        assert {path.name for path in Path(folder).glob("*.yaml")} == set(crd_files())


def test_writer_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 64
    assert "usage" in capsys.readouterr().err


def test_writer_writes_both(tmp_path: Path) -> None:
    assert main([str(tmp_path / "new")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(crd_files())


def _schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, item in schema.get("properties", {}).items():
        yield from _schemas(item, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _schemas(schema[key], f"{path}[]")


@pytest.mark.parametrize("crd", [cache_cluster_crd(), hash_ring_crd()], ids=lambda crd: crd["spec"]["names"]["kind"])
def test_schema_is_structural_and_described(crd: dict[str, Any]) -> None:
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, schema in _schemas(root):
        assert not {"$ref", "$defs", "const", "prefixItems"} & set(schema), path
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        if path and not path.endswith("[]"):
            assert schema.get("description"), f"{path} has no text for kubectl explain"


def test_map_schema_knows_every_field_of_the_map() -> None:
    primary, replica = CopyId("pod-a", "run-1"), CopyId("pod-b", "run-2")
    entries = (
        Entry(epoch=3, state=State.STABLE, primary=primary, isr=(primary, replica), learners=("pod-c",), term=3),
        Entry(epoch=4, state=State.ELECTING, isr=(replica,), former=(primary,), term=3),
        Entry(epoch=5, state=State.MOVING, primary=primary, isr=(primary, replica), successor=replica, term=3),
        Entry(),
    )
    ring = HashRing(name="demo", members=(("pod-a", Member("demo-0", "10.0.0.1", leaving=True)),), entries=entries)
    spec = ring.to_spec()
    HashRingSchema.model_validate(spec)
    schema = hash_ring_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert set(spec) == set(schema)
    assert set(spec["settings"]) == set(schema["settings"]["properties"])
    assert {key for member in spec["members"] for key in member} == set(schema["members"]["items"]["properties"])
    assert {key for entry in spec["entries"] for key in entry} == set(schema["entries"]["items"]["properties"])
    assert {field.name for field in fields(Entry)} == set(EntrySchema.model_fields)


def test_unknown_fields_of_the_map_are_kept() -> None:
    spec = hash_ring_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    kept = [path for path, schema in _schemas(spec) if schema.get("x-kubernetes-preserve-unknown-fields")]
    assert sorted(kept) == ["", ".entries[]", ".members[]", ".settings"]

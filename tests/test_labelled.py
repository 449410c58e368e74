"""Annotation files, and which class is which category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent import labelled
from edge_agent.errors import ConfigError


def coco(path: Path, names: list[str], **more: Any) -> Path:
    data = {
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [{"image_id": 7, "category_id": 10 * number, "bbox": [1, 2, 3, 4]} for number in range(1, len(names) + 1)],
    }
    path.write_text(json.dumps({**data, **more}))
    return path


def test_labels_of_other_sets_are_matched_by_name(tmp_path: Path) -> None:
    truth = labelled.load(coco(tmp_path / "x.json", ["person", "cell phone", "dining table", "tv"]))
    found = labelled.mapping(["???", "Person", "Boot", "Mobile_phone", "Table", "tvmonitor"], None, truth)
    assert found.category_of == {1: 10, 3: 20, 5: 40}
    assert found.unmapped_labels == ("Boot", "Table")
    assert found.unmapped_categories == ("dining table",)
    assert not found.assumed


def test_a_model_without_names_is_taken_in_the_order_of_ids_only_if_the_counts_agree(tmp_path: Path) -> None:
    truth = labelled.load(coco(tmp_path / "x.json", ["person", "car"]))
    assert labelled.mapping([], 2, truth) == labelled.Mapping({0: 10, 1: 20}, (), (), assumed=True)
    with pytest.raises(ConfigError, match="no class names"):
        labelled.mapping([], 3, truth)
    with pytest.raises(ConfigError, match="none of the model's classes"):
        labelled.mapping(["forklift"], 1, truth)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "no table"),
        ('{"images": []}', "'categories' is missing"),
        ('{"images": [], "categories": [], "annotations": []}', "lists no images"),
        ('{"images": [], "categories": [], "annotations": [{"image_id": 1}]}', "'bbox' is missing"),
    ],
)  # fmt: skip
def test_what_is_no_coco_file_is_said_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        labelled.load(tmp_path / "x.json")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "x.json") in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.json cannot be read: No such file"):
        labelled.load(tmp_path / "nowhere.json")
    truth = labelled.load(coco(tmp_path / "x.json", ["person"]))
    with pytest.raises(ConfigError, match=r"holds none of the 1 pictures .* such as 'a.jpg'"):
        labelled.pictures(tmp_path, truth)
    with pytest.raises(ConfigError, match="does not exist"):
        labelled.pictures(tmp_path / "b", truth)
    (tmp_path / "a.jpg").write_bytes(b"")
    assert labelled.pictures(tmp_path, truth) == [(7, tmp_path / "a.jpg")]

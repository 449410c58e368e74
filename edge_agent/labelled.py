"""Labelled pictures in COCO's format: what is there to be found, and which of a model's classes can find it.

Format: https://cocodataset.org/#format-data, object detection: ``images`` (id, file_name), ``categories`` (id, name),
``annotations`` (image_id, category_id, bbox as left, top, width, height; iscrowd).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.errors import ConfigError

_NO_CLASS = {"", "???", "background", "__background__", "none", "n/a"}
_SYNONYMS = {
    "aeroplane": "airplane",
    "cellphone": "cell phone",
    "computer keyboard": "keyboard",
    "computer mouse": "mouse",
    "diningtable": "dining table",
    "hairdryer": "hair drier",
    "hair dryer": "hair drier",
    "mobile phone": "cell phone",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "houseplant": "potted plant",
    "sofa": "couch",
    "sofa bed": "couch",
    "television": "tv",
    "television set": "tv",
    "tvmonitor": "tv",
    "microwave oven": "microwave",
    "doughnut": "donut",
    "racket": "tennis racket",
}
"""Names of Pascal VOC and Open Images beside COCO's, for what is the same thing. Not "Table", which is more than a dining table."""


@dataclass(frozen=True)
class Truth:
    """An annotation file."""

    path: Path
    data: dict[str, Any]
    """As pycocotools wants it: boxes with area and iscrowd."""
    image_ids: dict[str, int]
    """By file name."""
    categories: dict[str, int]
    """Category ids by name, in the order of the ids."""


def load(path: Path) -> Truth:
    """Read an annotation file. Raises ConfigError for one that cannot be read or is not COCO."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--annotations: {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"--annotations: {path} is not JSON") from None
    try:
        return _checked(path, data)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"--annotations: {path} is not a COCO annotation file ({reason}); it needs images (id, file_name), categories (id, name) "
            "and annotations (image_id, category_id, bbox)"
        ) from None


def _checked(path: Path, data: dict[str, Any]) -> Truth:
    if not isinstance(data, dict):
        raise TypeError("it is no table")
    images = {str(image["file_name"]).rpartition("/")[2]: int(image["id"]) for image in data["images"]}
    categories = {str(c["name"]): int(c["id"]) for c in sorted(data["categories"], key=lambda c: int(c["id"]))}
    boxes = []
    for number, box in enumerate(data["annotations"], 1):
        left, top, width, height = (float(value) for value in box["bbox"])
        boxes.append(
            {
                "id": number,
                "image_id": int(box["image_id"]),
                "category_id": int(box["category_id"]),
                "bbox": [left, top, width, height],
                "area": float(box.get("area", width * height)),
                "iscrowd": int(box.get("iscrowd", 0)),
            }
        )
    if not images or not categories or not boxes:
        raise ValueError("it lists no images, no categories or no boxes")
    known = {"images": [{"id": number} for number in images.values()], "categories": data["categories"], "annotations": boxes}
    return Truth(path, known, images, categories)


def pictures(folder: Path, truth: Truth) -> list[tuple[int, Path]]:
    """Image ids and files of the annotated pictures that the folder holds. Raises ConfigError where there are none."""
    if not folder.is_dir():
        raise ConfigError(f"--images: {folder} is no folder" if folder.exists() else f"--images: {folder} does not exist")
    found = [(number, folder / name) for name, number in sorted(truth.image_ids.items()) if (folder / name).is_file()]
    if not found:
        some = next(iter(truth.image_ids))
        raise ConfigError(f"--images: {folder} holds none of the {len(truth.image_ids)} pictures that {truth.path} names, such as {some!r}")
    return found


@dataclass(frozen=True)
class Mapping:
    """Which category each class of a model is."""

    category_of: dict[int, int]
    """Category ids by class id."""
    unmapped_labels: tuple[str, ...]
    """Classes of the model that the annotations do not have."""
    unmapped_categories: tuple[str, ...]
    """Categories with boxes that the model cannot name; they count neither for it nor against it."""
    assumed: bool = False
    """The model has no names, and as many classes as there are categories: taken to be in the order of the ids."""


def mapping(labels: Sequence[str], class_count: int | None, truth: Truth) -> Mapping:
    """Match classes to categories by name. Raises ConfigError where nothing matches."""
    assumed = not labels and class_count == len(truth.categories)
    if assumed:
        labels = list(truth.categories)
    if not labels:
        raise ConfigError("this model has no class names, so nothing can be compared; give them with --labels FILE (one name a line)")
    by_name = {_plain(name): number for name, number in truth.categories.items()}
    category_of, unmapped = {}, []
    for class_id, label in enumerate(labels):
        if _plain(label) in by_name:
            category_of[class_id] = by_name[_plain(label)]
        elif label.strip().lower() not in _NO_CLASS:
            unmapped.append(label)
    if not category_of:
        mine, theirs = ", ".join(labels[:5]), ", ".join(list(truth.categories)[:5])
        raise ConfigError(f"none of the model's classes ({mine} ...) is a category of {truth.path} ({theirs} ...)")
    with_boxes = {box["category_id"] for box in truth.data["annotations"]}
    lost = tuple(n for n, number in truth.categories.items() if number in with_boxes and number not in set(category_of.values()))
    return Mapping(category_of, tuple(unmapped), lost, assumed)


def _plain(name: str) -> str:
    """A name for comparison: without case, underscores and synonyms."""
    plain = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
    return _SYNONYMS.get(plain, plain)

"""``edge-agent model eval``: average precision by pycocotools, through the very preprocess and postprocess of the line.

AP is COCO's: the mean over IoU 0.50 to 0.95 of the precision at 101 recalls, then over the categories that have boxes; AP50
is that at IoU 0.50. What the model cannot name by the annotations' names is left out and said.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent import config_file, labelled, plugins
from edge_agent.detections import Detections
from edge_agent.errors import ConfigError, EdgeAgentError
from edge_agent.image import BgrImage, Image, Pixels
from edge_agent.labelled import Mapping, Truth
from edge_agent.models import _loading
from edge_agent.models.base import Model, Thresholds, Timings

THRESHOLDS = Thresholds(confidence=0.01, iou=0.6, max_detections=100)
"""Low, so that the whole curve of precision over recall is seen."""
_SURE = 0.3
_COLLAPSED = 0.4
_ENOUGH = 8
_SIZES_WRONG = (
    "the boxes do not fit: {} confident detections lie on an object of their class, but the typical one covers {:.2f} times its "
    "area. In a quantized model that is an output whose one scale cannot hold box terms and scores at once; in another, a wrong "
    "family or input size"
)
_NOTHING_FOUND = "next to nothing was found: are the labels in the model's order, and family and colours those of its training?"


@dataclass(frozen=True)
class ModelOptions:
    """How a file is to be read where it does not tell itself; as in [model] of agent.toml."""

    labels: Path | None = None
    family: str | None = None
    input_size: tuple[int, int] | None = None
    threads: int = 1


@dataclass(frozen=True)
class ClassScore:
    """One category. ``ap`` and ``ap50`` are None where no picture has it."""

    name: str
    ap: float | None
    ap50: float | None
    boxes: int
    """How many there are to be found, crowds aside."""


@dataclass(frozen=True)
class Score:
    """Average precision over all categories that the model can name."""

    ap: float
    ap50: float
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True)
class Evaluation:
    """What ``model eval`` reports."""

    model: str
    family: str
    runtime: str
    precision: str
    images: int
    score: Score
    ms: dict[str, float]
    """Medians of preprocess, infer and postprocess, on this machine as it was."""
    unmapped_labels: tuple[str, ...]
    unmapped_categories: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def load_model(path: Path, options: ModelOptions) -> Model:
    """A detector as the daemon loads it. Raises ConfigError, ModelError."""
    table: dict[str, Any] = {"path": str(path.absolute()), "threads": options.threads, "lanes": 1}
    if options.labels is not None:
        table["labels"] = str(options.labels.absolute())
    if options.family is not None:
        table["family"] = options.family
    if options.input_size is not None:
        table["input_size"] = list(options.input_size)
    tables = {"model": table, "cameras": [{"id": "images", "source": "synthetic"}]}
    model = _loading.load(config_file.build(tables, plugins.PluginKinds(), environ={})).lanes[0]
    if model.family.task != "detection":
        raise ConfigError(f"{path} is a model for {model.family.task}; only detectors can be judged, by their boxes")
    return model


def evaluate(path: Path, folder: Path, annotation_file: Path, options: ModelOptions, progress: Callable[[int, int], None]) -> Evaluation:
    """Run a model over labelled pictures. ``progress`` is told how many of how many are done.

    Raises ConfigError for files that are not what they should be, ModelError for what the model cannot do.
    """
    require_pycocotools()
    truth = labelled.load(annotation_file)
    files = labelled.pictures(folder, truth)
    model = load_model(path, options)
    classes = labelled.mapping(model.labels, model.family.class_count, truth)
    found: dict[int, Detections] = {}
    timings: list[Timings] = []
    warnings = [*model.family.doubts(), *mapping_warnings(classes, truth, len(files))]
    for done, (number, file) in enumerate(files, 1):
        try:
            prediction = model(read_picture(file), THRESHOLDS)
        except UnreadablePicture as error:
            warnings.append(str(error))
            continue
        found[number] = prediction.detections
        timings.append(prediction.timings)
        progress(done, len(files))
    if not found:
        raise ConfigError(f"--images: none of the {len(files)} pictures in {folder} can be read")
    result = score(truth, classes, found)
    warnings += doubts(truth, classes, found, result)
    graph = model.graph
    stages = ("preprocess", "infer", "postprocess")
    ms = {stage: round(float(np.median([getattr(t, stage) for t in timings])), 2) for stage in stages}
    return Evaluation(
        path.name, model.family.name, graph.runtime, graph.precision, len(found), result, ms,
        classes.unmapped_labels, classes.unmapped_categories, tuple(warnings),
    )  # fmt: skip


class UnreadablePicture(EdgeAgentError):
    """One picture that cannot be read; the others may."""


def read_picture(path: Path) -> Image:
    """A still picture. Raises UnreadablePicture."""
    import cv2

    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except OSError as error:
        raise UnreadablePicture(f"{path}: {error.strerror}") from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UnreadablePicture(f"{path} is no picture that can be read: left out")
    picture: Pixels = np.asarray(pixels, np.uint8)
    return BgrImage(picture)


def mapping_warnings(classes: Mapping, truth: Truth, pictures: int) -> list[str]:
    """What is left out of the comparison, for a person."""
    warnings = []
    if classes.assumed:
        warnings.append("the model has no class names: its classes are taken to be the categories in the order of their ids")
    if pictures < len(truth.image_ids):
        warnings.append(f"only {pictures} of the {len(truth.image_ids)} annotated pictures are in the folder")
    if classes.unmapped_labels:
        warnings.append(
            f"{len(classes.unmapped_labels)} of the model's classes are not in the annotations: {_some(classes.unmapped_labels)}"
        )
    if classes.unmapped_categories:
        left_out = f"{len(classes.unmapped_categories)} annotated categories are no class of the model, and are left out"
        warnings.append(f"{left_out}: {_some(classes.unmapped_categories)}")
    return warnings


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def require_pycocotools() -> None:
    """Raises ConfigError with what to install."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise ConfigError('average precision needs the package pycocotools: pip install "edge-agent[eval]"') from None


def score(truth: Truth, classes: Mapping, found: dict[int, Detections]) -> Score:
    """Average precision of what was found, by image id."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    category_ids = sorted(set(classes.category_of.values()))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        wanted = COCO()
        wanted.dataset = truth.data
        wanted.createIndex()
        rows = list(_rows(classes, found))
        judge = COCOeval(wanted, wanted.loadRes(rows or [_nothing(category_ids[0], next(iter(found)))]), "bbox")
        judge.params.catIds = category_ids
        judge.params.imgIds = sorted(found)
        judge.evaluate()
        judge.accumulate()
    # [IoU, recall, category, area, most detections]: all areas, 100 detections; -1 where there is nothing to be found
    precision: NDArray[np.float64] = judge.eval["precision"][:, :, :, 0, 2]
    names = {number: name for name, number in truth.categories.items()}
    boxes = _boxes_by_category(truth, found)
    columns = enumerate(category_ids)
    per_class = [ClassScore(names[c], _mean(precision[:, :, k]), _mean(precision[0, :, k]), boxes.get(c, 0)) for k, c in columns]
    return Score(_mean(precision) or 0.0, _mean(precision[0]) or 0.0, tuple(per_class))


def _nothing(category: int, image: int) -> dict[str, Any]:
    """What stands for nothing, as pycocotools takes no empty list: a box of no size at the lowest confidence finds nothing."""
    return {"image_id": image, "category_id": category, "bbox": [0.0, 0.0, 0.0, 0.0], "score": 0.0}


def _rows(classes: Mapping, found: dict[int, Detections]) -> Iterable[dict[str, Any]]:
    for image, seen in found.items():
        for box, confidence, class_id in zip(seen.xyxy.tolist(), seen.confidence.tolist(), seen.class_id.tolist(), strict=True):
            if class_id in classes.category_of:
                left, top, right, bottom = box
                place = [left, top, right - left, bottom - top]
                yield {"image_id": image, "category_id": classes.category_of[class_id], "bbox": place, "score": confidence}


def _mean(precision: NDArray[np.float64]) -> float | None:
    valid = precision[precision > -1]
    return round(float(valid.mean()), 4) if valid.size else None


def _boxes_by_category(truth: Truth, found: dict[int, Detections]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for box in truth.data["annotations"]:
        if box["image_id"] in found and not box["iscrowd"]:
            counts[box["category_id"]] = counts.get(box["category_id"], 0) + 1
    return counts


def doubts(truth: Truth, classes: Mapping, found: dict[int, Detections], result: Score) -> list[str]:
    """What the detections themselves say against the model: boxes of the wrong size where the class and place are right."""
    ratios = _size_ratios(truth, classes, found)
    if len(ratios) >= _ENOUGH and not _COLLAPSED < (typical := float(np.median(ratios))) < 1 / _COLLAPSED:
        return [_SIZES_WRONG.format(len(ratios), typical)]
    if result.ap50 < 0.01:
        return [_NOTHING_FOUND]
    return []


def _size_ratios(truth: Truth, classes: Mapping, found: dict[int, Detections]) -> list[float]:
    """Area of each confident detection over that of the smallest object of its class around its centre."""
    objects: dict[tuple[int, int], list[list[float]]] = {}
    for box in truth.data["annotations"]:
        objects.setdefault((box["image_id"], box["category_id"]), []).append(box["bbox"])
    ratios = []
    for image, seen in found.items():
        for box, confidence, class_id in zip(seen.xyxy.tolist(), seen.confidence.tolist(), seen.class_id.tolist(), strict=True):
            if confidence < _SURE:
                break  # most confident first
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            around = objects.get((image, classes.category_of.get(class_id, -1)), [])
            areas = [w * h for left, top, w, h in around if left <= x <= left + w and top <= y <= top + h and w * h > 0]
            if areas:
                ratios.append((box[2] - box[0]) * (box[3] - box[1]) / min(areas))
    return ratios

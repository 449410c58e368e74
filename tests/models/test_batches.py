"""Pictures inferred together come to what each comes to alone; and what takes only one, or exactly so many, is known at load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_agent.errors import ConfigError, ModelError, PictureUnusable
from edge_agent.image import BgrImage, Image, JpegImage
from edge_agent.models import _batches, _families, _loading, _trial
from edge_agent.models._preprocess import InputFormat, Preprocessor
from edge_agent.models._rows import why_not_together
from edge_agent.models._threads import FILE, LONGEST_S, Subject
from edge_agent.models.base import NOT_NUMBERS, Model, Prediction, Thresholds
from edge_agent.runtimes import onnx as onnx_runtime
from edge_agent.runtimes.base import Runtime, RuntimeContext
from tests.conftest import MODEL, make_config
from tests.models.files import load, one_object, write

THRESHOLDS = Thresholds(0.2, 0.45, 10)
Array = NDArray[np.float32]


def seeing(
    path: Path, head: Array, gain: Array, *, batch: int | str = "batch", kept: int = -1, twice: bool = False, odd: bool = False
) -> Path:
    """A graph whose output for a picture is ``head`` and ``gain`` times its mean (0..1), [batch, ...].

    ``kept``: the batch that a reshape in its middle insists on; ``odd``: no number for a black picture; ``twice``: rows are mixed.
    """
    ones = [1] * (head.ndim - 1)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Div", ["mean", "mean"], ["one"]),
        helper.make_node("Mul", ["mean", "one" if odd else "unit"], ["level"]),
        helper.make_node("Reshape", ["level", "shape"], ["levels"]),
        helper.make_node("Mul", ["levels", "gain"], ["more"]),
        helper.make_node("Add", ["more", "head"], ["apart"]),
        helper.make_node("ReduceMean", ["apart"], ["all"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["all" if twice else "apart", "unit"], ["scaled"]),
        helper.make_node("Add", ["scaled", "nothing"], ["boxes"]),
        helper.make_node("Mul", ["apart", "zero"], ["nothing"]),
    ]
    nodes = [*nodes[:8], nodes[9], nodes[8]]
    constants = [
        numpy_helper.from_array(np.array([kept, *ones], np.int64), "shape"),
        numpy_helper.from_array(gain, "gain"),
        numpy_helper.from_array(head, "head"),
        numpy_helper.from_array(np.ones((), np.float32), "unit"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    picture = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 96, 64])
    output = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [batch, *head.shape[1:]])
    model = helper.make_model(
        helper.make_graph(nodes, "seeing", [picture], [output], constants), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def yolov8() -> tuple[Array, Array]:
    """One object, the further right and the surer the brighter the picture."""
    head, gain = np.zeros((1, 11, 126), np.float32), np.zeros((1, 11, 126), np.float32)
    head[0, :4, 7] = [22, 48, 20, 10]
    head[0, 7, 7] = 0.5
    gain[0, 0, 7], gain[0, 7, 7] = 20, 0.3
    return head, gain


def end_to_end() -> tuple[Array, Array]:
    head, gain = np.zeros((1, 20, 6), np.float32), np.zeros((1, 20, 6), np.float32)
    head[0, 3] = [5, 6, 20, 30, 0.5, 2]
    gain[0, 3] = [10, 0, 10, 0, 0.3, 0]
    return head, gain


def classify() -> tuple[Array, Array]:
    head, gain = np.zeros((1, 10), np.float32), np.zeros((1, 10), np.float32)
    head[0, 4], gain[0, 4] = 4, 3
    return head, gain


FAMILIES = {"yolov8": yolov8, "end_to_end": end_to_end, "classify": classify}


def pictures() -> list[Image]:
    """Wide, tall and fitting ones, each of its own brightness."""
    sizes = [(40, 200), (200, 40), (96, 64), (48, 32)]
    return [BgrImage(np.full((*size, 3), 30 + 60 * place, np.uint8)) for place, size in enumerate(sizes)]


def same(a: Prediction | Exception, b: Prediction | Exception) -> bool:
    assert isinstance(a, Prediction)
    assert isinstance(b, Prediction)
    found = [(each.detections.xyxy, each.detections.confidence, each.detections.class_id) for each in (a, b)]
    classes = [(each.classes.confidence, each.classes.class_id) if each.classes is not None else () for each in (a, b)]
    pairs = zip((*found[0], *classes[0]), (*found[1], *classes[1]), strict=True)
    return all(one.shape == other.shape and bool(np.allclose(one, other, atol=1e-4)) for one, other in pairs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("declared", "kept"), [("batch", -1), (1, -1), (4, 4)])
def test_each_of_several_is_what_it_is_alone(tmp_path: Path, family: str, declared: int | str, kept: int) -> None:
    """Of a file whose batch is open, of one whose batch of 1 can be opened, and of one that is made for exactly 4."""
    path = seeing(tmp_path / "m.onnx", *FAMILIES[family](), batch=declared, kept=kept)
    model = load(path, family=family, batch=4)
    assert model.batch == 4
    assert model.graph.inputs[0].shape == (1, 3, 96, 64)
    alone = [load(path, family=family)(image, THRESHOLDS) for image in pictures()]
    for count in (4, 3, 2, 1, 4):
        together = model.together(pictures()[:count], [THRESHOLDS] * count)
        assert [same(a, b) for a, b in zip(together, alone[:count], strict=True)] == [True] * count
        assert all(isinstance(each, Prediction) and each.timings.together == count for each in together)
    assert not same(alone[0], alone[3]), "else rows could be mixed up unseen"
    assert same(model(pictures()[2], THRESHOLDS), alone[2]), "one at a time as well"


def test_each_picture_has_its_own_thresholds(tmp_path: Path) -> None:
    model = load(seeing(tmp_path / "m.onnx", *yolov8()), batch=2)
    strict, loose = Thresholds(0.9, 0.45, 10), THRESHOLDS
    one, other = model.together(pictures()[:2], [strict, loose])
    assert isinstance(one, Prediction)
    assert isinstance(other, Prediction)
    assert (len(one.detections), len(other.detections)) == (0, 1)


def test_a_picture_that_cannot_be_read_is_lost_alone(tmp_path: Path) -> None:
    model = load(seeing(tmp_path / "m.onnx", *yolov8()), batch=4)
    alone = [model(image, THRESHOLDS) for image in pictures()]
    images = [pictures()[0], JpegImage(b"\xff\xd8 torn", 40, 30), pictures()[1], pictures()[3]]
    found = model.together(images, [THRESHOLDS] * 4)
    assert isinstance(found[1], PictureUnusable)
    assert all(same(found[at], alone[number]) for at, number in ((0, 0), (2, 1), (3, 3)))
    torn = model.together([images[1]] * 2, [THRESHOLDS] * 2)
    assert [type(each) for each in torn] == [PictureUnusable, PictureUnusable], "and nothing is inferred where none is left"


def test_numbers_that_are_none_lose_only_their_row(tmp_path: Path) -> None:
    model = load(seeing(tmp_path / "m.onnx", *yolov8(), odd=True), batch=2)
    black = BgrImage(np.zeros((96, 64, 3), np.uint8))
    lost, found = model.together([black, pictures()[0]], [THRESHOLDS] * 2)
    assert isinstance(lost, ModelError)
    assert str(lost) == NOT_NUMBERS
    assert isinstance(found, Prediction)
    assert len(found.detections) == 1


@pytest.mark.parametrize("flaw", [{"batch": 1, "kept": 1}, {"batch": "batch", "twice": True}, {"batch": "batch", "kept": 1}])
def test_a_file_that_takes_one_at_a_time_is_refused_by_name_with_what_to_do(tmp_path: Path, flaw: dict[str, Any]) -> None:
    path = seeing(tmp_path / "one.onnx", *yolov8(), **flaw)
    with pytest.raises(ConfigError, match=r"model\.batch: .*one\.onnx takes one picture at a time, not 2: .*dynamic.*batch = 1"):
        load(path, batch=2)
    assert load(path).batch == 1, "and is used for one"
    assert load(path, batch="auto").batch == 1


def test_check_says_so_too(tmp_path: Path) -> None:
    path = seeing(tmp_path / "one.onnx", *yolov8(), batch=1, kept=1)
    config = make_config({"model": {"path": str(path), "batch": 2}, "cameras": [{"id": "x", "source": "synthetic"}]})
    with pytest.raises(ConfigError, match="one picture at a time"):
        _trial.attempt(config, infer=False, only_file=True)


def test_an_output_that_has_no_row_for_each_picture_is_refused(tmp_path: Path) -> None:
    rows = np.zeros((0, 7), np.float32)  # as NMS inside the graph leaves them: of whichever picture
    path = write(tmp_path / "m.onnx", one_object(), rows, picture=("batch", 3, 96, 64))
    runtime = onnx_runtime.build(RuntimeContext(path, 1, batch=2), onnx_runtime.Config())
    why = why_not_together(runtime, Preprocessor(runtime.spec.inputs[0], InputFormat("RGB", "none")))
    assert "'output1' [0, 7] has no row for each picture" in why


def test_a_file_made_for_exactly_so_many_is_filled_with_what_is_there(tmp_path: Path) -> None:
    path = seeing(tmp_path / "m.onnx", *yolov8(), batch=3, kept=3)
    model = load(path)  # nothing is said of a batch
    assert model.batch == 3
    images, own = pictures(), [THRESHOLDS]
    full = model.together(images[:3], own * 3)
    assert same(model.together(images[1:2], own)[0], full[1]), "what is left in the other rows is nothing to it"
    assert load(path, batch=8).batch == 3


def test_the_built_in_model_takes_one_at_a_time_and_says_so() -> None:
    with pytest.raises(ConfigError, match=r"takes one picture at a time, not 2.*batch=2 of Ultralytics"):
        load(MODEL, batch=2)


@pytest.mark.parametrize("value", [0, -1, 65, True, "many"])
def test_a_batch_out_of_all_reason_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"model\.batch"):
        make_config({"model": {"batch": value}, "cameras": [{"id": "x", "source": "synthetic"}]})


class Measure:
    """Answers as a machine whose frames per second are given by the batch would; the clock advances by what it takes."""

    def __init__(self, path: Path, rates: dict[int, float], took_s: float = 0.1) -> None:
        self.path, self.rates, self.took_s = path, rates, took_s
        self.now = 0.0
        self.measured = 0
        self.opened: list[int] = []

    def rate(self, _runtimes: Sequence[Runtime], _seconds: float, pictures: int) -> float:
        self.now += self.took_s
        self.measured += 1
        return self.rates[pictures]

    def open_lanes(self, batch: int) -> tuple[list[Runtime], list[Model]]:
        self.opened.append(batch)
        runtime = onnx_runtime.build(RuntimeContext(self.path, 1, batch=batch), onnx_runtime.Config())
        return [runtime], [Model(runtime, _families.family_for(runtime.spec, None), ())]

    def choose(self, folder: Path | None) -> int:
        what = Subject("abc", None, 4, 0, "batch")
        found = _batches.chosen(self.open_lanes(1), self.open_lanes, what, folder, rate=self.rate, clock=lambda: self.now)
        assert found.batch == found.lanes[0].batch
        self.why = found.why
        return found.batch


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1: 100, 2: 150, 4: 220}, 4),
        ({1: 100, 2: 150, 4: 160}, 2),
        ({1: 100, 2: 109, 4: 109}, 1),
        ({1: 100, 2: 105, 4: 111}, 4),
        ({1: 100, 2: 90, 4: 300}, 1),  # not even looked at
    ],
)
def test_auto_takes_a_batch_only_where_it_brings_a_tenth_and_keeps_the_answer(
    tmp_path: Path, rates: dict[int, float], expected: int
) -> None:
    measure = Measure(seeing(tmp_path / "m.onnx", *yolov8()), rates)
    assert measure.choose(tmp_path) == expected, measure.why
    measured = measure.measured
    assert measure.choose(tmp_path) == expected
    assert measure.measured == measured, "measured once"


def test_auto_does_not_measure_for_ever(tmp_path: Path) -> None:
    measure = Measure(seeing(tmp_path / "m.onnx", *yolov8()), {1: 1, 2: 2, 4: 4}, took_s=LONGEST_S)
    assert measure.choose(None) in {1, 2}
    assert measure.now <= 3 * LONGEST_S
    assert "no time" in measure.why


def test_auto_keeps_that_a_file_takes_one_and_measures_nothing(tmp_path: Path) -> None:
    measure = Measure(seeing(tmp_path / "m.onnx", *yolov8(), batch=1, kept=1), {})
    assert measure.choose(tmp_path) == 1
    assert "not 2 together" in measure.why
    assert measure.measured == 0
    assert (tmp_path / FILE).exists()


def test_auto_of_one_live_camera_measures_nothing(tmp_path: Path) -> None:
    path = seeing(tmp_path / "m.onnx", *yolov8())
    config = make_config({"model": {"path": str(path), "batch": "auto", "threads": 1}, "cameras": [{"id": "x", "source": "synthetic"}]})
    assert _loading.load(config, state=tmp_path).lanes[0].batch == 1
    assert not (tmp_path / FILE).exists()


def test_auto_of_two_cameras_is_measured_for_real_and_kept(tmp_path: Path) -> None:
    path = seeing(tmp_path / "m.onnx", *yolov8())
    cameras = [{"id": name, "source": "synthetic"} for name in "ab"]
    config = make_config({"model": {"path": str(path), "batch": "auto", "threads": 1, "lanes": 1}, "cameras": cameras})
    batch = _loading.load(config, state=tmp_path).lanes[0].batch
    assert batch in {1, 2, 4}
    assert f'"batch": {batch}' in (tmp_path / FILE).read_text("utf-8")

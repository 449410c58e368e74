"""Pictures from Python: functions, generators, iterables, and what they do wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.camera_sources import build_source
from edge_agent.errors import ConfigError, EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.preflight import check_files
from edge_agent.sources.base import FrameUnreadable
from edge_agent.sources.callable import CallableSource, Config, claims
from tests.conftest import make_config

PICTURE = np.full((4, 6, 3), 7, np.uint8)


def source_of(maker: Any, **keys: Any) -> CallableSource:
    return CallableSource("mine:pictures", lambda: maker, Config(**keys))


def generator() -> Iterator[object]:
    yield PICTURE
    yield PICTURE + np.uint8(1)


def counting() -> Callable[[], object]:
    numbers = iter([PICTURE, PICTURE + np.uint8(1), None])
    return lambda: next(numbers)


@pytest.mark.parametrize("maker", [generator, counting(), lambda: (yield from generator()), [PICTURE, PICTURE + np.uint8(1)]])
def test_each_picture_comes_once_and_then_the_end(maker: Any) -> None:
    source = source_of(maker)
    info = source.open()
    assert (info.width, info.height) == (6, 4)
    before = time.monotonic()
    assert [source.read().image.bgr()[0, 0, 0] for _ in range(2)] == [7, 8]
    with pytest.raises(EndOfStream, match="mine:pictures has ended"):
        source.read()
    assert time.monotonic() - before < 5
    source.close()
    source.close()


def test_a_generator_begins_again_when_it_is_opened_again_and_is_closed_before() -> None:
    closed: list[bool] = []

    def pictures() -> Iterator[object]:
        try:
            while True:
                yield PICTURE
        finally:
            closed.append(True)

    source = source_of(pictures)
    source.open()
    source.open()
    assert closed == [True]
    assert source.read().image.width == 6
    source.close()
    assert closed == [True, True]


def test_the_time_of_a_picture_may_come_with_it() -> None:
    at = time.monotonic() - 0.5
    source = source_of([(PICTURE, at)])
    source.open()
    assert source.read().captured_at == at


def test_turned_colours_and_parts_of_pictures_are_taken() -> None:
    source = source_of([PICTURE[:, ::-1, ::-1], PICTURE[1:3, 2:4]])
    source.open()
    assert source.read().image.resized(2, 2, "RGB").shape == (2, 2, 3)
    assert source.read().image.resized(3, 3, "BGR").shape == (3, 3, 3)


WRONG = [
    (PICTURE[..., 0], r"uint8 \[4, 6\]"),
    (PICTURE.astype(np.float32), r"float32 \[4, 6, 3\]"),
    (np.zeros((0, 6, 3), np.uint8), r"uint8 \[0, 6, 3\]"),
    ("a.jpg", "something of type str"),
    ((PICTURE, "now"), "'now' as the time"),
    ((PICTURE, time.time()), "as the time"),
    ((PICTURE, float("nan")), "nan as the time"),
]


@pytest.mark.parametrize(("item", "told"), WRONG)
def test_what_is_no_picture_is_told(item: object, told: str) -> None:
    with pytest.raises(SourceBroken, match=told) as broken:
        source_of([item]).open()
    assert broken.value.code is SourceErrorCode.INVALID_DATA
    source = source_of([PICTURE, item, PICTURE])
    source.open()
    source.read()
    with pytest.raises(FrameUnreadable, match=told):
        source.read()
    assert source.read().image.width == 6, "one of them is no reason to stop"


def test_an_error_of_the_users_code_is_told_with_its_place() -> None:
    def failing() -> object:
        raise ZeroDivisionError("oops")

    with pytest.raises(SourceUnavailable, match=r"mine:pictures raised ZeroDivisionError: oops \(.*test_callable.py:\d+\)"):
        source_of(failing).open()


def test_code_that_wants_to_end_the_process_is_told_like_any_other_error(module: Path) -> None:
    def leaving() -> object:
        sys.exit("no camera")

    with pytest.raises(SourceUnavailable, match="mine:pictures raised SystemExit: no camera"):
        source_of(leaving).open()
    module.write_text("import argparse\nargparse.ArgumentParser().parse_args(['--no-such-option'])\n")
    _, source = configured(module, "frames")
    with pytest.raises(SourceBroken, match="cannot be imported: SystemExit"):
        source.open()


@pytest.mark.parametrize("maker", [5, None])
def test_what_is_no_function_is_told(maker: object) -> None:
    with pytest.raises(SourceBroken, match="is no function and no iterable"):
        source_of(maker).open()


def test_names() -> None:
    assert claims("cameras.roof:frames")
    assert claims("roof:frames")
    for other in ("csi://0", "csi:0", "rtsp://a/b", "C:/x", "a:b:c", "a.b", "", ":f", "m:", 0, "usb:1-2"):
        assert not claims(other)


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "my_pictures_for_the_test.py"
    path.write_text("import numpy\nprint(end='')\ndef frames():\n    return numpy.zeros((2, 2, 3), 'uint8')\nnumber = 5\n")
    yield path
    sys.modules.pop(path.stem, None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def configured(path: Path, name: str, **keys: Any) -> Any:
    camera = {"id": "front", "source": f"{path.stem}:{name}", "folder": str(path.parent), **keys}
    config = make_config({"cameras": [camera], "device": {"state_dir": str(path.parent)}})
    return config, build_source(config, config.cameras[0])


def test_it_is_named_in_the_configuration_and_imported_when_it_is_opened(module: Path) -> None:
    config, source = configured(module, "frames", live=False, timeout_s=3)
    assert config.cameras[0].kind == "callable"
    check_files(config)
    assert module.stem not in sys.modules, "a check runs nobody's code"
    assert not source.live
    assert source.patience_s == 3
    assert source.open().width == 2
    assert module.stem in sys.modules


@pytest.mark.parametrize(("name", "told"), [("other", "has no 'other'"), ("number", "is no function")])
def test_a_name_that_is_wrong_is_told(module: Path, name: str, told: str) -> None:
    _, source = configured(module, name)
    with pytest.raises(SourceBroken, match=told):
        source.open()


def test_a_module_that_is_missing_or_broken_is_told(module: Path) -> None:
    module.write_text("import no_such_module_at_all\n")
    _, source = configured(module, "frames")
    with pytest.raises(SourceBroken, match="no module 'no_such_module_at_all'"):
        source.open()
    module.write_text("1 +\n")
    with pytest.raises(SourceBroken, match="cannot be imported: SyntaxError"):
        source.open()
    config = make_config({"cameras": [{"id": "front", "source": "no_such_module_at_all:x"}]})
    with pytest.raises(SourceBroken, match="install it, or name its folder"):
        build_source(config, config.cameras[0]).open()


def test_a_stated_kind_with_another_source_is_told() -> None:
    config = make_config({"cameras": [{"id": "front", "source": "frames", "kind": "callable"}]})
    with pytest.raises(ConfigError, match=r"write it as"):
        build_source(config, config.cameras[0])

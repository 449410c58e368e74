"""The commands under ``edge-agent model``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_agent.evaluation import Evaluation, ModelOptions

FILE = click.Path(path_type=Path)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``640`` or ``640x480``: width and height."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no size such as 640 or 640x480", ctx, param)
    return int(found[1]), int(found[2] or found[1])


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a file is to be read where it does not tell itself."""
    options: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
        click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads of one inference."),
        click.option("--input-size", callback=_size, metavar="SIZE", help="For files that leave it open: 640 or 640x480 (width x height)."),
        click.option("--family", help="As model.family in agent.toml; needed only when the file is ambiguous."),
        click.option("--labels", type=FILE, metavar="FILE", help="Class names, one a line. Default: from the file, or a .txt beside it."),
    )
    for option in options:
        command = option(command)
    return command


@click.group("model")
def model_group() -> None:
    """Look at model files: what they are (inspect), find (eval) and cost (bench), and how to make them faster (quantize)."""


@model_group.command("inspect")
@click.argument("file", type=FILE)
@click.option("--input-size", callback=_size, metavar="SIZE", help="For files that leave it open: 640 or 640x480 (width x height).")
@click.option("--family", help="As model.family in agent.toml; needed only when the file is ambiguous.")
@click.option("--labels", type=FILE, metavar="FILE", help="Class names, one a line. Default: from the file, or a .txt beside it.")
@click.option("--texts", type=FILE, metavar="FILE", help="As model.text_embeddings in agent.toml, for image encoders.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(
    file: Path, input_size: tuple[int, int] | None, family: str | None, labels: Path | None, texts: Path | None, as_json: bool
) -> None:
    """Tell what a model file is: family, task, input, outputs, classes, quantization, and whether it can be used.

    Does not run it, and loads it in a process of its own, which a damaged file may crash. Exit code 78 or 1: it cannot be used.
    """
    from edge_agent import inspection

    given = {
        "input_size": input_size,
        "family": family,
        "labels": labels and str(labels.expanduser().absolute()),
        "text_embeddings": texts and str(texts.expanduser().absolute()),
    }
    found = inspection.inspect(file, {key: value for key, value in given.items() if value is not None})
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(found.lines()))
    click.get_current_context().exit(int(found.exit_code))


@model_group.command("eval")
@click.argument("file", type=FILE)
@click.option("--images", required=True, type=FILE, metavar="DIR", help="Folder of the labelled pictures.")
@click.option("--annotations", required=True, type=FILE, metavar="FILE", help="Their boxes, in COCO's JSON format.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def evaluate(file: Path, images: Path, annotations: Path, as_json: bool, **given: Any) -> None:
    """Measure a detector's average precision (COCO's AP and AP50), for each class, as the agent would run it.

    Confidence from 0.01, NMS at IoU 0.6. Needs pip install "edge-agent[eval]".
    """
    from edge_agent import evaluation, logs

    logs.setup("error", "text")  # what the loader would warn of stands in the result
    with progress_bar("evaluating", hidden=as_json) as progress:
        result = evaluation.evaluate(file, images, annotations, options_of(given), progress)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        _show(result)


@model_group.command("bench")
@click.argument("file", type=FILE)
@click.option(
    "--against", type=FILE, metavar="FILE", help="Another file of the same model, such as the INT8 one, measured in turn with it."
)
@click.option("--source", metavar="SOURCE", help="A video, a folder of pictures, a camera. Default: the clip that comes with edge-agent.")
@click.option("--seconds", type=click.FloatRange(min=0.1, max=3600), default=10.0, show_default=True, help="How long to measure.")
@click.option(
    "--decoders", type=click.IntRange(0, 16), default=1, show_default=True, help="Threads that are kept busy beside it, as decoders are."
)
@click.option("--input-size", callback=_size, metavar="SIZE", help="For files that leave it open: 640 or 640x480 (width x height).")
@click.option("--family", help="As model.family in agent.toml; needed only when the file is ambiguous.")
@click.option("--labels", type=FILE, metavar="FILE", help="Class names, one a line. Default: from the file, or a .txt beside it.")
@click.option("--texts", type=FILE, metavar="FILE", help="As model.text_embeddings in agent.toml, for image encoders.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def bench(as_json: bool, **given: Any) -> None:
    """Measure milliseconds of each stage on this machine, by number of threads, and end with lines for agent.toml."""
    from edge_agent import benching, logs

    logs.setup("error", "text")
    request = benching.Request(**{key: given.pop(key) for key in ("file", "against", "source", "seconds", "decoders")}, model=_keys(given))
    with progress_bar("measuring", hidden=as_json) as progress:
        report = benching.bench(request, progress)
    click.echo(json.dumps(report.as_json(), indent=2) if as_json else report.table())


def _keys(given: dict[str, Any]) -> dict[str, Any]:
    """Options of a command as keys of [model]; paths are absolute, as those of a configuration lie beside its file."""
    given["text_embeddings"] = given.pop("texts")
    found = {key: value for key, value in given.items() if value is not None}
    absolute = {key: str(value.expanduser().absolute()) for key, value in found.items() if isinstance(value, Path)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in {**found, **absolute}.items()}


def options_of(given: dict[str, Any]) -> ModelOptions:
    """The options of ``model_options``."""
    from edge_agent.evaluation import ModelOptions

    return ModelOptions(**given)


def _show(result: Evaluation) -> None:
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{result.model}: {result.family}, {result.precision}, {result.runtime}")
    click.echo(f"{result.images} pictures, " + ", ".join(f"{stage} {ms:g} ms" for stage, ms in result.ms.items()))
    click.echo(f"\n{'class':24s} {'AP':>6s} {'AP50':>6s} {'boxes':>6s}")
    for one in result.score.classes:
        if one.ap is not None and one.ap50 is not None:
            click.echo(f"{one.name:24.24s} {one.ap:6.3f} {one.ap50:6.3f} {one.boxes:6d}")
    click.echo(f"{'all':24s} {result.score.ap:6.3f} {result.score.ap50:6.3f} {sum(c.boxes for c in result.score.classes):6d}")


@contextmanager
def progress_bar(label: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal. Yields what to call with how many of how many are done."""
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=hidden or not sys.stderr.isatty()) as bar:

        def advance(done: int, of: int) -> None:
            bar.length = of
            bar.update(done - bar.pos)

        yield advance


@model_group.command()
@click.argument("file", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="The .onnx to write.")
@click.option("--images", required=True, metavar="SOURCE", help="Pictures like those it will see: a folder, a video, a camera. Some 50 do.")
@click.option("--annotations", type=FILE, metavar="FILE", help="Boxes of the folder's pictures, in COCO's JSON format, to judge by AP.")
@click.option("--target-drop", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="AP that may be lost.")
@click.option(
    "--cpu", type=click.Choice(["arm64", "x86-vnni", "x86"]), help="For which machine. Default: this one, whose speed then counts."
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, help="Try nothing new after so long."
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def quantize(file: Path, output: Path, images: str, annotations: Path | None, as_json: bool, **given: Any) -> None:
    """Make an ONNX detector faster in INT8, keeping in float what it cannot do without.

    Without --annotations the float model's own detections are the measure: the agreement with them may fall by twelve times
    --target-drop. Takes one to ten minutes. Needs pip install "edge-agent[quantize]".

    Exit code 65: the best that was found loses more than --target-drop, or is slower than float on this machine; nothing is
    written then.
    """
    from edge_agent import logs
    from edge_agent.quantize import run

    logs.setup("error", "text")
    chosen = {key: given.pop(key) for key in ("target_drop", "cpu", "minutes")}
    request = run.Request(file, output, images, annotations, options=options_of(given), **chosen)
    refused = None
    try:
        result = run.quantize(request, lambda label: progress_bar(label, hidden=as_json), lambda line: click.echo(line, err=True))
    except run.Refused as error:
        refused, result = error, error.result
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else result.table())
    if refused is not None:
        raise refused


def _sha256(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise click.BadParameter(f"{value!r} is no SHA-256, which has 64 hexadecimal digits", ctx, param)
    return value and value.lower()


@model_group.command()
@click.argument("what", metavar="[NAME|URL]", required=False)
@click.option("--list", "listed", is_flag=True, help="List the models that are known by name, with their licences.")
@click.option("-o", "--output", type=FILE, metavar="PATH", help="A folder, or the file to write. Default: models/ in the state directory.")
@click.option("--sha256", callback=_sha256, metavar="HEX", help="What a file from an address must be.")
@click.option("--max-mb", type=click.FloatRange(0, 1e6, min_open=True), default=1000.0, show_default=True, help="Fetch nothing larger.")
@click.option("--force", is_flag=True, help="Replace a file that holds something else.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def pull(what: str | None, *, listed: bool, as_json: bool, **given: Any) -> None:
    """Fetch a model by its name (--list) or its address: verified by SHA-256, and whole or not at all.

    Stopped or cut off, the same command goes on where it was. Without a known hash the file is kept, and said to be unverified.

    Exit code 65: what came is not what was asked for. 69: the server cannot be reached or refuses. 75: another process pulls the same
    file. 78: the file cannot be written, or exists and holds something else.
    """
    from edge_agent import pulling
    from edge_agent.catalogue import CATALOGUE

    if listed:
        lines = [f"{one.name:18s} {one.size / 1e6:6.2f} MB  {one.licence:12s} {one.what}" for one in CATALOGUE]
        click.echo(json.dumps([one.as_json() for one in CATALOGUE], indent=2) if as_json else "\n".join(lines))
        return
    if what is None:
        raise click.UsageError("give a NAME or a URL, or --list")
    try:
        with progress_bar("pulling", hidden=as_json) as progress:
            pulled = pulling.pull(pulling.Request(what, **given), progress)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from there", err=True)
        raise
    click.echo(json.dumps(pulled.as_json(), indent=2) if as_json else "\n".join(pulled.lines()))

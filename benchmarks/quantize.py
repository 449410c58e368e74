"""What each way of quantizing a detector gains and costs, beside one another in one run.

python benchmarks/quantize.py MODEL.onnx --images DIR --annotations instances.json --check-images DIR --check-annotations instances.json
    [--labels FILE] [--threads N] [--rounds N]

Calibrated on the first pictures; AP on the others, which nothing was chosen by. Milliseconds of the model alone, in turn, in the least
disturbed fifth of the rounds. "everything" is what quantizing without a plan does; its head's last steps are left in float, or no
YOLOX would find anything.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from edge_agent import evaluation, labelled
from edge_agent.evaluation import ModelOptions
from edge_agent.models._preprocess import Preprocessor
from edge_agent.quantize import graph, pictures, plans, ranges, timing
from edge_agent.quantize.accuracy import Judge
from edge_agent.quantize.insertion import TYPES, insert, this_cpu


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    for option in ("--images", "--annotations", "--check-images", "--check-annotations"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    loaded = evaluation.load_model(given.model, ModelOptions(labels=given.labels, threads=given.threads))
    shown = pictures.from_labelled_folder(given.images, labelled.load(given.annotations), print)
    truth = labelled.load(given.check_annotations)
    judged = pictures.from_labelled_folder(given.check_images, truth, print)
    judge = Judge(loaded, judged, pictures.labels_for(truth, loaded.labels, loaded.family.class_count))
    prepare = Preprocessor(loaded.graph.inputs[0], loaded.family.input_format)
    tensors = [prepare(image)[0].copy() for image in shown.values()]
    original = onnx.load(str(given.model))
    variants = plans.float_variants(graph.prepared(given.model, original))
    base = list(variants.values())[-1]
    histograms = ranges.collect(base, tensors, lambda _done, _of: None)
    drawn = ranges.every_method(histograms)
    types = TYPES[this_cpu()]
    models = {"float32, the file": original, **{f"float32, {name}": model for name, model in variants.items()}}
    for plan in plans.make(base, histograms, tensors[0], types, given.threads):
        for method in ("min-max", "percentile 99.9", "mse"):
            models[f"{plan.name}, {method}"] = insert(plan.model, plan.nodes, drawn[method], types)
    timed = {name: model for name, model in models.items() if not name.endswith(("99.9", "mse"))}  # ranges change no time
    speeds = timing.measure(timed, "float32, the file", tensors[0], threads=given.threads, rounds=given.rounds)
    print(f"{len(tensors)} pictures to calibrate, {len(judged)} to judge by, {given.threads} thread(s), {this_cpu()}")
    print(f"{'':48s} {'AP':>6s} {'AP50':>6s} {'agreed':>6s} {'ms':>7s} {'faster':>6s}")
    for name, model in models.items():
        score = judge.accuracy(model)
        speed = speeds.get(name)
        told = f"{speed.ms:7.2f} {speed.ratio:5.2f}x" if speed else ""
        print(f"{name:48s} {score.ap:6.3f} {score.ap50:6.3f} {score.agreement:6.3f} {told}")


if __name__ == "__main__":
    main()

"""What a model sees in frames, alone or together: each in pixels of its whole picture, whichever part of it the model was given."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.image import Image
from edge_agent.models.base import Model, Prediction, Thresholds
from edge_agent.region import Part, part_of, seen_in
from edge_agent.scheduler import Job


def look(model: Model, jobs: Sequence[Job], thresholds: Sequence[Thresholds]) -> list[Prediction | Exception]:
    """Of each frame what was seen, or why it is lost. An inference that fails loses all the frames it was of."""
    given = [_given(job) for job in jobs]
    try:
        if len(jobs) == 1:
            seen: Sequence[Prediction | Exception] = [model(given[0][0], thresholds[0])]
        else:
            seen = model.together([image for image, _ in given], thresholds) if jobs else []
    except Exception as error:  # whatever a library makes of them
        return [error] * len(jobs)
    return [
        one if part is None or isinstance(one, Exception) else seen_in(one, part, job.frame.image)
        for one, (_, part), job in zip(seen, given, jobs, strict=True)
    ]


def _given(job: Job) -> tuple[Image, Part | None]:
    """What the model is to look at: the camera's region of interest, or all."""
    image, region = job.frame.image, job.capture.camera.settings.roi
    if region is None:
        return image, None
    part = part_of(region, image.width, image.height)
    return image.cropped(*part), part

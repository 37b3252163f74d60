"""How right each photo of a finished run is, for intervals and for the photos to look at."""

from auxseg_jax.evaluation import details, intervals
from auxseg_jax.runs.workdir import CAM, Workdir

VAL, POST, LABELS = "val", "val_post", "labels"
MEASURES = {
    VAL: "val mIoU",
    POST: "val mIoU, post-processed",
    LABELS: "pseudo labels of train, 255 as a miss",
}
"""{measure: heading}: predictions of the last stage for val, and the last pseudo labels."""


def of_run(workdir: Workdir) -> dict[str, intervals.Counts]:
    """Returns {measure: counts of each photo}, as far as the splits have masks."""
    stage = workdir.trained_stages()[-1]
    labels = f"{stage}/pseudo_score"
    if not workdir.done(labels).exists():
        labels = f"{CAM}/score"
    phases = {VAL: f"{stage}/score", POST: f"{stage}/post_score", LABELS: labels}
    found = {measure: details.read(workdir.folder(phase)) for measure, phase in phases.items()}
    return {measure: behind.photos for measure, behind in found.items() if behind}

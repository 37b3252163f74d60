"""The figures that evaluation gives, as typed records. All are in percent, but for thresholds."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class ClassifierScore:
    """The score of the classifier on the validation split.

    Attributes:
      map: mean average precision.
    """

    map: float


@dataclasses.dataclass(frozen=True)
class MeanScore:
    """The score of label maps, as means over the classes.

    Attributes:
      miou: pixels with 255 in the prediction are left out (convention a).
      miou_255_as_miss: they count as missed (convention b).
      precision: correct pixels / predicted pixels.
      recall: correct pixels / true pixels; 255 counts as missed.
    """

    miou: float
    miou_255_as_miss: float
    precision: float
    recall: float


@dataclasses.dataclass(frozen=True)
class LabelScore(MeanScore):
    """The score of label maps.

    Attributes:
      per_class: {class: IoU of convention b, None if it is absent}. The two conventions agree where
        nothing is 255.
    """

    per_class: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class FolderScore(LabelScore):
    """The score of a folder of anybody's label maps.

    Attributes:
      photos: number of them.
    """

    photos: int


@dataclasses.dataclass(frozen=True)
class SaliencyScore:
    """The score of saliency maps.

    Attributes:
      saliency_mae: mean absolute error.
      saliency_max_f: maximal F measure, beta^2 = 0.3.
    """

    saliency_mae: float
    saliency_max_f: float


@dataclasses.dataclass(frozen=True)
class PseudoScore(SaliencyScore, MeanScore):
    """The score of a set of pseudo labels."""


@dataclasses.dataclass(frozen=True)
class PredictionScore:
    """The score of the predictions for the validation split.

    Attributes:
      val_miou: mIoU.
      per_class: {class: IoU, None if it is absent}.
      saliency_mae: that of the network's saliency, if it was written.
      saliency_max_f: likewise.
    """

    val_miou: float
    per_class: dict[str, float | None]
    saliency_mae: float | None = None
    saliency_max_f: float | None = None


@dataclasses.dataclass(frozen=True)
class AffinityScore:
    """What the affinities of a stage look at, on some training photos. No mask is read for it.

    Attributes:
      photos: number of them.
      figures: {affinity: {name: value}}, of the fused one and of its sources, where 1 is all:
        neighbours, the exponential of the entropy of a row; row_sum; part, the share of the fused
        row sum that comes from this source; same_label, the share of a row on cells with the pseudo
        label of the row's own, None if no photo has any; same_label_uniform, that of a row that
        looks at all that it could, its window say; colour, the mean colour distance of what is
        looked at, over that of such a row.
      weights: {parameter: value} of the learned weights gamma.
    """

    photos: int
    figures: dict[str, dict[str, float | None]]
    weights: dict[str, float]


@dataclasses.dataclass(frozen=True)
class ReviewScore:
    """What agrees in a run whose photos have no masks. It is no measure of quality.

    Attributes:
      photos: number of training photos that were looked at.
      agreement: mean IoU of the last stage's prediction and the pseudo labels it learned.
      saliency_iou: mean IoU of its objects and the saliency that it learned.
      least_certain: ids of the photos that agree least.
    """

    photos: int
    agreement: float
    saliency_iou: float
    least_certain: list[str]


@dataclasses.dataclass(frozen=True)
class CamSweep:
    """mIoU of CAMs alone at each threshold, where a score up to the threshold is background.

    Whoever picks the best threshold has looked at pixel labels. It is an oracle, to compare CAMs
    with, not to train with.

    Attributes:
      oracle: True.
      best_threshold: the threshold of the best mIoU.
      best_miou: the best mIoU.
      miou: {threshold as text: mIoU}.
      photos: number of photos of a folder; None in a run.
    """

    oracle: bool
    best_threshold: float
    best_miou: float
    miou: dict[str, float]
    photos: int | None = None


def to_json(score: Any) -> dict[str, Any]:
    """Turns a record into a dict, without the fields that are None."""
    return {key: value for key, value in dataclasses.asdict(score).items() if value is not None}

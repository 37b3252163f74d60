"""results.json as a typed record. It is the public face of a run for scripts."""

import dataclasses
from typing import Any

from auxseg_jax.evaluation import scores
from auxseg_jax.evaluation.scores import to_json

INITIAL = "initial"


@dataclasses.dataclass(frozen=True)
class PseudoEntry:
    """The score of a set of pseudo labels.

    Attributes:
      stage: number of the stage that left them, or "initial".
      score: see `scores.PseudoScore`.
    """

    stage: int | str
    score: scores.PseudoScore

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as results.json has it."""
        return {"stage": self.stage, **to_json(self.score)}


@dataclasses.dataclass(frozen=True)
class StageEntry:
    """The score of a stage on the validation split.

    Attributes:
      stage: its number.
      score: the score of its predictions.
      val_miou_post: mIoU of its post-processed predictions.
    """

    stage: int
    score: scores.PredictionScore
    val_miou_post: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as results.json has it."""
        entry = {"stage": self.stage, **to_json(self.score)}
        return entry | ({} if self.val_miou_post is None else {"val_miou_post": self.val_miou_post})


@dataclasses.dataclass(frozen=True)
class AffinityEntry:
    """What the affinities of a stage look at.

    Attributes:
      stage: its number.
      score: see `scores.AffinityScore`.
    """

    stage: int
    score: scores.AffinityScore

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as results.json has it."""
        return {"stage": self.stage, **to_json(self.score)}


@dataclasses.dataclass
class Results:
    """All figures of a run, in percent.

    Attributes:
      classifier: score of the classifier phase, if the network has that branch.
      pseudo: score of each set of pseudo labels, if the training split has masks.
      stages: score of each stage, if the validation split has masks.
      affinities: what the affinities of each stage look at, if it has any.
      cam_sweep: score of the CAMs by threshold, an oracle.
      review: what agrees, if photos have no masks.
      fully_supervised: whether it was trained on masks.
      seconds: {phase: seconds of the session that finished it}.
      config: the config of the run, as JSON.
      manifest: see `report.manifest`.
    """

    classifier: scores.ClassifierScore | None = None
    pseudo: list[PseudoEntry] = dataclasses.field(default_factory=list)
    stages: list[StageEntry] = dataclasses.field(default_factory=list)
    affinities: list[AffinityEntry] = dataclasses.field(default_factory=list)
    cam_sweep: scores.CamSweep | None = None
    review: scores.ReviewScore | None = None
    fully_supervised: bool = False
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    manifest: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def final(self) -> StageEntry | None:
        """The last stage, if it was scored."""
        return self.stages[-1] if self.stages else None

    # What a phase of the plan reports goes in by one of these (`Phase.report`).

    def set_classifier(self, stage: int | None, score: scores.ClassifierScore) -> None:
        """Puts in the score of the classifier phase."""
        del stage
        self.classifier = score

    def set_cam_sweep(self, stage: int | None, score: scores.CamSweep) -> None:
        """Puts in the sweep of the CAMs."""
        del stage
        self.cam_sweep = score

    def set_review(self, stage: int | None, score: scores.ReviewScore) -> None:
        """Puts in what agrees."""
        del stage
        self.review = score

    def add_pseudo(self, stage: int | None, score: scores.PseudoScore) -> None:
        """Adds the score of the labels that a stage left; None: the initial ones."""
        self.pseudo.append(PseudoEntry(INITIAL if stage is None else stage, score))

    def add_stage(self, stage: int, score: scores.PredictionScore) -> None:
        """Adds the score of a stage."""
        self.stages.append(StageEntry(stage, score))

    def add_affinity(self, stage: int, score: scores.AffinityScore) -> None:
        """Adds what the affinities of a stage look at."""
        self.affinities.append(AffinityEntry(stage, score))

    def set_post(self, stage: int, score: scores.PredictionScore) -> None:
        """Puts in the score of a stage's post-processed predictions, after `add_stage`."""
        index = [entry.stage for entry in self.stages].index(stage)
        entry = dataclasses.replace(self.stages[index], val_miou_post=score.val_miou)
        self.stages[index] = entry

    def to_json(self) -> dict[str, Any]:
        """Returns what results.json holds."""
        content: dict[str, Any] = {
            "classifier": to_json(self.classifier) if self.classifier else {},
            "pseudo": [entry.to_json() for entry in self.pseudo],
            "stages": [entry.to_json() for entry in self.stages],
            "final": self.final.to_json() if self.final else {},
        }
        if self.affinities:
            content["affinities"] = [entry.to_json() for entry in self.affinities]
        if self.cam_sweep:
            content["cam_sweep"] = to_json(self.cam_sweep)
        if self.review:
            content["review"] = to_json(self.review)
        if self.fully_supervised:
            content["fully_supervised"] = True
        seconds = {"seconds": self.seconds}
        return content | seconds | {"config": self.config, "manifest": self.manifest}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Results":
        """Reads what `to_json` gave."""
        classifier, sweep = content["classifier"], content.get("cam_sweep")
        review = content.get("review")
        return cls(
            classifier=scores.ClassifierScore(**classifier) if classifier else None,
            pseudo=[_pseudo_entry(**entry) for entry in content["pseudo"]],
            stages=[_stage_entry(**entry) for entry in content["stages"]],
            affinities=[_affinity_entry(**entry) for entry in content.get("affinities", ())],
            cam_sweep=scores.CamSweep(**sweep) if sweep else None,
            review=scores.ReviewScore(**review) if review else None,
            fully_supervised=content.get("fully_supervised", False),
            seconds=content["seconds"],
            config=content["config"],
            manifest=content["manifest"],
        )


def _pseudo_entry(stage: int | str, **figures: float) -> PseudoEntry:
    return PseudoEntry(stage, scores.PseudoScore(**figures))


def _affinity_entry(stage: int, **figures: Any) -> AffinityEntry:
    return AffinityEntry(stage, scores.AffinityScore(**figures))


def _stage_entry(stage: int, val_miou_post: float | None = None, **figures: Any) -> StageEntry:
    return StageEntry(stage, scores.PredictionScore(**figures), val_miou_post)

"""One phase of a run, as data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from auxseg_jax.report.results import Results


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
      name: its name, and its folder in the workdir.
      work: work(context, phase) does it, and returns its figures or None.
      needs: {what for: phase whose files it reads}.
      depends: sections and fields of the config that change what it leaves, beside those of the
        phases that it needs. By them runs share phases, see `runs.sharing`.
      writes: what it leaves in its folder, beside DONE.json.
      masks: the split whose pixel labels it reads, "train" or "val"; empty: none.
      scores: the record of its figures, if it has any.
      report: report(results, stage, score) puts them into the results.
      stage: number of the stage it belongs to; None before the first.
      effort: effort(context) is what it computes, see `runs.forecast`; None: next to nothing.
    """

    name: str
    work: Callable[[Any, "Phase"], Any]
    depends: tuple[str, ...]
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    writes: tuple[str, ...] = ()
    masks: str = ""
    scores: type | None = None
    report: Callable[[Results, Any, Any], None] | None = None
    stage: int | None = None
    effort: Callable[[Any], float] | None = None

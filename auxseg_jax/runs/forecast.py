"""How long the rest of a run will take, from what it has taken so far.

A phase like one that is finished takes as long. Of any other, the arithmetic is counted in passes
of the network over a megapixel, and the first steps of training tell what one takes here. That is
an estimate: the ratios below are those of a small network on CPU cores.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from auxseg_jax.inference import windows
from auxseg_jax.runs.context import Context
from auxseg_jax.runs.phase import Phase

# In passes of the network over the same pixels.
_STEP = 4.0  # Forward and gradient, and the preparation of crops.
_CRF = 4.0

_WARM_UP, _TIMED = 4, 12
"""Steps that are not timed, and steps after which there is an estimate."""


class Forecast:
    """What is known of the time that phases take.

    Args:
      phases: all phases of the run.
      effort: {phase: passes of the network over a megapixel}, 0 where nothing is computed.
    """

    def __init__(self, phases: Sequence[Phase], effort: Mapping[str, float]):
        self._phases, self._effort = phases, effort
        self._seconds: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._start = 0.0  # Of a program, which waits for the compiler.
        self._rate: float | None = None  # Seconds of one pass over a megapixel.

    def finish(self, phase: Phase, seconds: float) -> None:
        """Takes down what a phase took."""
        self._seconds[phase.name] = seconds
        effort = self._effort[phase.name]
        if self._rate is None and effort:
            self._rate = seconds / effort

    def observe(self, phase: Phase, start: float, whole: float, left: float) -> None:
        """Takes down the first steps of a phase.

        Args:
          phase: a phase that trains.
          start: seconds that its first step took.
          whole: seconds of all its steps beside.
          left: seconds of those that are left: fewer, where a run goes on.
        """
        self._start, self._rate = start, whole / self._effort[phase.name]
        self._left[phase.name] = left

    @property
    def is_known(self) -> bool:
        """Whether there is an estimate."""
        return self._rate is not None

    def left(self) -> float | None:
        """Returns the seconds that unfinished phases will take; None before anything is known."""
        if self._rate is None:
            return None
        started: set[Callable] = set()
        seconds = 0.0
        for phase in self._phases:
            if phase.name in self._seconds:
                continue
            alike = [
                self._seconds[other.name] * self._ratio(phase, other)
                for other in self._phases
                if other.work is phase.work and other.name in self._seconds
            ]
            if phase.name in self._left:
                seconds += self._left[phase.name]
                started.add(phase.work)
            elif alike:
                seconds += min(alike)  # The first one waited for the compiler.
            elif effort := self._effort[phase.name]:
                seconds += effort * self._rate + (0 if phase.work in started else self._start)
                started.add(phase.work)
        return seconds

    def _ratio(self, phase: Phase, other: Phase) -> float:
        effort, of_other = self._effort[phase.name], self._effort[other.name]
        return effort / of_other if effort and of_other else 1.0


def make(context: Context, phases: Sequence[Phase]) -> Forecast:
    """Returns the forecast of a run of which nothing is finished."""
    efforts = {phase.name: phase.effort(context) if phase.effort else 0.0 for phase in phases}
    return Forecast(phases, efforts)


def training(section: str) -> Callable[[Context], float]:
    """Returns the effort of a phase that trains.

    Args:
      section: "classifier" or "stages" of the config.
    """

    def effort(context: Context) -> float:
        photos = context.steps(section) * context.config[section].batch_size
        return _STEP * photos * context.config.augment.crop**2 / 1e6

    return effort


def passing(
    split: str, section: str, crf: bool = False, dense: bool = False
) -> Callable[[Context], float]:
    """Returns the effort of a pass over whole photos.

    Args:
      split: "train" or "val".
      section: the section of the config that names the views.
      crf: whether there is a CRF.
      dense: whether the dense branches see each photo once more, beside the views of the CAM.
    """

    def effort(context: Context) -> float:
        data, views = context.data, context.config[section]
        sizes = data.sizes(data.train_split if split == "train" else data.val_split)
        window = context.config.augment.crop if views.get("windows") else 0
        of_views = 0 if section == "label_update" else window  # A CAM is one of whole photos.
        seen = sum(
            windows.area(height * scale, width * scale, of_views)
            for height, width in sizes
            for scale in views.scales
        )
        seen *= 2 if views.flip else 1
        if dense:
            seen += sum(windows.area(*size, window) for size in sizes)
        pixels = sum(map(math.prod, sizes))
        return (seen + pixels * _CRF * crf) / 1e6

    return effort


def timed(
    batches: Callable[[int], Iterator[dict]],
    steps: int,
    observe: Callable[[float, float, float], None],
) -> Callable[[int], Iterator[dict]]:
    """Wraps the batches of training: after some steps calls observe(start, whole, left), once.

    Args:
      batches: start step -> batches.
      steps: of the phase.
      observe: see `Forecast.observe`.
    """

    def wrapped(start: int) -> Iterator[dict]:
        times = []
        for number, batch in enumerate(batches(start)):
            if number <= _TIMED:
                times.append(time.monotonic())
            if number == _TIMED:
                step = (times[-1] - times[_WARM_UP]) / (_TIMED - _WARM_UP)
                left = steps - start - number
                observe(max(times[1] - times[0] - step, 0.0), step * steps, step * left)
            yield batch

    return wrapped

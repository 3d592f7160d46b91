"""What is compared over the number of gradients: settings, methods, lengths of a step."""

from __future__ import annotations

from dataclasses import dataclass

from plan import LARGE_FACTOR

#: Numbers of steps that are reported.
STEPS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 35)
#: Those with a length near their best one among those tried, which tables and plot show.
SHOWN = (1, 2, 3, 4, 5, 10, 20)
#: The most gradients that count as few.
FEW = 5
#: At least so many steps count as many.
MANY = 15


@dataclass(frozen=True)
class Setting:
    """A generator's samples and the model that boosts them.

    Attributes:
        source: a key of `variants.SOURCES`.
        model: a key of `variants.MODELS`.
        preset: steps of the paper's preset for a generator of this kind (table 5), which are 0.1 long; 0: it has none.
    """

    source: str
    model: str
    preset: int = 0

    @property
    def name(self) -> str:
        """``SOURCE.MODEL``."""
        return f"{self.source}.{self.model}"

    @property
    def longer(self) -> float:
        """What lengths are multiplied by: they grow with the side of the image."""
        return LARGE_FACTOR if self.source == "large" else 1.0


#: In the order of their work.
SETTINGS = (
    Setting("flow1", "joint", 35),
    Setting("flow2", "joint", 25),
    Setting("vae", "joint"),
    Setting("large", "joint"),
    Setting("flow1", "wide"),
    Setting("flow2", "wide"),
    Setting("large", "large"),
)


@dataclass(frozen=True)
class Method:
    """A rule to follow the gradient by.

    Attributes:
        name: of it.
        what: in words.
        objective: that is minimised.
        stops: whether an image stops at l0.
        raw: whether a step is a multiple of the gradient; else it has the same length for every image.
    """

    name: str
    what: str
    objective: str
    stops: bool = False
    raw: bool = False


METHODS = {
    method.name: method
    for method in (
        Method("stop", "PGD `joint`, early stopping", "joint", stops=True),
        Method("raw", "raw gradient of `logit`", "logit", raw=True),
        Method("logit", "PGD `logit`", "logit"),
        Method("no-stop", "PGD `joint`, no early stopping", "joint"),
    )
}

_SMALL, _WIDE, _LARGE = SETTINGS[:4], SETTINGS[4:6], SETTINGS[6:]
#: Settings and the methods they are followed by, the most telling ones first.
WORK = (
    (_SMALL + _WIDE + _LARGE, ("stop",)),
    (_SMALL, ("raw",)),
    (_SMALL[:1], ("logit", "no-stop")),
    (_WIDE, ("raw",)),
)

#: Settings of 28 pixels that are drawn.
PICTURED = ("flow1.joint", "vae.joint", "flow1.wide")

#: By length of a step, on 28 pixels: the most steps. They are an octave apart, then half an octave. A step of the raw
#: gradient has this length in the mean over the images where they start.
LENGTHS = {0.14: 20, 0.28: 10, 0.57: 5, 0.8: 5, 1.13: 4, 1.6: 3, 2.26: 2, 3.2: 1}
#: The same for the images that are reported: what no choice falls on is left out.
REPORTED = {0.14: 20, 0.28: 10, 0.57: 5, 0.8: 5, 1.13: 4, 1.6: 2, 3.2: 1}
#: For PGD with early stopping alone: what few steps are held against.
SHORTEST = 0.14
#: A step of the presets of consistency training, in table 5.
PRESET_LENGTH = 0.1
#: Numbers of steps whose length a rule gives as well.
RULED = (2, 3, 4, 5)
#: Shortest and longest path, in pixels of 28, that is measured of one to `MANY` steps.
PATHS = (1.2, 6.0)


def steps_measured(length: float, most: int) -> list[int]:
    """The numbers of steps of this length (on 28 pixels) whose images are measured."""
    return [n for n in STEPS if n <= most and (PATHS[0] <= n * length <= PATHS[1] or n == 1)]

"""What the paper says, and whether this run's numbers say so too. Every verdict is computed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from printed import UNBOOSTED, Printed
from tables import METRICS, Results
from variants import NONE, SOURCES

#: A set: source and variant.
Set = tuple[str, str]

# A distance that differs by less than this share is called the same, where sameness is what is claimed.
SAME = 0.05


@dataclass(frozen=True)
class Comparison:
    """One set against another, seed by seed.

    Attributes:
        text: the comparison with its numbers.
        won: in how many seeds it came out as claimed.
        seeds: how many have both.
    """

    text: str
    won: int
    seeds: int


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    Attributes:
        claim: what is claimed.
        source: the sentence or the table that it stands for, quoted; of this project's own claims, "this project".
        comparisons: with this run's numbers.
    """

    claim: str
    source: str
    comparisons: tuple[Comparison, ...]

    @property
    def answer(self) -> str:
        """``yes`` if every comparison came out as claimed in every seed, ``no`` if none did in the majority, ``not measured``, or
        ``partly``."""
        measured = [one for one in self.comparisons if one.seeds]
        if not measured:
            return "not measured"
        if all(one.won == one.seeds for one in measured):
            return "yes" if len(measured) == len(self.comparisons) else "yes, as far as measured"
        return "partly" if any(2 * one.won > one.seeds for one in measured) else "no"


def less(results: Results, low: Set, high: Set, metric: str = "fid") -> Comparison:
    """Whether `low` has less of `metric` than `high`."""
    a, b = results.cell(*low, metric), results.cell(*high, metric)
    shared = sorted(a.values.keys() & b.values.keys())
    digits = METRICS[metric].digits
    what = f"{METRICS[metric].title}, {SOURCES[low[0]]}: {low[1]} {a.show(digits)} against {high[1]} {b.show(digits)}"
    if not shared:
        return Comparison(what, 0, 0)
    differences = [b.values[seed] - a.values[seed] for seed in shared]
    won = sum(difference > 0 for difference in differences)
    apart = f"{statistics.fmean(differences):+.{digits}f}"
    if len(shared) > 1:
        apart += f" ± {statistics.stdev(differences):.{digits}f}"
    return Comparison(f"{what}, lower in {won} of {len(shared)} seeds (by {apart})", won, len(shared))


def same(results: Results, one: Set, other: Set) -> Comparison:
    """Whether the FIDs of two sets differ by less than `SAME` of `other`'s."""
    a, b = results.cell(*one, "fid"), results.cell(*other, "fid")
    shared = sorted(a.values.keys() & b.values.keys())
    what = f"FID, {SOURCES[one[0]]}: {one[1]} {a.show(2)} against {other[1]} {b.show(2)}"
    apart = [abs(a.values[seed] - b.values[seed]) / b.values[seed] for seed in shared]
    if not apart:
        return Comparison(what, 0, 0)
    won = sum(share < SAME for share in apart)
    text = f"{what}, less than {SAME:.0%} apart in {won} of {len(shared)} seeds (at most {max(apart):.1%})"
    return Comparison(text, won, len(shared))


#: The paper's abstract, on its experiments.
ABSTRACT = (
    "“we refine synthesized images and achieve an improved FID scores on the ImageNet 64x64 dataset for both "
    "Consistency-Training and Consistency-Distillation techniques” (abstract)"
)


def judge(results: Results, printed: Printed) -> list[Verdict]:
    """Every claim. One of the paper's compares what its table compares, with its figures quoted."""
    flows = ("flow1", "flow2")

    def each(low: str, high: str, sources: Sequence[str] = flows) -> tuple[Comparison, ...]:
        return tuple(less(results, (source, low), (source, high)) for source in sources)

    def objectives() -> str:
        return "<br>".join(printed.quote(2, _OURS, row) for row in printed.rows(2) if row not in (_OURS, UNBOOSTED))

    return [
        Verdict(
            "boosting with a robust joint model lowers the FID of one-step and two-step samples", ABSTRACT, each("joint", NONE)
        ),
        Verdict(
            "a robust joint model does better than a robust classifier alone",
            printed.quote(1, "RN50 Robust Joint", "RN50 Robust Classifier"), each("joint", "classifier"),
        ),
        Verdict(
            "a robust joint model does better than a joint model that was not trained adversarially",
            printed.quote(1, "Wide-RN Robust Joint", "Wide-RN Non-Robust Joint"), each("joint", "plain"),
        ),
        Verdict(
            "a wider model does better", printed.quote(1, "Wide-RN Robust Joint", "RN50 Robust Joint"), each("wide", "joint")
        ),
        Verdict(
            "the objective of eq. 12 (`joint`) does better than `ce`, `bce` and `ce-bce`", objectives(),
            tuple(less(results, ("flow2", "joint"), ("flow2", name)) for name in ("ce", "bce", "ce-bce")),
        ),
        Verdict(
            "SGLD surpasses PGD", printed.quote(3, "Wide-RN +SGLD", "Wide-RN +PGD"), each("sgld", "joint", tuple(SOURCES))
        ),
        Verdict(
            "boosting also improves samples of a generator that the joint model never saw, and larger images",
            printed.quote(4, "Wide-RN +SGLD", UNBOOSTED),
            (
                *each("joint", NONE, ("vae", "large")), *each("sgld", NONE, ("vae", "large")),
                less(results, ("large", "large"), ("large", NONE)),
            ),
        ),
        Verdict(
            "early stopping saves steps and does not cost quality: FID is as low or lower", "this project",
            (
                less(results, ("flow2", "stop"), ("flow2", "no-stop"), "steps_used"),
                _no_worse(results, ("flow2", "stop"), ("flow2", "no-stop")),
            ),
        ),
        Verdict("bf16 arithmetic gives the same FID", "this project", (same(results, ("flow2", "bf16"), ("flow2", "joint")),)),
    ]  # fmt: skip


_OURS = "RN50 joint model, Our loss (`joint`)"


def _no_worse(results: Results, one: Set, other: Set) -> Comparison:
    """Whether the FID of `one` lies below that of `other`, or above it by less than `SAME`."""
    a, b = results.cell(*one, "fid"), results.cell(*other, "fid")
    shared = sorted(a.values.keys() & b.values.keys())
    what = f"FID, {SOURCES[one[0]]}: {one[1]} {a.show(2)} against {other[1]} {b.show(2)}"
    won = sum(a.values[seed] < b.values[seed] * (1 + SAME) for seed in shared)
    return Comparison(f"{what}, lower or within {SAME:.0%} in {won} of {len(shared)} seeds", won, len(shared))


def render(verdicts: Sequence[Verdict]) -> list[str]:
    """As Markdown."""
    lines = ["| claim | the paper | here | numbers |", "|---|---|---|---|"]
    for verdict in verdicts:
        numbers = "<br>".join(one.text for one in verdict.comparisons)
        lines.append(f"| {verdict.claim} | {verdict.source} | **{verdict.answer}** | {numbers} |")
    return lines

"""Measure how real a set of images looks: features, distances and their uncertainty.

from jboost.evaluation import evaluate

result = evaluate("ref.npz", ["samples.npz", "samples.boosted.npz"], features="pt_inception-2015-12-05-6726825d.pth")
result.samples[1].metrics["fid"].value
"""

from __future__ import annotations

from .evaluate import evaluate
from .result import METRICS, Evaluation, Measured, SampleResult

__all__ = ["METRICS", "Evaluation", "Measured", "SampleResult", "evaluate"]

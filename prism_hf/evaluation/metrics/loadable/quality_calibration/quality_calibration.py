"""Whether the quality head ranks and calibrates, for `evaluate`."""

import datasets
import evaluate
import torch

from prism_hf.evaluation.metrics.calibration import auroc, expected_calibration_error

CITATION = "Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599."
INPUTS = """
Args:
    predictions (`list[float]`): For each token, the probability that it is right, in [0, 1].
    references (`list[int]`): Whether it is right, 0 or 1.
    num_bins (`int`, *optional*, defaults to 15): Of equal width, for the calibration error.

Returns:
    `dict[str, float]`: `auroc`, NaN where all tokens are right or all wrong, and `expected_calibration_error`.
"""


class QualityCalibration(evaluate.Metric):
    """`auroc` and `expected_calibration_error`."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")  # for labels too: one that is neither 0 nor 1 is refused, not rounded
        return evaluate.MetricInfo(
            description="Does a quality head rank right tokens above wrong ones, and are its probabilities shares?",
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: list[float], references: list[float], num_bins: int = 15) -> dict[str, float]:
        probabilities, labels = (torch.tensor(each, dtype=torch.float64) for each in (predictions, references))
        return {
            "auroc": auroc(probabilities, labels),
            "expected_calibration_error": expected_calibration_error(probabilities, labels, num_bins),
        }

"""Two sizes in a batch: batch normalisation takes its statistics over both, each image counting the same."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from jboost.engine.errors import BadInputError
from jboost.trainer.adversarial import AdversarialConfig, AttackedBatch, objective
from jboost.trainer.architectures import build_network
from jboost.trainer.joint import JointModel
from jboost.trainer.losses import LossWeights
from jboost.trainer.pooled_norm import check_norms, run_together


def make_model() -> JointModel:
    torch.manual_seed(0)
    return JointModel(build_network("small_resnet4", 4, 3), (0.5,) * 3, (0.5,) * 3).train()


def images(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_parts_of_one_size_are_one_pass() -> None:
    """Logits, gradients and running statistics, against torch's own batch normalisation of the whole batch."""
    ours, theirs = make_model(), make_model()
    x, weigh = images(9, 8, 1), torch.randn(9, 4)
    together = run_together(ours, [x[:5], x[5:]])
    whole = theirs(x)
    torch.testing.assert_close(together, whole, rtol=1e-4, atol=1e-5)
    for logits in (together, whole):
        (logits * weigh).sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 1e-4 * b.grad.norm() + 1e-5, name
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        if "tracked" not in name:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_each_image_counts_the_same_whatever_its_size() -> None:
    """Enlarging by repetition changes no image's mean or variance, so the small ones may stand in at full size."""
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    large, small = images(3, 8, 1), 0.5 * images(5, 4, 2)
    flat = nn.Sequential(ours, nn.Flatten(2))
    means = run_together(lambda x: flat(x).square().mean(2), [large, small])
    enlarged = interpolate(small, scale_factor=2, mode="nearest")
    expected = theirs(torch.cat([large, enlarged])).flatten(2).square().mean(2)
    torch.testing.assert_close(means, expected)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0.02, atol=0)  # unbiased over fewer values


def test_the_objective_of_two_sizes_keeps_halves_and_labels_apart() -> None:
    """With frozen statistics each image's logits are its own, so the loss is that of the halves one by one."""
    model = make_model().eval()
    real, generated = (images(3, 8, 1), torch.tensor([0, 1, 2])), (images(3, 6, 2), torch.tensor([3, 2, 1]))
    batch = AttackedBatch(real, generated, real[0] / 2, generated[0] / 2, torch.zeros(3))
    config = AdversarialConfig(clean_weights=LossWeights(0.5, 0.25, 2.0, 1.0))
    calls = []

    def forward(*sizes: torch.Tensor) -> torch.Tensor:
        calls.append([tuple(x.shape) for x in sizes])
        return run_together(model, sizes)

    def terms(scale: float) -> list[torch.Tensor]:
        a, b = model(real[0] * scale), model(generated[0] * scale)
        score_a, score_b = a.gather(1, real[1][:, None]), b.gather(1, generated[1][:, None])
        binary = nn.functional.binary_cross_entropy_with_logits
        return [
            binary(score_a, torch.ones_like(score_a)),
            binary(score_b, torch.zeros_like(score_b)),
            nn.functional.cross_entropy(a, real[1]),
            nn.functional.cross_entropy(b, generated[1]),
        ]

    expected = sum(terms(0.5)) + sum(w * t for w, t in zip((0.5, 0.25, 2.0, 1.0), terms(1.0), strict=True))
    torch.testing.assert_close(objective(forward, batch, config)[0], expected)
    assert calls == [[(6, 3, 8, 8), (6, 3, 6, 6)]]


def test_dropout_repeats() -> None:
    """One pass runs at a time, in a fixed order: random numbers go to the same places, however threads are scheduled."""

    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002 * torch.rand((), generator=torch.Generator().manual_seed(time.time_ns() % 1000)).item())
            return x

    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), Slow(), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(2)).train()
    seen = []
    for _ in range(4):
        torch.manual_seed(7)
        seen.append(run_together(lambda x: net(x).mean(2), [images(3, 8, 1), images(3, 4, 2)]))
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_settings_of_the_thread_reach_every_pass() -> None:
    kinds = []

    def model(x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.conv2d(x, torch.ones(1, 3, 1, 1, requires_grad=True))
        kinds.append((y.dtype, y.requires_grad))
        return y.flatten(1)[:, :1]

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        run_together(model, [images(2, 8, 1), images(2, 4, 2)])
    assert kinds == [(torch.bfloat16, False)] * 2


def test_what_goes_wrong_in_a_pass_comes_out() -> None:
    norm = nn.BatchNorm2d(3)

    def uneven(x: torch.Tensor) -> torch.Tensor:
        for _ in range(x.shape[-1] // 4):
            x = norm(x)
        return x.flatten(1)[:, :1]

    for order in ((8, 4), (4, 8)):
        with pytest.raises(BadInputError, match=r"different number of times for each image size.*--batch-norm frozen"):
            run_together(uneven, [images(2, size, size) for size in order])

    def broken(x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] == 4:
            raise RuntimeError("too small")
        return norm(x).flatten(1)

    with pytest.raises(RuntimeError, match="too small"):
        run_together(broken, [images(2, 8, 1), images(2, 4, 2)])


def test_cumulative_statistics_are_refused() -> None:
    model = copy.deepcopy(make_model())
    check_norms(model)
    model.network.bn1.momentum = None
    with pytest.raises(BadInputError, match=r"network.bn1, whose batch normalisation has momentum=None"):
        check_norms(model)

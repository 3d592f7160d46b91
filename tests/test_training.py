"""Adversarial training: equations 7 to 10 against a float64 evaluation, the attacks' bounds and stops, one step's effect."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jboost.engine.updates import PGD
from jboost.trainer.adversarial import AdversarialConfig, mean_realness, train, training_step
from jboost.trainer.architectures import build_network
from jboost.trainer.attack import attack_generated, attack_real, evaluating, rate
from jboost.trainer.joint import JointModel
from jboost.trainer.losses import bce_generated, bce_real, joint_loss

SIZE, CLASSES = 8, 4


def make_model(seed: int = 0) -> JointModel:
    """A small network with batch norm, whose running statistics have seen something."""
    torch.manual_seed(seed)
    model = JointModel(build_network("small_resnet4", CLASSES, 1), (0.5,), (0.5,))
    with torch.no_grad():
        for _ in range(5):
            model(torch.rand(32, 1, SIZE, SIZE))
    return model.eval()


MODEL = make_model()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and lose much where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with many pixels at 0 and at 1, where clamps bite."""
    rng = torch.Generator().manual_seed(seed)
    images = (2 * torch.rand(count, 1, SIZE, SIZE, generator=rng) - 0.5).clamp(0, 1)
    return images, torch.randint(0, CLASSES, (count,), generator=rng)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() - b.double()).flatten(1).norm(dim=1)


# --- equations 7 to 10 ---------------------------------------------------------------------------------------------------------


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def equations(real: np.ndarray, y_real: np.ndarray, generated: np.ndarray, y_generated: np.ndarray) -> dict[str, float]:
    """The four terms as the equations print them, in float64, with logarithms of sigmoids and softmaxes."""
    softmax = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (real, generated)]
    r, g = np.arange(len(real)), np.arange(len(generated))
    return {
        "bce_real": float(-np.log(sigmoid(real[r, y_real])).mean()),
        "bce_generated": float(-np.log(1 - sigmoid(generated[g, y_generated])).mean()),
        "ce_real": float(-np.log(softmax[0][r, y_real]).mean()),
        "ce_generated": float(-np.log(softmax[1][g, y_generated]).mean()),
    }


def gradients(logits: np.ndarray, labels: np.ndarray, real: bool) -> np.ndarray:
    """d (BCE + CE) / d logits by hand: (sigmoid(f_c) - [real]) e_c + softmax(f) - e_c, over the number of images."""
    onehot = np.eye(logits.shape[1])[labels]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return ((sigmoid(logits) - float(real)) * onehot + softmax - onehot) / len(logits)


@pytest.mark.parametrize("seed", range(3))
def test_losses_and_gradients_equal_the_equations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(0, 3, (5, CLASSES)), rng.normal(0, 3, (7, CLASSES))
    y_real, y_generated = rng.integers(0, CLASSES, 5), rng.integers(0, CLASSES, 7)
    a, b = (torch.tensor(z, requires_grad=True) for z in (real, generated))
    loss = joint_loss(a, torch.tensor(y_real), b, torch.tensor(y_generated))
    expected = equations(real, y_real, generated, y_generated)
    for name, value in expected.items():
        assert getattr(loss, name).item() == pytest.approx(value, rel=1e-12), name
    assert loss.total.item() == pytest.approx(sum(expected.values()), rel=1e-12)
    loss.total.backward()
    np.testing.assert_allclose(a.grad.numpy(), gradients(real, y_real, real=True), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(b.grad.numpy(), gradients(generated, y_generated, real=False), rtol=1e-10, atol=1e-14)


def test_losses_stay_finite_where_a_sigmoid_saturates() -> None:
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]])
    labels = torch.tensor([0, 0])
    assert bce_real(logits, labels).tolist() == [0.0, 200.0]
    assert bce_generated(logits, labels).tolist() == [200.0, 0.0]


def test_l0_is_the_mean_realness() -> None:
    images, labels = make_images(10, seed=3)
    f_c = MODEL(images).detach().double()[torch.arange(10), labels]
    expected = (-torch.log(1 - torch.sigmoid(f_c))).mean().item()
    assert mean_realness(MODEL, images, labels, batch_size=4) == pytest.approx(expected, rel=1e-5)


# --- the attacks ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(0, 6),
    step_size=st.floats(0.01, 3.0),
    eps=st.floats(0.0, 3.0),
)
def test_an_attack_stays_in_its_ball_and_in_the_cube(seed: int, steps: int, step_size: float, eps: float) -> None:
    images, labels = make_images(4, seed)
    update = PGD(steps=steps, step_size=step_size, eps=eps)
    never = torch.full((4,), torch.inf)
    for attacked in (
        attack_real(MODEL, images, labels, update),
        attack_generated(MODEL, images, labels, update, never)[0],
    ):
        assert attacked.dtype == torch.float32
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        assert (distance(attacked, images) <= eps + 1e-5).all()
        assert (distance(attacked, images) <= steps * step_size + 1e-5).all()


def test_attacks_move_the_rating_the_right_way_and_use_their_radius() -> None:
    images, labels = make_images(16, seed=1)
    update = PGD(steps=4, step_size=0.25, eps=0.7)
    before = rate(MODEL, images, labels)
    real = attack_real(MODEL, images, labels, update)
    generated, taken = attack_generated(MODEL, images, labels, update, torch.full((16,), torch.inf))
    assert (rate(MODEL, real, labels) < before).all()
    assert (rate(MODEL, generated, labels) > before).all()
    assert taken.tolist() == [4] * 16
    assert distance(real, images).median() == pytest.approx(0.7, abs=0.05)


def test_the_first_step_follows_the_gradient_of_the_bce() -> None:
    """The attack climbs f_c; its direction must be that of the losses it stands for, written out."""
    images, labels = make_images(6, seed=2)
    inner = 0.25 + images / 2  # no clamp bites
    x = inner.clone().requires_grad_(True)
    bce = -torch.log(torch.sigmoid(MODEL(x).gather(1, labels[:, None]))).sum()
    (grad,) = torch.autograd.grad(bce, x)
    step = 0.1 * grad / grad.flatten(1).norm(dim=1)[:, None, None, None]
    update = PGD(steps=1, step_size=0.1)
    never = torch.full((6,), torch.inf)
    torch.testing.assert_close(attack_real(MODEL, inner, labels, update), inner + step, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        attack_generated(MODEL, inner, labels, update, never)[0], inner - step, atol=1e-5, rtol=0
    )


def test_a_generated_image_stops_once_it_is_rated_above_its_pair() -> None:
    images, labels = make_images(12, seed=4)
    update = PGD(steps=8, step_size=0.1, eps=10.0)
    # Every image's path when nothing stops it: ratings [9, 12] after 0..8 steps.
    never = torch.full((12,), torch.inf)
    path = [attack_generated(MODEL, images, labels, PGD(steps=n, step_size=0.1, eps=10.0), never)[0] for n in range(9)]
    ratings = torch.stack([rate(MODEL, x, labels) for x in path])
    # Targets half-way between two ratings on the path, so that image i has to stop after i % 8 + 1 steps; the last never does.
    stop = torch.arange(12) % 8 + 1
    target = torch.stack([(ratings[n, i] + ratings[n - 1, i]) / 2 for i, n in enumerate(stop.tolist())])
    target[-1] = torch.inf
    stop[-1] = 8
    expected = torch.stack([(ratings[:, i] > target[i]).int().argmax() if i < 11 else stop[i] for i in range(12)])
    assert len(set(expected.tolist())) >= 4
    attacked, taken = attack_generated(MODEL, images, labels, update, target)
    assert taken.tolist() == expected.tolist()
    for i, n in enumerate(expected.tolist()):
        torch.testing.assert_close(attacked[i], path[n][i], atol=1e-5, rtol=0)


def test_an_image_that_fools_the_model_already_is_left_alone() -> None:
    images, labels = make_images(5, seed=5)
    attacked, taken = attack_generated(MODEL, images, labels, PGD(steps=5), rate(MODEL, images, labels) - 1)
    assert torch.equal(attacked, images)
    assert taken.tolist() == [0] * 5


def test_an_attack_does_not_depend_on_the_rest_of_the_batch() -> None:
    model = make_model().train()  # an attack must see eval mode also in the midst of training
    images, labels = make_images(9, seed=6)
    update = PGD(steps=5, step_size=0.2, eps=1.0)
    target = rate(model, images, labels) + 0.05
    real = attack_real(model, images, labels, update)
    generated, taken = attack_generated(model, images, labels, update, target)
    for part in (slice(0, 1), slice(3, 8), slice(8, 9)):
        alone, steps = attack_generated(model, images[part], labels[part], update, target[part])
        torch.testing.assert_close(alone, generated[part], atol=1e-5, rtol=0)
        assert steps.tolist() == taken[part].tolist()
        torch.testing.assert_close(
            attack_real(model, images[part], labels[part], update), real[part], atol=1e-5, rtol=0
        )


def test_an_attack_leaves_the_model_as_it_was() -> None:
    model = make_model().train()
    model.network.bn1.eval()  # frozen on purpose
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    images, labels = make_images(4, seed=7)
    attack_real(model, images, labels, PGD(steps=2))
    attack_generated(model, images, labels, PGD(steps=2), torch.full((4,), torch.inf))
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_evaluating_restores_the_mode_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1)).train()

    def fail() -> None:
        with evaluating(model):
            assert not model[0].training
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert model.training
    assert model[0].training


# --- training ------------------------------------------------------------------------------------------------------------------


def tiny_problem() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Real: a bright quarter that names the class. Generated: the same, half as bright, in noise."""
    labels = torch.arange(32) % CLASSES
    images = torch.zeros(32, 1, SIZE, SIZE)
    for i, c in enumerate(labels.tolist()):
        images[i, 0, 4 * (c // 2) :, 4 * (c % 2) :][:4, :4] = 1.0
    noise = 0.3 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    return (images, labels), ((images / 2 + noise).clamp(0, 1), labels)


SMALL = PGD(steps=2, step_size=0.1, eps=0.2)
TINY = AdversarialConfig(
    iterations=30, batch_size=32, learning_rate=1e-2, real_attack=SMALL, generated_attack=SMALL, grow_every=10
)


def test_a_training_step_lowers_the_loss() -> None:
    real, generated = tiny_problem()
    model = make_model(1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    reports = [
        training_step(model, optimizer, real, generated, real_attack=SMALL, generated_attack=SMALL) for _ in range(2)
    ]
    assert reports[1].loss < reports[0].loss - 0.05
    assert reports[0].loss == pytest.approx(
        reports[0].bce_real + reports[0].bce_generated + reports[0].ce_real + reports[0].ce_generated, rel=1e-5
    )


def test_training_learns_to_classify_and_to_tell_real_from_generated() -> None:
    real, generated = tiny_problem()
    model = make_model(1)
    reports = []
    train(model, real, generated, TINY, lambda _, report: reports.append(report))
    assert len(reports) == 30
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert reports[-1].robust_accuracy == 1.0
    assert not model.training
    assert (rate(model, *real) > rate(model, *generated)).all()


def test_training_is_deterministic_and_follows_its_seed() -> None:
    real, generated = tiny_problem()
    weights = []
    for seed in (5, 5, 6):
        model = make_model(1)
        train(model, real, generated, AdversarialConfig(iterations=3, batch_size=8, seed=seed))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_generated_attack_grows() -> None:
    assert [TINY.attack_at(i).steps for i in (0, 9, 10, 29)] == [2, 2, 3, 4]
    assert TINY.attack_at(29) == PGD(steps=4, step_size=0.1, eps=0.2)
    config = AdversarialConfig()
    assert (config.real_attack, config.attack_at(999).steps, config.attack_at(1000).steps) == (PGD(4, 0.25, 1.0), 4, 5)

"""One step of training: equations 7 to 10 and their options against a float64 evaluation, the attacks' bounds and stops."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jboost.engine.method.updates import PGD
from jboost.trainer.adversarial import AdversarialConfig, AttackedBatch, StepReport, mean_realness, objective
from jboost.trainer.architectures import build_network
from jboost.trainer.attack import Rater, attack_generated, attack_real, compiled_forward, evaluating, label_score
from jboost.trainer.joint import JointModel
from jboost.trainer.losses import SCORES, LossWeights, bce_generated, bce_real, joint_loss, smoothed_cross_entropy

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
RATER = Rater(MODEL)


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


def option_equations(
    logits: dict[str, np.ndarray], labels: dict[str, np.ndarray], energy: bool, smoothing: float
) -> dict[str, float]:
    """The four terms with the options, in float64, from probabilities."""
    out = {}
    for kind, z in logits.items():
        rows = np.arange(len(z))
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        real = sigmoid(np.log(np.exp(z).sum(1)) if energy else z[rows, labels[kind]])
        out[f"bce_{kind}"] = float(-np.log(real if kind == "real" else 1 - real).mean())
        target = (1 - smoothing) * np.eye(z.shape[1])[labels[kind]] + smoothing / z.shape[1]
        out[f"ce_{kind}"] = float(-(target * np.log(p)).sum(1).mean())
    return out


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_options_of_the_loss_and_their_gradients(energy: bool, smoothing: float) -> None:
    """Against the formulas, and the gradient against their finite differences in float64."""
    rng = np.random.default_rng(9)
    logits = {"real": rng.normal(0, 2, (5, CLASSES)), "generated": rng.normal(0, 2, (6, CLASSES))}
    labels = {kind: rng.integers(0, CLASSES, len(z)) for kind, z in logits.items()}
    weights = {"bce_real": 0.5, "bce_generated": 2.0, "ce_real": 1.5, "ce_generated": 0.25}

    def expected(values: dict[str, np.ndarray]) -> float:
        terms = option_equations(values, labels, energy, smoothing)
        return sum(weights[name] * terms[name] for name in weights)

    tensors = {kind: torch.tensor(z, requires_grad=True) for kind, z in logits.items()}
    loss = joint_loss(
        tensors["real"],
        torch.tensor(labels["real"]),
        tensors["generated"],
        torch.tensor(labels["generated"]),
        score="energy" if energy else "logit",
        label_smoothing=smoothing,
    ).weighted(LossWeights(**weights))
    assert loss.item() == pytest.approx(expected(logits), rel=1e-12)
    loss.backward()
    for kind, z in logits.items():
        for i, c in ((0, labels[kind][0]), (0, (labels[kind][0] + 1) % CLASSES), (len(z) - 1, 2)):
            high, low = (
                expected({**logits, kind: z + sign * 1e-5 * np.outer(np.eye(len(z))[i], np.eye(CLASSES)[c])})
                for sign in (1, -1)
            )
            assert tensors[kind].grad[i, c].item() == pytest.approx((high - low) / 2e-5, rel=1e-5, abs=1e-9)


def test_label_smoothing_is_that_of_torch() -> None:
    logits, labels = torch.randn(7, CLASSES, dtype=torch.float64), torch.arange(7) % CLASSES
    expected = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, 0.1), expected)


def test_clean_terms_are_those_of_the_images_as_they_are() -> None:
    real, generated = make_images(6, 1), make_images(6, 2)
    moved = [(x + 0.1).clamp(0, 1) for x in (real[0], generated[0])]
    batch = AttackedBatch(real, generated, moved[0], moved[1], torch.tensor([0, 1, 2, 3, 4, 5]))
    clean = LossWeights(0.5, 0.0, 2.0, 1.0)
    loss, report = objective(MODEL, batch, AdversarialConfig(clean_weights=clean))
    attacked_loss = joint_loss(MODEL(moved[0]), real[1], MODEL(moved[1]), generated[1])
    clean_loss = joint_loss(MODEL(real[0]), real[1], MODEL(generated[0]), generated[1])
    torch.testing.assert_close(loss, attacked_loss.total + clean_loss.weighted(clean))
    seen = StepReport.from_tensor(report)
    assert seen.bce_generated == pytest.approx(attacked_loss.bce_generated.item(), rel=1e-5)
    assert seen.realness_generated == pytest.approx(attacked_loss.bce_generated.item(), rel=1e-5)
    f_c = MODEL(moved[0]).gather(1, real[1][:, None]).double()
    assert seen.realness_real == pytest.approx(-torch.log(1 - torch.sigmoid(f_c)).mean().item(), rel=1e-4)
    assert seen.robust_accuracy == (MODEL(moved[0]).argmax(1) == real[1]).double().mean().item()
    assert seen.attack_steps == 2.5


def test_losses_stay_finite_where_a_sigmoid_saturates() -> None:
    score = torch.tensor([200.0, -200.0])
    assert bce_real(score).tolist() == [0.0, 200.0]
    assert bce_generated(score).tolist() == [200.0, 0.0]


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
        attack_real(RATER, images, labels, update),
        attack_generated(RATER, images, labels, update, never)[0],
    ):
        assert attacked.dtype == torch.float32
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        assert (distance(attacked, images) <= eps + 1e-5).all()
        assert (distance(attacked, images) <= steps * step_size + 1e-5).all()


def test_attacks_move_the_rating_the_right_way_and_use_their_radius() -> None:
    images, labels = make_images(16, seed=1)
    update = PGD(steps=4, step_size=0.25, eps=0.7)
    before = RATER(images, labels)
    real = attack_real(RATER, images, labels, update)
    generated, taken = attack_generated(RATER, images, labels, update, torch.full((16,), torch.inf))
    assert (RATER(real, labels) < before).all()
    assert (RATER(generated, labels) > before).all()
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
    torch.testing.assert_close(attack_real(RATER, inner, labels, update), inner + step, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        attack_generated(RATER, inner, labels, update, never)[0], inner - step, atol=1e-5, rtol=0
    )


def test_a_generated_image_stops_once_it_is_rated_above_its_pair() -> None:
    images, labels = make_images(12, seed=4)
    update = PGD(steps=8, step_size=0.1, eps=10.0)
    # Every image's path when nothing stops it: ratings [9, 12] after 0..8 steps.
    never = torch.full((12,), torch.inf)
    path = [attack_generated(RATER, images, labels, PGD(steps=n, step_size=0.1, eps=10.0), never)[0] for n in range(9)]
    ratings = torch.stack([RATER(x, labels) for x in path])
    # Targets half-way between two ratings on the path, so that image i has to stop after i % 8 + 1 steps; the last never does.
    stop = torch.arange(12) % 8 + 1
    target = torch.stack([(ratings[n, i] + ratings[n - 1, i]) / 2 for i, n in enumerate(stop.tolist())])
    target[-1] = torch.inf
    stop[-1] = 8
    expected = torch.stack([(ratings[:, i] > target[i]).int().argmax() if i < 11 else stop[i] for i in range(12)])
    assert len(set(expected.tolist())) >= 4
    attacked, taken = attack_generated(RATER, images, labels, update, target)
    assert taken.tolist() == expected.tolist()
    for i, n in enumerate(expected.tolist()):
        torch.testing.assert_close(attacked[i], path[n][i], atol=1e-5, rtol=0)


def test_an_image_that_fools_the_model_already_is_left_alone() -> None:
    images, labels = make_images(5, seed=5)
    attacked, taken = attack_generated(RATER, images, labels, PGD(steps=5), RATER(images, labels) - 1)
    assert torch.equal(attacked, images)
    assert taken.tolist() == [0] * 5


def test_an_attack_does_not_depend_on_the_rest_of_the_batch() -> None:
    rater = Rater(make_model().train())  # an attack must see eval mode also in the midst of training
    images, labels = make_images(9, seed=6)
    update = PGD(steps=5, step_size=0.2, eps=1.0)
    target = rater(images, labels) + 0.05
    real = attack_real(rater, images, labels, update)
    generated, taken = attack_generated(rater, images, labels, update, target)
    for part in (slice(0, 1), slice(3, 8), slice(8, 9)):
        alone, steps = attack_generated(rater, images[part], labels[part], update, target[part])
        torch.testing.assert_close(alone, generated[part], atol=1e-5, rtol=0)
        assert steps.tolist() == taken[part].tolist()
        torch.testing.assert_close(
            attack_real(rater, images[part], labels[part], update), real[part], atol=1e-5, rtol=0
        )


def test_an_energy_attack_moves_the_logsumexp_and_a_ce_attack_the_cross_entropy() -> None:
    images, labels = make_images(12, seed=8)
    update = PGD(steps=3, step_size=0.2)
    energy, classify = Rater(MODEL, SCORES["energy"]), Rater(MODEL, label_score)
    assert torch.allclose(energy(images, labels), MODEL(images).logsumexp(1), atol=1e-5)
    raised, _ = attack_generated(energy, images, labels, update, torch.full((12,), torch.inf))
    assert (MODEL(raised).logsumexp(1) > MODEL(images).logsumexp(1)).all()
    confused = attack_real(classify, images, labels, update)
    before, after = (nn.functional.cross_entropy(MODEL(x), labels, reduction="none") for x in (images, confused))
    assert (after > before).all()


def test_the_compiled_attack_is_the_eager_one() -> None:
    """Also after the weights have changed, with images that stop on the way, and without compiling twice."""
    model = make_model().train()
    eager, compiled = Rater(model), Rater(model, compiled=compiled_forward(model))
    images, labels = make_images(6, seed=4)
    update = PGD(steps=4, step_size=0.1, eps=10.0)
    for _ in range(2):
        target = eager(images, labels) + torch.tensor([-1.0, 0.05, 0.1, 0.2, 0.3, torch.inf])
        expected, steps = attack_generated(eager, images, labels, update, target)
        attacked, taken = attack_generated(compiled, images, labels, update, target)
        assert taken.tolist() == steps.tolist()
        assert len(set(taken.tolist())) >= 3
        torch.testing.assert_close(attacked, expected, atol=1e-4, rtol=0)
        real = attack_real(compiled, images, labels, update)
        torch.testing.assert_close(real, attack_real(eager, images, labels, update), atol=1e-4, rtol=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.05)
        torch.compiler.set_stance("fail_on_recompile")
    torch.compiler.set_stance("default")


def test_a_gradient_that_overflows_leaves_its_image_where_it_is() -> None:
    images, labels = make_images(3, seed=3)
    rater = Rater(MODEL, lambda logits, y: logits[:, 0] * torch.tensor([1.0, 1e30, 1.0]), loss_scale=1e30)
    attacked = attack_real(rater, images, labels, PGD(steps=1, step_size=0.2))
    assert torch.equal(attacked[1], images[1])
    assert not torch.equal(attacked[0], images[0])


def test_the_generated_attack_grows() -> None:
    config = AdversarialConfig(generated_attack=PGD(steps=2, step_size=0.1, eps=0.2), grow_every=10)
    assert [config.attack_at(i).steps for i in (0, 9, 10, 29)] == [2, 2, 3, 4]
    assert config.attack_at(29) == PGD(steps=4, step_size=0.1, eps=0.2)
    paper = AdversarialConfig()
    assert (paper.real_attack, paper.attack_at(999).steps, paper.attack_at(1000).steps) == (PGD(4, 0.25, 1.0), 1, 2)


def test_an_attack_leaves_the_model_as_it_was() -> None:
    model = make_model().train()
    model.network.bn1.eval()  # frozen on purpose
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    images, labels = make_images(4, seed=7)
    attack_real(Rater(model), images, labels, PGD(steps=2))
    attack_generated(Rater(model), images, labels, PGD(steps=2), torch.full((4,), torch.inf))
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

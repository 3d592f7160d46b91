"""`jboost.boost` and `jboost.diffusers`: one line around a bundle, and around a real pipeline."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from foreign_networks import declare_operators
from PIL import Image

import jboost
from jboost import one_line

HOW = {"engine": "eager", "device": "cpu", "batch_size": 8}
STEPS = {"steps": 2, "step_size": 0.3}


@pytest.fixture(scope="module")
def want(bundle, images, labels):
    with jboost.load(bundle, **HOW) as booster:
        return booster.boost(images, labels, jboost.PGD(**STEPS)).images


@pytest.fixture(autouse=True)
def closed():
    """Nothing stays open between tests."""
    yield
    for _, booster in one_line._kept:
        booster.close()
    one_line._kept.clear()


def test_one_line_gives_what_a_booster_gives_in_the_kind_that_came(bundle, images, labels, want) -> None:
    got = jboost.boost(images, labels, bundle=bundle, **HOW, **STEPS)
    assert type(got) is np.ndarray
    assert np.array_equal(got, want)
    assert not np.array_equal(want, images)
    pictures = jboost.boost(
        [Image.fromarray(image) for image in images], labels.tolist(), bundle=str(bundle), **HOW, **STEPS
    )
    assert np.array_equal(np.stack(pictures), want)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    got = jboost.boost(tensor, torch.from_numpy(labels), bundle=bundle, update="pgd", **HOW, **STEPS)
    assert torch.equal((got * 255).round().byte(), torch.from_numpy(want).permute(0, 3, 1, 2))
    stream = jboost.boost_iter(
        ((images[i : i + 5], labels[i : i + 5]) for i in range(0, 23, 5)), bundle=bundle, **HOW, **STEPS
    )
    assert np.array_equal(np.stack(list(stream)), want)
    with jboost.load(bundle, **HOW) as booster:
        assert np.array_equal(
            jboost.boost(images, labels, bundle=bundle, update=jboost.SGLD(steps=1), seed=4, **HOW),
            booster.boost(images, labels, jboost.SGLD(steps=1), seed=4).images,
        )
        numbers = np.arange(23)[::-1]
        assert np.array_equal(
            jboost.boost(images, labels, bundle=bundle, update=jboost.SGLD(noise=0.1), numbers=numbers, **HOW),
            booster.boost(images, labels, jboost.SGLD(noise=0.1), numbers=numbers).images,
        )
        result = booster.boost(tensor, labels, jboost.PGD(**STEPS))
    assert result.notes == ("images: float32 in [0, 1] (no value is negative), rounded to 256 levels",
                            "images: shape [23, 3, 16, 16] is [N, C, H, W]")  # fmt: skip


def test_a_preset_and_its_values_count_as_on_the_command_line(bundle, images, labels) -> None:
    with jboost.load(bundle, **HOW) as booster:
        want = booster.boost(images[:4], labels[:4], jboost.SGLD(2, 0.002, 1e-4), objective="logit", early_stop=False)
    got = jboost.boost(images[:4], labels[:4], bundle=bundle, preset="released-sgld", steps=2, **HOW)
    assert np.array_equal(got, want.images)


def test_an_update_s_object_takes_auto_as_its_name_does(bundle, images, labels) -> None:
    by_name = jboost.boost(images, labels, bundle=bundle, **HOW, update="sgld", steps=2, step_size="auto")
    by_object = jboost.boost(images, labels, bundle=bundle, **HOW, update=jboost.SGLD(2), step_size="auto")
    np.testing.assert_array_equal(by_name, by_object)
    assert len(list(jboost.boost_iter([images], bundle=bundle, **HOW, steps=1, first_step=None))) == len(images)


def test_the_bundle_stays_open_for_the_next_call(bundle, images, labels, tmp_path, monkeypatch) -> None:
    opened = []
    monkeypatch.setattr(one_line, "Booster", lambda *a, **k: opened.append(a) or jboost.Booster(*a, **k))
    for _ in range(2):
        jboost.boost(images[:2], labels[:2], bundle=bundle, **HOW, steps=1)
    assert len(opened) == 1
    jboost.boost(images[:2], labels[:2], bundle=bundle, **(HOW | {"batch_size": 2}), steps=1)
    assert len(opened) == 2
    with pytest.raises(jboost.BadInputError):
        jboost.boost(images[:2], [0, 9], bundle=bundle, **HOW)
    assert one_line._kept == []
    stream = jboost.boost_iter([images], bundle=bundle, **HOW, steps=1)
    next(stream)
    jboost.boost(images[:2], labels[:2], bundle=bundle, **HOW, steps=1)  # a stream under way is in nobody's way
    assert sum(1 for _ in stream) == len(images) - 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stepsize": 1}, TypeError, "no update has a field 'stepsize'"),
        ({"update": jboost.PGD(), "steps": 1}, jboost.BadInputError, "update is an object.*leave steps out"),
        ({"update": "sgd"}, jboost.BadInputError, "unknown update 'sgd'"),
        ({"preset": "ct9"}, jboost.BadInputError, "unknown preset 'ct9'"),
        ({"noise": 1.0}, jboost.BadInputError, "--noise belongs to SGLD"),
        ({"bundle": "nowhere"}, jboost.BadInputError, "nowhere does not exist"),
        ({"update": "sgld", "step_size": "AUTO"}, jboost.BadInputError, "step_size"),
        ({"update": "sgld", "step_size": "auto", "first_step": "x"}, jboost.BadInputError, "step"),
        ({"update": "sgld", "step_size": "auto", "first_step": True}, jboost.BadInputError, "step"),
    ],
)
def test_options_that_cannot_be_used(bundle, images, options, error, message) -> None:
    with pytest.raises(error, match=message):
        jboost.boost(images, **({"bundle": bundle} | options))
    if "bundle" not in options:
        with pytest.raises(error, match=message):
            jboost.boost_iter([images], bundle=bundle, **options)


def test_dir_shows_the_api_and_importing_it_loads_nothing() -> None:
    assert {"boost", "boost_iter", "load", "PGD", "SGLD", "Booster", "diffusers", "__version__"} <= set(dir(jboost))
    assert not {"Any", "TYPE_CHECKING", "_HOMES"} & set(dir(jboost))
    assert all(getattr(jboost, name) is not None for name in jboost.__all__)
    script = (
        "import sys, jboost; dir(jboost); print(sorted({'numpy', 'torch', 'diffusers'} & set(sys.modules)));"
        "jboost.diffusers.Boost; print('diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\nFalse\n", done.stderr


@pytest.fixture(scope="module")
def pipe():
    """A consistency-model pipeline with random weights for 5 classes of 16x16 images."""
    declare_operators()  # diffusers imports torchvision
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), num_class_embeds=5,
    )  # fmt: skip
    made = ConsistencyModelPipeline(unet.eval(), CMStochasticIterativeScheduler())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_a_consistency_model_s_output_comes_back_boosted(pipe, bundle, output_type, steps) -> None:
    classes = [0, 3, 4, 4]

    def output(**more):
        options = {"timesteps": [22, 0]} if steps == 2 else {"num_inference_steps": 1}
        return pipe(
            batch_size=4, class_labels=classes, output_type=output_type, generator=torch.Generator().manual_seed(1),
            **options, **more,
        )  # fmt: skip

    def as_levels(images):
        if output_type == "pil":
            return np.stack(images)
        if output_type == "pt":
            images = images.permute(0, 2, 3, 1).numpy()
        return np.rint(images * 255).astype(np.uint8)

    before = output()
    with jboost.load(bundle, **HOW) as booster:
        want = booster.boost(as_levels(before.images), classes, jboost.PGD(**STEPS)).images
        other = booster.boost(as_levels(before.images), [4] * 4, jboost.PGD(**STEPS)).images
    with jboost.diffusers.Boost(bundle, **HOW, **STEPS) as boost:
        after = boost(before, class_labels=classes)
        assert type(after) is type(before)
        assert type(after.images) is type(before.images)
        assert np.array_equal(as_levels(after.images), want)
        assert not np.array_equal(want, as_levels(before.images))
        assert not np.array_equal(want, other)
        if output_type != "pil":
            assert (after.images.dtype, after.images.shape) == (before.images.dtype, before.images.shape)
        (images,) = boost(output(return_dict=False), class_labels=torch.tensor(classes))
        assert np.array_equal(as_levels(images), want)
        assert np.array_equal(as_levels(boost(before.images, class_labels=4)), other)
        assert boost(before).images is not None  # classes predicted


def test_a_pipeline_s_output_without_images_is_refused(bundle) -> None:
    with jboost.diffusers.Boost(bundle, **HOW, **STEPS) as boost:
        for output, message in (
            ((), "empty tuple"),
            ([np.zeros((16, 16, 3))], 'list of ndarray.*output_type "pil", "np" or "pt"'),
            (torch.randn(2, 4, 16, 16), "4 channels|far outside"),
        ):
            with pytest.raises(jboost.BadInputError, match=message):
                boost(output)


@pytest.mark.parametrize("stated", [None, "0"])
def test_onnx_runtime_reports_nothing_unless_the_user_says_so(stated) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if stated is None else {"ORT_DISABLE_TELEMETRY": stated}
    code = (
        "import builtins, os; seen = []; real = builtins.__import__\n"
        "def spy(name, *rest):\n"
        "    name.startswith('onnxruntime') and seen.append(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = spy\n"
        "import jboost.engine.backends.onnx.session; print(seen[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, timeout=60
    )
    assert done.stdout.strip() == (stated or "1")

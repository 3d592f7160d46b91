"""A network that somebody else wrote, brought in every way there is, computes the function that it had."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import brought
import foreign_networks
import pytest
import torch
from brought import exported, images, logits, pipeline, scaled
from checkpoint_cases import network, prefixed
from safetensors.torch import save_file
from torch import nn

from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.export.checkpoints.load import load_checkpoint
from jboost.trainer.architectures import build_network

foreign_networks.declare_operators()
timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

STATS = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
NORMALIZE = "0.4,0.5,0.6/0.2,0.3,0.25"


WRAPPED = """
import torch
from nets import Net

class Logits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(5, 3, 'tuple')

    def forward(self, x):
        return self.net(x)[0]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with the user's module in it."""
    (tmp_path / "nets.py").write_text(
        brought.NET
        + "def plain(): return Net(5)\n"
        + "def chans(num_classes, in_chans=3): return Net(num_classes, in_chans)\n"
        + "def gray(num_classes): return Net(num_classes, 1)\n"
        + "instance = Net(5)\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("nets", "jboost_file_nets", "jboost_file_form", "jboost_file_mine"):
        sys.modules.pop(name, None)


def user_net(classes: int = 5, channels: int = 3, form: str = "logits") -> nn.Module:
    space: dict[str, Any] = {"__name__": "user_net"}
    sys.modules.setdefault("user_net", type(sys)("user_net"))
    exec(brought.NET, space)
    return scaled(space["Net"](classes, channels, form))


def same(bundle: Path, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], size: int = 32) -> None:
    x = images(len(mean), size)
    expected = pipeline(net, mean, std, x)
    assert expected.std() > 0.05
    torch.testing.assert_close(logits(bundle, x), expected, rtol=1e-4, atol=1e-4)


# --- timm and torchvision ----------------------------------------------------------------------------------------------


def test_a_name_of_timms_registry(here: Path) -> None:
    net = scaled(timm.create_model("test_resnet", num_classes=5))
    cfg = net.pretrained_cfg
    assert cfg["mean"] == (0.5, 0.5, 0.5)  # not ImageNet's: an assumed normalisation would show
    torch.save({"state_dict": prefixed("module.", net.state_dict())}, "net.pth")
    made = exported(Path("net.pth"), here / "b", arch="timm:test_resnet.r160_in1k", resolutions=(32,))
    same(here / "b", net, cfg["mean"], cfg["std"])
    assert any("timm's pretrained_cfg" in note for note in made.notes)
    with pytest.raises(BadInputError, match="did you mean test_resnet"):
        load_checkpoint("net.pth", arch="timm:test_resnett")


def test_a_folder_of_timms(here: Path) -> None:
    net = scaled(timm.create_model("test_convnext", num_classes=5))
    folder = here / "hub"
    folder.mkdir()
    save_file(net.state_dict(), folder / "model.safetensors")
    cfg = {"mean": STATS[0], "std": STATS[1], "input_size": [3, 32, 32]}
    config = {"architecture": "test_convnext", "num_classes": 5, "num_features": 64, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    made = exported(folder, here / "b")  # size and normalisation are the folder's, not the registry's
    assert made.bundle.config.resolutions == (32,)
    same(here / "b", net, *STATS)
    # The file alone gets the same as its folder, and the same with --arch or a question.
    assert load_checkpoint(folder / "model.safetensors").info.mean == STATS[0]
    with pytest.raises(BadInputError, match="choose with --normalize"):
        load_checkpoint(folder, arch="timm:test_convnext")
    # Entries that would load other files are refused.
    for odd in ({"checkpoint_path": "evil.pt"}, {"depths": [10**9]}, {"img_size": 10**400}, {"depths": {"a": 1}}):
        (folder / "config.json").write_text(json.dumps(config | {"model_args": odd}))
        with pytest.raises(BadInputError, match=next(iter(odd))):
            load_checkpoint(folder)
    # So is a normalisation that holds no numbers.
    (folder / "config.json").write_text(
        json.dumps(config | {"pretrained_cfg": {"mean": [10**400] * 3, "std": ["1"] * 3}})
    )
    assert load_checkpoint(folder).info.mean == (0.5,) * 3  # the registry's
    # It has a config.json and is no bundle: an export must not replace it.
    with pytest.raises(BadInputError, match="is not a bundle, so it is left alone"):
        exported(here / "net.pt", folder)


def test_a_name_of_torchvisions_registry(here: Path) -> None:
    net = scaled(torchvision.models.squeezenet1_1(num_classes=5))
    torch.save(net.state_dict(), "net.pth")
    with pytest.raises(BadInputError, match="--num-classes"):
        load_checkpoint("net.pth", arch="torchvision:squeezenet1_1", normalization="none", num_classes=0)
    exported(Path("net.pth"), here / "b", arch="torchvision:squeezenet1_1", num_classes=5, resolutions=(32,))
    same(here / "b", net, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_same_file_gets_the_same_normalisation_with_and_without_arch(resnet: nn.Module, here: Path) -> None:
    torch.save(resnet.state_dict(), "r.pt")
    means = {
        load_checkpoint("r.pt", arch=arch).info.mean
        for arch in (None, "resnet18", "timm:resnet18", "torchvision:resnet18")
    }
    assert means == {(0.485, 0.456, 0.406)}


# --- what a file tells against its names -------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["arch", "args", "config.json"])
def test_a_variant_that_names_itself_is_not_taken_for_resnet(here: Path, entry: str) -> None:
    """resnetblur50 has the names and shapes of resnet50: 0.16 standard deviations of the logits off."""
    import argparse

    net = scaled(timm.create_model("resnetblur50", num_classes=3))
    content: dict[str, Any] = {"state_dict": net.state_dict()}
    if entry == "arch":
        content["arch"] = "resnetblur50"
    elif entry == "args":
        content["args"] = argparse.Namespace(model="resnetblur50", lr=0.1)
    torch.save(content, "blur.pt")
    if entry == "config.json":
        Path("config.json").write_text(json.dumps({"architecture": "resnetblur50", "num_features": 2048}))
        assert load_checkpoint("blur.pt").info.arch == "timm:resnetblur50"
        return
    with pytest.raises(BadInputError, match="--arch timm:resnetblur50"):
        load_checkpoint("blur.pt")
    loaded = load_checkpoint("blur.pt", arch="timm:resnetblur50")
    x = images()
    with torch.no_grad():
        expected = pipeline(net, net.pretrained_cfg["mean"], net.pretrained_cfg["std"], x)
        torch.testing.assert_close(loaded.model(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_what_names_cannot_tell_is_said(resnet: nn.Module, wrn: nn.Module, here: Path) -> None:
    torch.save({"arch": "ResNet-18", "state_dict": resnet.state_dict()}, "r.pt")
    assert any("activations and pooling cannot be read from weights" in note for note in load_checkpoint("r.pt").notes)
    torch.save({"arch": "resnet18_silu", "state_dict": resnet.state_dict()}, "s.pt")
    with pytest.raises(BadInputError, match=r"--arch file\.py:factory"):
        load_checkpoint("s.pt")
    torch.save({"arch": "wrn-10-1-swish", "state_dict": wrn.state_dict()}, "s.pt")
    with pytest.raises(BadInputError, match="names wrn-10-1-swish"):
        load_checkpoint("s.pt")
    torch.save(wrn.state_dict(), "w.pt")
    assert any("activations cannot be read" in note for note in load_checkpoint("w.pt").notes)


# --- users' code -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["nets:plain", "nets.py:plain", "sub/nets.py:plain", "nets:instance", "nets:chans"])
def test_factories_files_and_instances(here: Path, arch: str) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "nets.py").write_text((here / "nets.py").read_text())
    net = user_net(5)
    torch.save({"ema": prefixed("net.", net.state_dict())}, "net.pt")
    options = {"num_classes": 5} if arch == "nets:chans" else {}
    with pytest.raises(BadInputError, match="--normalize imagenet, cifar10, none or"):
        load_checkpoint("net.pt", arch=arch, **options)
    made = exported(Path("net.pt"), here / "b", arch=arch, normalization=NORMALIZE, resolutions=(32,), **options)
    assert made.bundle.config.num_classes == 5
    assert "/" not in made.bundle.config.architecture
    same(here / "b", net, *STATS)


def test_an_instance_brings_its_own_weights(here: Path) -> None:
    import nets

    scaled(nets.instance)
    exported(None, here / "b", arch="nets:instance", normalization=NORMALIZE, resolutions=(32,))
    same(here / "b", nets.instance, *STATS)
    assert Bundle(here / "b").config.source["file"] == "nets:instance"
    for arch in ("nets:plain", "resnet18", "torchvision:resnet18"):
        with pytest.raises(BadInputError, match="pass --ckpt FILE"):
            load_checkpoint(None, arch=arch)


@pytest.mark.parametrize(("arch", "option"), [("nets:chans", None), ("nets:gray", None), ("nets:gray", 1)])
def test_channels_come_from_the_built_network(here: Path, arch: str, option: int | None) -> None:
    """Its names are unusual, so the weights alone do not tell."""
    net = user_net(5, 1)
    torch.save(net.state_dict(), "gray.pt")
    exported(
        Path("gray.pt"),
        here / "b",
        arch=arch,
        in_channels=option,
        num_classes=5,
        normalization="0.3/0.5",
        resolutions=(32,),
    )
    assert Bundle(here / "b").config.in_channels == 1
    same(here / "b", net, (0.3,), (0.5,))


@pytest.mark.parametrize("form", ["output", "dict", "map"])
def test_outputs_that_hold_logits(here: Path, form: str) -> None:
    torch.save(user_net(5).state_dict(), "net.pt")
    (here / "form.py").write_text(f"from nets import Net\ndef build(): return Net(5, 3, {form!r})\n")
    exported(Path("net.pt"), here / "b", arch="form.py:build", normalization=NORMALIZE, resolutions=(32,))
    same(here / "b", user_net(5), *STATS)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("tuple", ["a tuple of [4, 5], [4, 3, 32, 32]", "class Logits"]),
        ("other dict", ["a dict of out", "class Logits"]),
        ("other object", ["an object of type Parts", "class Logits"]),
        ("softmax", ["probabilities", "before the softmax"]),
        ("scalar", ["gives [] ", "[4, 5]"]),
    ],
)
def test_outputs_that_are_no_logits(here: Path, form: str, words: list[str]) -> None:
    torch.save(user_net(5).state_dict(), "net.pt")
    (here / "form.py").write_text(f"from nets import Net\ndef build(): return Net(5, 3, {form!r})\n")
    with pytest.raises(BadInputError) as caught:
        exported(Path("net.pt"), here / "b", arch="form.py:build", normalization=NORMALIZE, resolutions=(32,))
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (here / "b").exists()


@pytest.mark.parametrize(("form", "word"), [("log_softmax", "log-probabilities"), ("sigmoid", "sigmoid")])
def test_outputs_that_are_odd_are_noted(here: Path, form: str, word: str) -> None:
    torch.save(user_net(5).state_dict(), "net.pt")
    (here / "form.py").write_text(f"from nets import Net\ndef build(): return Net(5, 3, {form!r})\n")
    made = exported(Path("net.pt"), here / "b", arch="form.py:build", normalization=NORMALIZE, resolutions=(32,))
    assert any(word in note for note in made.notes)


def test_the_remedy_for_a_tuple_is_right(here: Path) -> None:
    """What the message says, done: the checkpoint's names lack the wrapper's prefix, which is added."""
    torch.save(user_net(5).state_dict(), "net.pt")
    (here / "form.py").write_text(WRAPPED)
    exported(Path("net.pt"), here / "b", arch="form.py:Logits", normalization=NORMALIZE, resolutions=(32,))
    same(here / "b", user_net(5), *STATS)


def test_a_factory_of_a_timm_network_brings_timms_normalisation(here: Path) -> None:
    net = scaled(timm.create_model("test_resnet", num_classes=5))
    torch.save(net.state_dict(), "net.pt")
    (here / "mine.py").write_text(
        "import timm\ndef build(num_classes): return timm.create_model('test_resnet', num_classes=num_classes)\n"
    )
    exported(Path("net.pt"), here / "b", arch="mine.py:build", resolutions=(32,))
    same(here / "b", net, (0.5,) * 3, (0.5,) * 3)


def test_another_size_than_the_network_takes_is_said(here: Path) -> None:
    (here / "mine.py").write_text(
        "import timm\nbuild = lambda: timm.create_model('test_vit', num_classes=5, dynamic_img_size=False, img_size=160)\n"
    )
    torch.save(timm.create_model("test_vit", num_classes=5).state_dict(), "net.pt")
    with pytest.raises(BadInputError, match=r"fails on 3-channel images of 64x64 .*pass --resolution 160"):
        exported(Path("net.pt"), here / "b", arch="mine.py:build", resolutions=(64,))


def test_a_grey_network_of_three_channels_needs_the_option(here: Path) -> None:
    """It repeats its one channel, so its first layer says three."""
    (here / "mine.py").write_text(
        "from nets import Net\n\nclass Grey(Net):\n"
        "    def forward(self, x):\n        return super().forward(x.repeat(1, 3, 1, 1))\n"
    )
    net = user_net(4)
    torch.save(net.state_dict(), "net.pt")
    options: dict[str, Any] = {"arch": "mine.py:Grey", "resolutions": (32,)}
    with pytest.raises(BadInputError, match="--in-channels"):
        exported(Path("net.pt"), here / "b", normalization="none", **options)
    exported(Path("net.pt"), here / "b", in_channels=1, normalization="0.3/0.5", **options)
    x = images(1)
    torch.testing.assert_close(
        logits(here / "b", x), pipeline(net, (0.3,), (0.5,), x.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4
    )


# --- a folder of transformers, and the Hub -----------------------------------------------------------------------------


def test_a_folder_of_transformers(here: Path) -> None:
    folder = here / "hf"
    folder.mkdir()
    torch.save(prefixed("classifier_model.", user_net(5).state_dict()), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["ViTForImageClassification"], "model_type": "vit"})
    )
    processor = {
        "image_mean": STATS[0],
        "image_std": STATS[1],
        "do_normalize": True,
        "size": {"height": 32, "width": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(BadInputError, match=r"transformers.ViTForImageClassification\(.*file.py:build"):
        load_checkpoint(folder)
    exported(folder, here / "b", arch="nets:plain")
    same(here / "b", user_net(5), *STATS)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"do_normalize": False}))
    assert load_checkpoint(folder, arch="nets:plain").info.std == (1.0,) * 3
    for other in ({"rescale_factor": 1 / 127.5}, {"rescale_offset": True}, {"do_flip_channel_order": True}):
        (folder / "preprocessor_config.json").write_text(json.dumps(processor | other))
        with pytest.raises(BadInputError, match="--normalize"):
            load_checkpoint(folder, arch="nets:plain")


@pytest.mark.parametrize("arch", ["hf-hub:timm/test_resnet.r160_in1k", "timm:test_resnet.r160_in1k"])
def test_the_hubs_local_cache(here: Path, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    from huggingface_hub import constants

    net = scaled(timm.create_model("test_resnet"))
    repository, commit = here / "models--timm--test_resnet.r160_in1k", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    save_file(net.state_dict(), snapshot / "model.safetensors")
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 160, 160]}
    config = {"architecture": "test_resnet", "num_classes": 1000, "num_features": 256, "pretrained_cfg": cfg}
    (snapshot / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded = load_checkpoint(None, arch=arch)
    assert (loaded.info.num_classes, loaded.info.resolution) == (1000, 160)
    x = images()
    torch.testing.assert_close(loaded.model(x), pipeline(net, (0.5,) * 3, (0.5,) * 3, x), rtol=1e-4, atol=1e-4)
    torch.save(net.state_dict(), "net.pt")
    if arch.startswith("hf-hub"):
        found = load_checkpoint("net.pt", arch=arch)
        assert (found.info.mean, found.info.arch) == ((0.5,) * 3, arch)
    with pytest.raises(BadInputError, match="neither in the local cache"):
        load_checkpoint(None, arch="hf-hub:timm/other")


# --- normalisers and what lies beside the network ----------------------------------------------------------------------


def test_a_normaliser_whose_values_are_gone_is_asked_for(resnet: nn.Module, here: Path) -> None:
    torch.save(prefixed("1.", resnet.state_dict()), "seq.pt")
    for arch in (None, "resnet18", "torchvision:resnet18"):
        with pytest.raises(BadInputError, match="give --normalize"):
            load_checkpoint("seq.pt", arch=arch)
    loaded = load_checkpoint("seq.pt", normalization=NORMALIZE)
    torch.testing.assert_close(loaded.model(images()), pipeline(resnet, *STATS, images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", ["", "backbone.", "lit.norm."])
def test_pixel_means_are_in_their_own_scale(resnet: nn.Module, here: Path, place: str) -> None:
    mean, std = (tuple(round(255 * v, 4) for v in values) for values in STATS)
    values = {
        f"{place}pixel_mean": torch.tensor(mean)[:, None, None],
        f"{place}pixel_std": torch.tensor(std)[:, None, None],
    }
    torch.save({**values, **prefixed("backbone.", resnet.state_dict())}, "p.pt")
    loaded = load_checkpoint("p.pt")
    torch.testing.assert_close(loaded.model(images()), pipeline(resnet, *STATS, images()), rtol=1e-4, atol=1e-4)
    assert any("0-255" in note for note in loaded.notes)


def test_blue_before_red_is_said(resnet: nn.Module, here: Path) -> None:
    values = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]), "pixel_std": torch.ones(3)}
    torch.save({**values, **resnet.state_dict()}, "p.pt")
    loaded = load_checkpoint("p.pt")
    assert any("blue, green, red" in note for note in loaded.notes)
    mean, std = (0.406, 0.456, 0.485), (1 / 255,) * 3
    torch.testing.assert_close(loaded.model(images()), pipeline(resnet, mean, std, images()), rtol=1e-4, atol=1e-3)


def test_leftovers_are_noted_unless_they_belong_to_another_network(here: Path) -> None:
    sd = user_net(5).state_dict()
    torch.save(
        {**prefixed("model.", sd), "criterion.centres": torch.ones(5, 6), "model.aux.weight": torch.ones(2, 6)}, "l.pt"
    )
    loaded = load_checkpoint("l.pt", arch="nets:plain", normalization="none")
    assert any("criterion.centres" in note and "model.aux.weight" in note for note in loaded.notes)
    # A deeper network of the same modules is another function.
    torch.save({**sd, "entry.1.weight": torch.ones(6, 6, 3, 3)}, "deep.pt")
    with pytest.raises(BadInputError, match=r"unexpected: entry\.1\.weight"):
        load_checkpoint("deep.pt", arch="nets:plain", normalization="none")


def test_averaged_weights_among_several_networks(resnet: nn.Module, here: Path) -> None:
    other = {n: t * 0 for n, t in resnet.state_dict().items()}
    torch.save({**prefixed("model.", other), **prefixed("model_ema.", resnet.state_dict())}, "two.pt")
    loaded = load_checkpoint("two.pt", normalization="none")
    torch.testing.assert_close(loaded.model(images()), pipeline(resnet, (0.0,) * 3, (1.0,) * 3, images()))
    assert any("averaged" in note for note in loaded.notes)
    torch.save({**prefixed("student.", other), **prefixed("tutor.", network("resnet18", 7).state_dict())}, "two.pt")
    with pytest.raises(BadInputError, match=r"several networks that fit, under student\., tutor\."):
        load_checkpoint("two.pt", normalization="none")


def test_a_broken_torchvision_is_one_line(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    import importlib

    torch.save(user_net(5).state_dict(), "net.pt")
    for error, words in (
        (RuntimeError("operator torchvision::nms does not exist"), "must come from one index"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "pip install timm"),
    ):
        monkeypatch.setattr(importlib, "import_module", lambda name, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(BadInputError, match=words):
            load_checkpoint("net.pt", arch="timm:test_resnet", num_classes=5)


def test_arguments_of_the_training_are_not_dropped(tmp_path) -> None:
    import argparse

    network = build_network("resnet18", 4, 3)
    kept = argparse.Namespace(model="resnet18", model_kwargs={"act_layer": "silu"})
    path = tmp_path / "trained.pt"
    torch.save({"args": kept, "state_dict": network.state_dict()}, path)
    for arch in (None, "resnet18", "timm:resnet18"):
        with pytest.raises(BadInputError, match=r"act_layer='silu'.*--arch file.py:factory"):
            load_checkpoint(path, arch=arch, normalization="none")
    torch.save(
        {"args": argparse.Namespace(model="resnet18", model_kwargs={}), "state_dict": network.state_dict()}, path
    )
    assert load_checkpoint(path, normalization="none").info.arch == "resnet18"

"""The networks against facts about torchvision's and RobustBench's, and against plain functional re-implementations."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jboost.engine.errors import BadInputError
from jboost.trainer.architectures import NAMES, build_network, find_architecture
from jboost.trainer.cifar_wrn import WideResNet
from jboost.trainer.joint import JointModel, parse_normalization
from jboost.trainer.resnet import ResNet, ResNetShape
from jboost.trainer.small_resnet import SmallResNet


def on_meta(arch: str, num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    with torch.device("meta"):
        return build_network(arch, num_classes, in_channels)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` in float64 and eval mode, BatchNorm included in what is random: fresh statistics would hide a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.weight.data = torch.rand(n, generator=generator) + 0.5
            module.bias.data = torch.randn(n, generator=generator) * 0.2
            module.running_mean = torch.randn(n, generator=generator) * 0.2
            module.running_var = torch.rand(n, generator=generator) + 0.5
    return network.double().eval()


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# --- references: nothing but the state dict and the published description -------------------------------------------------


def ref_bn(sd: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        sd[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def ref_conv(sd: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = sd[f"{name}.weight"]
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def ref_resnet_stages(sd: dict[str, Tensor], x: Tensor, stages: int) -> Tensor:
    for stage in range(1, stages + 1):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in sd:
            p = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            bottleneck = f"{p}.conv3.weight" in sd
            # The stride is the 3x3 convolution's: the second one of a bottleneck, the first one of a basic block.
            out = F.relu(ref_bn(sd, f"{p}.bn1", ref_conv(sd, f"{p}.conv1", x, 1 if bottleneck else stride)))
            out = ref_bn(sd, f"{p}.bn2", ref_conv(sd, f"{p}.conv2", out, stride if bottleneck else 1))
            if bottleneck:
                out = ref_bn(sd, f"{p}.bn3", ref_conv(sd, f"{p}.conv3", F.relu(out)))
            if f"{p}.downsample.0.weight" in sd:
                x = ref_bn(sd, f"{p}.downsample.1", ref_conv(sd, f"{p}.downsample.0", x, stride))
            x = F.relu(out + x)
            block += 1
    return x.mean((2, 3)) @ sd["fc.weight"].T + sd["fc.bias"]


def ref_resnet(sd: dict[str, Tensor], x: Tensor) -> Tensor:
    x = F.relu(ref_bn(sd, "bn1", ref_conv(sd, "conv1", x, 2)))
    return ref_resnet_stages(sd, F.max_pool2d(x, 3, 2, 1), 4)


def ref_wrn(sd: dict[str, Tensor], x: Tensor) -> Tensor:
    """RobustBench's order of operations, its 8x8 average pool included."""
    x = ref_conv(sd, "conv1", x)
    for stage in (1, 2, 3):
        layer = 0
        while f"block{stage}.layer.{layer}.conv1.weight" in sd:
            p = f"block{stage}.layer.{layer}"
            stride = 2 if stage > 1 and layer == 0 else 1
            active = F.relu(ref_bn(sd, f"{p}.bn1", x))
            out = ref_conv(sd, f"{p}.conv1", active, stride)
            out = ref_conv(sd, f"{p}.conv2", F.relu(ref_bn(sd, f"{p}.bn2", out)))
            has_shortcut = f"{p}.convShortcut.weight" in sd
            x = out + (ref_conv(sd, f"{p}.convShortcut", active, stride) if has_shortcut else x)
            layer += 1
    x = F.avg_pool2d(F.relu(ref_bn(sd, "bn1", x)), 8)
    return x.flatten(1) @ sd["fc.weight"].T + sd["fc.bias"]


# --- ImageNet ResNets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("wide_resnet50_2", 68_883_240),
        ("wide_resnet101_2", 126_886_696),
    ],
)
def test_resnets_have_torchvisions_number_of_parameters(arch: str, parameters: int) -> None:
    assert count(on_meta(arch)) == parameters


def test_resnets_have_torchvisions_names_and_shapes() -> None:
    basic, deep, wide, wider = (
        shapes(on_meta(a)) for a in ("resnet18", "resnet50", "wide_resnet50_2", "wide_resnet50_4")
    )
    assert basic["conv1.weight"] == (64, 3, 7, 7)
    assert basic["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert "layer1.0.downsample.0.weight" not in basic
    assert basic["layer4.1.bn2.running_var"] == (512,)
    assert deep["layer1.0.downsample.1.running_mean"] == (256,)
    assert deep["layer3.5.conv3.weight"] == (1024, 256, 1, 1)
    assert "layer3.6.conv3.weight" not in deep
    assert deep["fc.weight"] == (1000, 2048)
    assert wide["layer4.2.conv2.weight"] == (1024, 1024, 3, 3)
    assert wide["layer4.2.conv3.weight"] == (2048, 1024, 1, 1)
    assert wider["layer1.0.conv1.weight"] == (256, 64, 1, 1)
    # The variants differ in widths, not in names; 320 entries in torchvision's resnet50, 122 in its resnet18.
    assert list(deep) == list(wide) == list(wider)
    assert (len(deep), len(basic)) == (320, 122)


@pytest.mark.parametrize(
    "shape",
    [
        ResNetShape(False, (2, 2, 2, 2)),
        ResNetShape(True, (2, 1, 2, 1)),
        ResNetShape(True, (1, 1, 1, 1), base_width=128),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (47, 33)])
def test_resnet_computes_what_the_reference_does(shape: ResNetShape, size: tuple[int, int]) -> None:
    network = shaken(ResNet(shape, num_classes=7))
    x = images(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(x), ref_resnet(network.state_dict(), x), rtol=1e-9, atol=1e-9)


# --- CIFAR Wide ResNets ---------------------------------------------------------------------------------------------------


def test_wide_resnets_have_robustbenchs_names_and_sizes() -> None:
    network = on_meta("wrn_28_10", 10)
    names = shapes(network)
    assert count(network) == 36_479_194  # Zagoruyko and Komodakis: 36.5 M
    assert count(on_meta("wrn_34_10", 10)) == 46_160_474  # TRADES' WRN-34-10: 46.16 M
    assert names["conv1.weight"] == (16, 3, 3, 3)
    assert names["block1.layer.0.bn1.weight"] == (16,)
    assert names["block1.layer.0.convShortcut.weight"] == (160, 16, 1, 1)
    assert "block1.layer.1.convShortcut.weight" not in names
    assert names["block3.layer.3.conv2.weight"] == (640, 640, 3, 3)
    assert "block3.layer.4.conv2.weight" not in names
    assert names["bn1.running_mean"] == (640,)
    assert names["fc.weight"] == (10, 640)


@pytest.mark.parametrize(("depth", "widen"), [(10, 1), (16, 2)])
def test_wide_resnet_computes_what_the_reference_does(depth: int, widen: int) -> None:
    network = shaken(WideResNet(depth, widen, num_classes=5))
    x = images(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x), ref_wrn(network.state_dict(), x), rtol=1e-9, atol=1e-9)
        assert network(images(1, 3, 48, 40)).shape == (1, 5)


@pytest.mark.parametrize(("depth", "widen"), [(4, 1), (27, 10), (28, 0)])
def test_wide_resnet_refuses_impossible_depths_and_widths(depth: int, widen: int) -> None:
    with pytest.raises(BadInputError, match="6 n"):
        WideResNet(depth, widen)


# --- the small ResNet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (4, 64)])
def test_small_resnet_takes_any_channels_and_sizes(channels: int, size: int) -> None:
    network = shaken(SmallResNet(6, num_classes=3, in_channels=channels))
    x = images(2, channels, size, size)
    sd = network.state_dict()
    with torch.no_grad():
        stem = F.relu(ref_bn(sd, "bn1", ref_conv(sd, "conv1", x)))
        torch.testing.assert_close(network(x), ref_resnet_stages(sd, stem, 3), rtol=1e-9, atol=1e-9)


def test_small_resnet_width_comes_with_the_name() -> None:
    assert shapes(on_meta("small_resnet"))["conv1.weight"][0] == 24
    assert shapes(on_meta("small_resnet32"))["layer3.0.conv1.weight"] == (128, 64, 3, 3)
    assert find_architecture("small_resnet24").name == "small_resnet"


# --- the table ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", NAMES)
def test_every_name_builds_with_any_channels_and_classes(arch: str) -> None:
    names = shapes(on_meta(arch, num_classes=3, in_channels=2))
    assert names["conv1.weight"][1] == 2
    assert names["fc.bias"] == (3,)


def test_customary_normalisation_and_resolution() -> None:
    assert [find_architecture("resnet50").normalization, find_architecture("resnet50").resolution] == ["imagenet", None]
    assert [find_architecture("wrn_28_10").normalization, find_architecture("wrn_28_10").resolution] == ["none", 32]
    assert [find_architecture("small_resnet").normalization, find_architecture("small_resnet").resolution] == [
        "none",
        None,
    ]


FACTORIES = """
import torch
from torch import nn

def plain(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))

def channels(num_classes, in_channels=3):
    return nn.Conv2d(in_channels, num_classes, 1)

def anything(num_classes, **rest):
    assert not rest
    return nn.Linear(1, num_classes)

def late(num_classes):
    import jb_neighbour
    return jb_neighbour.make(num_classes)

def broken(num_classes):
    raise RuntimeError("no\\nluck")

def nothing(num_classes):
    return None

number = 3
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with modules in it, which leave no trace."""
    (tmp_path / "jb_factories.py").write_text(FACTORIES)
    (tmp_path / "jb_neighbour.py").write_text("from torch import nn\ndef make(n):\n    return nn.Linear(2, n)\n")
    (tmp_path / "jb_needs.py").write_text("import jb_no_such_dependency\n")
    (tmp_path / "jb_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("jb_")]:
        del sys.modules[name]


def test_a_factory_in_the_current_directory_is_called(modules: Path) -> None:
    before = list(sys.path)
    assert build_network("jb_factories:plain", 4, 5)(torch.zeros(1, 3, 2, 2)).shape == (1, 4)
    assert build_network("jb_factories:channels", 4, 5)(torch.zeros(1, 5, 2, 2)).shape == (1, 4, 2, 2)
    assert isinstance(build_network("jb_factories:anything", 4, 5), nn.Linear)
    assert isinstance(build_network("jb_factories:late", 4), nn.Linear)
    assert sys.path == before
    assert find_architecture("jb_factories:plain").builtin is False


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("resnet51", ["resnet50", "wrn_28_10", "small_resnet", "package.module:factory"]),
        ("small_resnet0", ["unknown architecture"]),
        ("wrn_28_10x", ["unknown architecture"]),
        ("wrn_27_10", ["6 n + 4"]),
        ("jb_missing:f", ["no module 'jb_missing'", "PYTHONPATH"]),
        ("jb_factories.sub:f", ["no module 'jb_factories.sub'"]),
        ("jb_factories:absent", ["has no 'absent'"]),
        ("jb_factories:number", ["which cannot be called"]),
        ("jb_factories:broken", ["failed", "no luck"]),
        ("jb_factories:nothing", ["returned None", "torch.nn.Module"]),
        ("jb_needs:f", ["jb_no_such_dependency", "install"]),
        ("jb_syntax:f", ["SyntaxError"]),
        ("jb_factories:", ["package.module:factory"]),
        (":f", ["package.module:factory"]),
        ("a b:f", ["package.module:factory"]),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(modules: Path, arch: str, words: list[str]) -> None:
    with pytest.raises(BadInputError) as caught:
        build_network(arch, 10)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(("classes", "channels"), [(0, 3), (10, 0)])
def test_numbers_below_one_are_refused(classes: int, channels: int) -> None:
    with pytest.raises(BadInputError, match="at least 1"):
        build_network("small_resnet", classes, channels)


# --- the joint model ------------------------------------------------------------------------------------------------------


def test_joint_model_normalises_inside_and_learns_no_normalisation() -> None:
    model = JointModel(nn.Flatten(), mean=(0.1, 0.2), std=(0.5, 0.25)).double()
    x = images(3, 2, 4, 4)
    expected = torch.cat([(x[:, :1] - 0.1) / 0.5, (x[:, 1:] - 0.2) / 0.25], dim=1).flatten(1)
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
    assert not list(model.parameters())
    assert {name for name, _ in model.named_buffers()} == {"mean", "std"}


def test_joint_model_refuses_other_numbers_of_channels() -> None:
    model = JointModel(nn.Flatten(), mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(BadInputError, match=r"\[B, 3, H, W\]"):
        model(torch.zeros(2, 1, 4, 4))


def test_normalisation_as_users_write_it() -> None:
    assert parse_normalization("none", 2) == ((0.0, 0.0), (1.0, 1.0))
    assert parse_normalization("0.5,.25/1,2e-1", 2) == ((0.5, 0.25), (1.0, 0.2))
    assert parse_normalization("imagenet", 3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert parse_normalization("cifar10", 3)[0] == (0.4914, 0.4822, 0.4465)


@pytest.mark.parametrize(
    ("text", "channels", "word"),
    [
        ("imagnet", 3, "imagenet, cifar10, none"),
        ("imagenet", 1, "1 channels"),
        ("0.5,0.5/0.5,0.5", 3, "2 means"),
        ("0.5/0.5/0.5", 1, "cannot read"),
        ("123.7,116.3,103.5/58.4,57.1,57.4", 3, "divide by 255"),
        ("0.5/0", 1, "above 0"),
        ("nan/1", 1, "outside"),
        ("0.5/inf", 1, "finite"),
        ("", 1, "cannot read"),
    ],
)
def test_unusable_normalisations_are_refused(text: str, channels: int, word: str) -> None:
    with pytest.raises(BadInputError, match=word) as caught:
        parse_normalization(text, channels)
    assert "\n" not in str(caught.value)

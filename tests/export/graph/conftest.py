import pytest
import torch
from graph_models import TinyResNet
from torch import nn


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """A small network trained for a few seconds on noisy digits, 32 px: gradients of untrained ones are chaotic."""
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    torch.manual_seed(0)
    images = torch.from_numpy(data.images).float()[:, None] / 16
    images = nn.functional.interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(data.target).long()
    model = TinyResNet()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(80):
        rows = torch.randint(0, len(images), (64,))
        x = (images[rows] + 0.2 * torch.randn(64, 3, 32, 32)).clamp(0, 1)
        loss = nn.functional.cross_entropy(model(x), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)

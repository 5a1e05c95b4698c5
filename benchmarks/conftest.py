"""What all benchmarks share: one thread, one model, one set of images; nothing is downloaded."""

import pytest
import torch

from sa_lib.model import ARCHITECTURES, build


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample():
    """(count, latent_dim) -> images, labels and noise; time does not depend on what is in the images."""
    def draw(count, latent_dim):
        generator = torch.Generator().manual_seed(0)
        images = (torch.rand(count, 1, 28, 28, generator=generator) - 0.8).clamp_min(0) * 5
        return (images, torch.randint(10, (count,), generator=generator),
                torch.randn(count, latent_dim, generator=generator))
    return draw


@pytest.fixture(scope="session", params=["mlp", "conv"])
def model(request):
    return build(ARCHITECTURES[request.param], seed=0).eval()

"""Measures of a layer, on layers whose content is known beforehand."""

import pytest
import torch

from sa_lib import latent
from sa_lib.labels import one_hot
from sa_lib.model import ARCHITECTURES, ModelConfig, build


def clusters(count=200, classes=10, apart=10.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centers = apart * torch.randn(classes, 6, generator=generator)
    return centers[labels] + torch.randn(count, 6, generator=generator), labels


@pytest.mark.parametrize("config", [ModelConfig(latent_dim=3, hidden=(16, 8)), ModelConfig("conv", 3, (4, 8))])
def test_every_hidden_layer_is_read_in_order(config):
    model = build(config, 0).eval()
    x, y = torch.rand(5, 1, 28, 28), one_hot(torch.arange(5))
    values = latent.activations(model, x, y, batch=2)
    *_, deepest = values
    assert list(values) == ["encoder 1", "encoder 2", "mean", "decoder 1", "decoder 2"][:4 + (deepest == "decoder 2")]
    assert deepest == ("decoder 2" if config.architecture == "mlp" else "decoder 1")
    assert torch.allclose(values["mean"], model.encode(x, y)[0], atol=1e-6)
    assert {len(layer) for layer in values.values()} == {5}
    assert float(values[deepest].min()) >= 0
    with torch.no_grad():
        last = model.decoder.layers[-1]
        hidden = values[deepest]
        shaped = hidden if config.architecture == "mlp" else hidden.unflatten(1, (4, 14, 14))
        assert torch.allclose(last(shaped).flatten(), model.decode_logits(values["mean"], y).flatten(), atol=1e-5)
    assert not model.encoder.layers[1]._forward_hooks, "no hook is left behind"


def test_the_neutral_label_names_no_class():
    y = latent.neutral(3)
    assert y.shape == (3, 10)
    assert torch.allclose(y.sum(1), torch.ones(3))
    assert len(y.unique()) == 1


@pytest.mark.parametrize("recall", [latent.probe_recall, latent.knn_recall])
def test_clusters_are_recognized_and_noise_is_not(recall):
    x, labels = clusters()
    by_class = recall(x[:150], labels[:150], x[150:], labels[150:])
    assert list(by_class.index) == list(range(10))
    assert by_class.min() == 1
    noise = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    assert recall(noise[:150], labels[:150], noise[150:], labels[150:]).mean() < 0.4


def test_silhouettes_tell_clusters_from_noise():
    x, labels = clusters()
    assert latent.silhouette(x, labels).min() > 0.5
    noise = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    assert abs(latent.silhouette(noise, labels).mean()) < 0.1


def test_classes_are_as_far_apart_as_their_means():
    values = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 5.0]])
    distances = latent.class_distances(values, torch.tensor([4, 4, 7]))
    assert distances.loc[4, 7] == 5
    assert distances.loc[7, 4] == 5
    assert distances.loc[4, 4] == 0
    assert distances.isna().sum().sum() == 100 - 4, "the other classes have no point"


def test_cka_ignores_rotation_and_scale_and_tells_independent_layers_apart():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    assert latent.linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1)
    assert latent.linear_cka(x, torch.randn(300, 6, generator=generator)) < 0.1


def test_cka_by_inputs_is_cka_by_features():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    a, b = (t.double() - t.double().mean(0) for t in (x, x[:, :2]))
    by_features = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert latent.linear_cka(a, b) == pytest.approx(float(by_features))


def test_cka_of_different_numbers_of_inputs_is_refused():
    with pytest.raises(ValueError, match="first and second.*300.*299"):
        latent.linear_cka(torch.ones(300, 6), torch.ones(299, 6))


def test_one_embedding_keeps_the_clusters_of_all():
    x, labels = clusters(apart=20.0)
    first, second = latent.joint_tsne([x, x + 0.1])
    assert first.shape == (200, 2)
    assert second.shape == (200, 2)
    recall = latent.knn_recall(first, labels, second, labels, 3)
    assert recall.min() > 0.9, "the same point of two models lies in the same place"


def test_changed_layers_are_told_from_unchanged_ones():
    before, after = (build(ARCHITECTURES["mlp"], 0).requires_grad_(False) for _ in range(2))
    fisher = {name: torch.rand_like(w) for name, w in before.named_parameters()}
    after.decoder.layers[4].weight += fisher["decoder.layers.4.weight"] / 100
    after.decoder.layers[2].weight *= 1.5
    table = latent.weight_changes(before, after, fisher)
    assert table.loc["encoder.layers.0"].tolist() == [0, 0, 0]
    assert table.loc["decoder.layers.2", "moved"] == pytest.approx(0.5)
    assert table.loc["decoder.layers.4", "rank correlation"] > 0.999
    assert table.loc["decoder.layers.4", "top"] == pytest.approx(0.271, abs=0.01)
    assert abs(table.loc["decoder.layers.2", "rank correlation"]) < 0.05

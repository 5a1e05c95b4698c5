"""The page "Playground": a run's models as files, to draw, judge and attack them in the reader's browser.

There are two files. ``playground.bin`` holds all weights and images as
float16, little-endian, one array after the other in C order.
``playground.json`` holds the place of each array and all small values.
``book/_static/playground.js`` reads them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .attacks import AttackResult
from .checks import check_types, shorten
from .data import Dataset
from .judges import Judge
from .labels import CLASSES, forget_set
from .reconstruction import SearchConfig
from .store import tensor_digest, write_atomically
from .trained import Trained

__all__ = ["FILES", "MAX_BYTES", "THREATS", "export"]

FILES = ("playground.json", "playground.bin")
# Upper limit for both files together: readers open the page on phones.
MAX_BYTES = 5_000_000
# The threat models that the page offers; they differ in the reader's freedom to choose y.
THREATS = ("y on the simplex", "y free")


def export(folder: str | Path, models: Mapping[str, Trained], judge: Judge, dataset: Dataset,
           forget: int | Sequence[int], attacks: Mapping[tuple[str, int, str], AttackResult],
           config: SearchConfig) -> None:
    """Write `FILES` for the page; or remove them if the page does not have their decoder.

    It has that of "mlp", and draws the book's images: ten classes, 28x28 pixels in gray.

    Args:
        folder: of the files; it is made if it does not exist.
        models: name -> model, all of one architecture; first the baseline, then a model that has forgotten
            the first class in `forget`.
        judge: judge B. Its batch normalization and temperature are folded into its weights.
        dataset: its first test images, one of each class and three of each in `forget`, become targets.
        forget: the classes, 0-9, in their order.
        attacks: (threat, class, model) -> the reconstruction attack for the first class in `forget`: on every
            model with y on the simplex and with y free, and on the baseline with z in the prior.
        config: the budget of these attacks; the attack on the page has the same, but for a smaller pool.

    Raises:
        ValueError: an attack is missing, a weight is too large for float16, or the files would be larger than
            `MAX_BYTES`.
    """
    check_types(folder=(folder, (str, Path)), models=(models, Mapping), judge=(judge, Judge),
                dataset=(dataset, Dataset), attacks=(attacks, Mapping), config=(config, SearchConfig))
    if len(models) < 2 or not all(isinstance(trained, Trained) for trained in models.values()):
        raise ValueError(f"models must map at least two names to trained models, got {shorten(models)}")
    shape = next(iter(models.values())).net.config
    forget = forget_set(forget, classes=shape.classes)
    folder, digit = Path(folder), forget[0]
    needed = {(threat, digit, name) for threat in THREATS for name in models} | {
        ("z in the prior", digit, next(iter(models)))}
    if missing := needed - {key for key, value in attacks.items() if isinstance(value, AttackResult)}:
        raise ValueError(f"attacks must have a result for every (threat, class, model), got none for {min(missing)}")
    if shape.architecture != "mlp" or (shape.classes, shape.image_shape) != (CLASSES, (1, 28, 28)):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        return
    parts = []

    def pack(name: str, tensor: torch.Tensor) -> dict[str, Any]:
        half = tensor.detach().cpu().half()
        if not half.isfinite().all():
            raise ValueError(f"{name} must have values up to 65504, the largest of float16, "
                             f"got {float(tensor.detach().abs().max()):.3g}")
        place = {"offset": sum(map(len, parts)), "shape": list(half.shape)}
        parts.append(half.contiguous().numpy().astype("<f2").tobytes())
        return place

    def layers(name: str, modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
        return [{"weight": pack(name, layer.weight), "bias": pack(name, layer.bias)} for layer in modules]

    convolutions = [fuse_conv_bn_eval(*pair) for pair in zip(judge.body[::3], judge.body[1::3])]
    head = nn.Linear(judge.head.in_features, judge.head.out_features)
    head.weight.data, head.bias.data = judge.head.weight / judge.temperature, judge.head.bias / judge.temperature
    labels = [k for k in range(CLASSES) for _ in range(3 if k in forget else 1)]
    images = torch.cat([dataset.test_images[dataset.test_labels == k][:labels.count(k)] for k in range(CLASSES)])
    contents = {
        "digit": digit,
        "models": [{"name": name, "digest": trained.digest,
                    "layers": layers(name, trained.net.decoder.layers[::2])} for name, trained in models.items()],
        "judge": {"digest": tensor_digest(judge.state_dict()), "convolutions": layers("the judge", convolutions),
                  "head": layers("the judge", [head])[0]},
        "targets": {"labels": labels, "images": pack("an image", images.flatten(1))},
        "presets": _presets(models, judge, digit, attacks),
        "attack": asdict(config) | {
            "targets": len(attacks[THREATS[0], digit, next(iter(models))].errors),
            "errors": {threat: {name: float(attacks[threat, digit, name].errors.mean()) for name in models}
                       for threat in THREATS}}}
    if (size := sum(map(len, parts))) > MAX_BYTES:
        raise ValueError(f"models must fit into {MAX_BYTES} bytes together with the judge and the targets, got {size}")
    text = json.dumps(contents | {"bytes": size}, indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(FILES, (text.encode(), b"".join(parts))):
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(content)


def _presets(models: Mapping[str, Trained], judge: Judge, digit: int,
            attacks: Mapping[tuple[str, int, str], AttackResult]) -> list[dict[str, Any]]:
    """Inputs that the page offers to begin with: for each attack, the answer that convinces the judge most.

    Args:
        models, judge, attacks: as for `export`.
        digit: the class that was attacked, 0-9.

    Returns:
        for each input its `name`, the `model` to draw with, `z` [latent_dim], `y` [10] and `free`: whether y lies
        off the simplex. One input has half of each of two other labels: the two that the attack on the unlearned
        model weights most.
    """
    baseline, unlearned = list(models)[:2]
    simplex, free = (attacks[threat, digit, unlearned].end for threat in THREATS)
    prior = attacks["z in the prior", digit, baseline].end
    weights = simplex.y[0].mean(0)
    weights[digit] = 0
    pair = weights.topk(2).indices.sort().values
    mixture = torch.zeros_like(weights)
    mixture[pair] = 0.5

    def preset(name: str, model: str, z: torch.Tensor, y: torch.Tensor, source: str,
               off_simplex: bool = False) -> dict[str, Any]:
        with torch.no_grad():
            images = models[source].net.decode(z, y)
        best = judge.probabilities(images)[:, digit].argmax()
        return {"name": name, "model": model, "z": z[best].tolist(), "y": y[best].tolist(),
                "free": off_simplex}

    return [preset(f"a {digit} from the baseline", baseline, prior.z[0], prior.y[0], baseline),
            preset("gray", unlearned, prior.z[0], prior.y[0], baseline),
            preset(f"a {digit} through {pair[0]} and {pair[1]}", unlearned, simplex.z[0],
                   mixture.expand_as(simplex.y[0]), unlearned),
            preset("the attack's best answer", unlearned, simplex.z[0], simplex.y[0], unlearned),
            preset("its best answer, y free", unlearned, free.z[0], free.y[0], unlearned, True)]

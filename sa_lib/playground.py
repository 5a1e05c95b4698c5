"""What the page "Playground" needs to draw, judge and attack a run's models in the reader's browser.

Two files: ``playground.bin``, all weights and images as float16, little-endian,
one array after the other in C order; and ``playground.json``, which says where
each lies and carries what is small. ``book/_static/playground.js`` reads them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .attacks import AttackConfig, AttackResult
from .checks import check_types, shorten
from .data import Dataset
from .judges import Judge
from .labels import CLASSES, forget_set
from .store import tensor_digest, write_atomically
from .trained import Trained

__all__ = ["FILES", "MOST", "export"]

FILES = ("playground.json", "playground.bin")
# Bytes that a reader on a phone may be asked to fetch.
MOST = 5_000_000
# The threat models that the page offers, by what its reader may do with y.
THREATS = ("y on the simplex", "y free")


def export(folder: str | Path, models: Mapping[str, Trained], judge: Judge, dataset: Dataset,
           forgotten: Sequence[int], found: Mapping[tuple[str, int, str], AttackResult], config: AttackConfig) -> None:
    """Write `FILES` for the page; or remove them where the models are not "mlp", the one decoder that it knows.

    Args:
        folder: where they go; made if it is not there.
        models: name -> model, all of one architecture; first the baseline, then one that has forgotten
            the first class in `forgotten`.
        judge: judge B. Its batch normalisation and temperature are folded into its weights.
        dataset: its first test images, one of each class and three of each in `forgotten`, become targets.
        forgotten: the classes, 0-9, in their order.
        found: (threat, class, model) -> the reconstruction attack, for the first class in `forgotten`: on every
            model with y on the simplex and with y free, and on the baseline with z in the prior.
        config: what that attack could spend; the page's spends the same.

    Raises:
        ValueError: an attack is missing, a weight is too large for float16, or the files would be larger than
            `MOST` bytes.
    """
    check_types(folder=(folder, (str, Path)), models=(models, Mapping), judge=(judge, Judge),
                dataset=(dataset, Dataset), found=(found, Mapping), config=(config, AttackConfig))
    if len(models) < 2 or not all(isinstance(trained, Trained) for trained in models.values()):
        raise ValueError(f"models={shorten(models)} is not allowed; use at least two that are trained, by their names")
    forgotten = forget_set(forgotten, name="forgotten")
    folder, digit = Path(folder), forgotten[0]
    needed = {(threat, digit, name) for threat in THREATS for name in models} | {
        ("z in the prior", digit, next(iter(models)))}
    if missing := needed - {key for key, value in found.items() if isinstance(value, AttackResult)}:
        raise ValueError(f"found lacks the attack {min(missing)}; give one by (threat, class, model) for all models")
    if any(trained.net.config.architecture != "mlp" for trained in models.values()):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        return
    parts = []

    def kept(name: str, tensor: torch.Tensor) -> dict[str, Any]:
        half = tensor.detach().cpu().half()
        if not half.isfinite().all():
            raise ValueError(f"{name} reaches {float(tensor.detach().abs().max()):.3g}; float16 holds up to 65504")
        place = {"offset": sum(map(len, parts)), "shape": list(half.shape)}
        parts.append(half.contiguous().numpy().astype("<f2").tobytes())
        return place

    def layers(name: str, modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
        return [{"weight": kept(name, layer.weight), "bias": kept(name, layer.bias)} for layer in modules]

    convolutions = [fuse_conv_bn_eval(*pair) for pair in zip(judge.body[::3], judge.body[1::3])]
    head = nn.Linear(judge.head.in_features, judge.head.out_features)
    head.weight.data, head.bias.data = judge.head.weight / judge.temperature, judge.head.bias / judge.temperature
    labels = [k for k in range(CLASSES) for _ in range(3 if k in forgotten else 1)]
    images = torch.cat([dataset.test_images[dataset.test_labels == k][:labels.count(k)] for k in range(CLASSES)])
    about = {
        "digit": digit,
        "models": [{"name": name, "digest": trained.digest,
                    "layers": layers(name, trained.net.decoder.layers[::2])} for name, trained in models.items()],
        "judge": {"digest": tensor_digest(judge.state_dict()), "convolutions": layers("the judge", convolutions),
                  "head": layers("the judge", [head])[0]},
        "targets": {"labels": labels, "images": kept("an image", images.flatten(1))},
        "presets": presets(models, judge, digit, found),
        "attack": asdict(config) | {
            "targets": len(found[THREATS[0], digit, next(iter(models))].errors),
            "errors": {threat: {name: float(found[threat, digit, name].errors.mean()) for name in models}
                       for threat in THREATS}}}
    if (size := sum(map(len, parts))) > MOST:
        raise ValueError(f"the playground would take {size} bytes; {MOST} are allowed")
    text = json.dumps(about | {"bytes": size}, indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(FILES, (text.encode(), b"".join(parts))):
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(content)


def presets(models: Mapping[str, Trained], judge: Judge, digit: int,
            found: Mapping[tuple[str, int, str], AttackResult]) -> list[dict[str, Any]]:
    """Inputs worth a look; of the answers that an attack gave for its targets, the one that the judge is surest of.

    Args:
        models, judge, found: as for `export`.
        digit: the class that the attacks were after, 0-9.

    Returns:
        for each its `name`, the `model` to look at, `z` [latent_dim], `y` [10] and `free`: whether y lies
        off the simplex. One is reached through two other labels: those that the attacker of the model that has
        forgotten the class makes most use of.
    """
    baseline, forgot = list(models)[:2]
    simplex, free = (found[threat, digit, forgot].end for threat in THREATS)
    known = found["z in the prior", digit, baseline].end
    used = simplex.y[0].mean(0)
    used[digit] = 0
    two = used.topk(2).indices.sort().values
    through = torch.zeros_like(used)
    through[two] = 0.5

    def preset(name: str, model: str, z: torch.Tensor, y: torch.Tensor, seen_in: str,
               off_simplex: bool = False) -> dict[str, Any]:
        with torch.no_grad():
            images = models[seen_in].net.decode(z, y)
        surest = judge.probabilities(images)[:, digit].argmax()
        return {"name": name, "model": model, "z": z[surest].tolist(), "y": y[surest].tolist(),
                "free": off_simplex}

    return [preset(f"a {digit} from the baseline", baseline, known.z[0], known.y[0], baseline),
            preset("gray", forgot, known.z[0], known.y[0], baseline),
            preset(f"a {digit} through {two[0]} and {two[1]}", forgot, simplex.z[0],
                   through.expand_as(simplex.y[0]), forgot),
            preset("the attack's best answer", forgot, simplex.z[0], simplex.y[0], forgot),
            preset("its best answer, y free", forgot, free.z[0], free.y[0], forgot, True)]

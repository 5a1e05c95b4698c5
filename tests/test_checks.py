"""Argument checks: a good value passes, a bad one is refused in one line with its name and its value."""

import dataclasses
import math
import re

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sa_lib import checks
from sa_lib.model import ModelConfig, build

IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
ANYTHING = (st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())
            | st.dictionaries(st.text(), st.integers()))


class WithoutText:
    def __repr__(self):
        raise RuntimeError("no text")


@given(ANYTHING)
def test_a_shortened_value_is_one_short_line(value):
    text = checks.shorten(value)
    assert "\n" not in text
    assert len(text) <= 120


@pytest.mark.parametrize("value, text", [
    ("a\nb", r"'a\nb'"), ([1, 2], "[1, 2]"), (torch.zeros(2, 2), "tensor([[0., 0.], [0., 0.]])"),
    (WithoutText(), "a WithoutText"), (10 ** 10_000, "a int"), ("x" * 200, "'" + "x" * 116 + "...")],
    ids=["line break", "list", "tensor", "no text", "long number", "long text"])
def test_shortened_values(value, text):
    assert checks.shorten(value) == text


@given(ANYTHING)
def test_a_whole_number_is_an_int_from_the_least(value):
    good = type(value) is int and value >= 1
    if good:
        checks.check_whole(steps=value)
        return
    with pytest.raises(ValueError, match="^steps must be a whole number from 1, got .+$"):
        checks.check_whole(steps=value)


@given(ANYTHING)
def test_a_number_is_finite_and_from_zero(value):
    good = type(value) in (int, float) and math.isfinite(value) and value >= 0
    if good:
        checks.check_number(rate=value)
        return
    with pytest.raises(ValueError, match="^rate must be a finite number from 0, got .+$"):
        checks.check_number(rate=value)


@given(ANYTHING)
def test_a_seed_is_a_whole_number_that_pytorch_and_numpy_take(value):
    good = type(value) is int and 0 <= value < 2**32
    if good:
        checks.check_seed(value)
        return
    with pytest.raises(ValueError, match="^seed must be a whole number from 0 to 4294967295, got .+$"):
        checks.check_seed(value)


def test_the_limits_of_a_seed():
    checks.check_seed(0)
    checks.check_seed(2**32 - 1)
    with pytest.raises(ValueError, match="^seed must be .*, got 4294967296$"):
        checks.check_seed(2**32)


def test_the_least_whole_number_may_be_another():
    checks.check_whole(6, samples=6)
    with pytest.raises(ValueError, match="^samples must be a whole number from 6, got 5$"):
        checks.check_whole(6, samples=5)


def test_a_wrong_type_is_named_with_the_right_ones():
    checks.check_types(path=("x", (str, bytes)))
    with pytest.raises(TypeError, match=r"^path must be a str or bytes, got 3 \(a int\)$"):
        checks.check_types(path=(3, (str, bytes)))


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = "x"
    steps: int = 1
    rate: float = 0.5


@pytest.mark.parametrize("change", [{}, {"steps": 10**9}, {"rate": 0}, {"rate": 1e300}, {"name": ""}])
def test_good_configurations_pass(change):
    checks.check_config(Config(**change))


@pytest.mark.parametrize("name, bad", [("steps", 0), ("steps", 1.0), ("steps", True), ("rate", -1e-9),
                                       ("rate", math.nan), ("rate", "1")])
def test_bad_configurations_are_refused(name, bad):
    with pytest.raises(ValueError, match=f"^{name} must be a (whole|finite) number from [01], got {bad!r}$"):
        checks.check_config(Config(**{name: bad}))


@pytest.mark.parametrize("images", [IMAGES, IMAGES[:1], IMAGES.double(), IMAGES.half(), torch.zeros(1, 1, 28, 28)])
def test_good_images_pass(images):
    checks.check_images(images)


@pytest.mark.parametrize("bad", [IMAGES[:0], IMAGES[:, 0], IMAGES.flatten(1), IMAGES[..., :27],
                                 IMAGES.expand(-1, 3, -1, -1), (255 * IMAGES).byte(), torch.tensor(0.5)])
def test_images_of_another_shape_or_type_are_refused(bad):
    message = re.escape(f"got {bad.dtype} {list(bad.shape)}")
    with pytest.raises(ValueError, match=rf"^targets must be floating-point \[N, 1, 28, 28\] .*, {message}$"):
        checks.check_images(bad, "targets", (1, 28, 28))


@pytest.mark.parametrize("lowest, highest", [(0, 255), (-0.5, 1), (0, 1.5), (0, math.inf), (math.nan, math.nan)])
def test_pixels_outside_the_unit_interval_are_refused(lowest, highest):
    images = torch.full((2, 1, 28, 28), float(lowest))
    images[1, 0, 27, 27] = highest
    message = re.escape(f"images must have pixels in [0, 1], got [{lowest}, {highest}]; divide by the white level")
    with pytest.raises(ValueError, match=f"^{message}"):
        checks.check_images(images)


def test_images_must_be_a_tensor():
    with pytest.raises(TypeError, match="^images must be a Tensor, got "):
        checks.check_images(IMAGES.numpy())


def test_rows_of_values():
    checks.check_values(first=torch.zeros(2, 3), second=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="^first, second must have rows of one length, got 3, 4$"):
        checks.check_values(first=torch.zeros(2, 3), second=torch.zeros(5, 4))


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(2, 3).int()])
def test_values_of_another_shape_or_type_are_refused(bad):
    with pytest.raises(ValueError, match=r"^noise must be floating-point \[N, d\] with N of at least 1, got "):
        checks.check_values(noise=bad)


def test_values_that_are_not_finite_are_counted():
    with pytest.raises(ValueError, match="^noise must be finite everywhere, got 2 values that are not$"):
        checks.check_values(noise=torch.tensor([[1.0, math.nan, math.inf]]))


@pytest.mark.parametrize("bad", ["C", 1, True, None, ["A"], torch.tensor(1)])
def test_a_value_that_is_not_among_the_allowed_is_refused(bad):
    checks.check_name(("A", "B"), judge="A")
    with pytest.raises(ValueError, match="^judge must be one of A, B, got "):
        checks.check_name(("A", "B"), judge=bad)


def test_true_is_not_one():
    checks.check_name((1, 2), k=1)
    with pytest.raises(ValueError, match="^k must be one of 1, 2, got True$"):
        checks.check_name((1, 2), k=True)


def test_lists_of_names():
    checks.check_names(range(3), marked=[0, 2])
    checks.check_names(range(3), marked=())
    for bad in ("0", [3], [True], 1, {0}, None):
        with pytest.raises(ValueError, match="^marked must be a list of names among 0, 1, 2, got "):
            checks.check_names(range(3), marked=bad)


def test_tables():
    table = pd.DataFrame({"step": [1, 2], "name": ["a", "b"]})
    checks.check_table("step", log=table)
    checks.check_table(log=table[["step"]])
    for columns, bad in ((["name"], table), (["loss"], table), ([], table), (["step"], table.iloc[:0])):
        with pytest.raises(ValueError, match="^log must be a table with at least one row and numbers in .*, got "):
            checks.check_table(*columns, log=bad)


@pytest.fixture
def model():
    return build(ModelConfig(latent_dim=2, hidden=(4, 3)), 0)


def test_a_fisher_fits_its_model(model):
    fisher = dict(model.named_parameters())
    checks.check_fisher(model, fisher)
    for name, bad in (("missing", {key: fisher[key] for key in list(fisher)[1:]}), ("extra", fisher | {"w": fisher}),
                      ("shape", fisher | {"encoder.mean.bias": torch.zeros(3)})):
        with pytest.raises(ValueError, match="^fisher must be of a model with the same configuration, got "):
            checks.check_fisher(model, bad)
            pytest.fail(name)

"""Labels, forget sets and retain sets."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sa_lib.labels import check_label, check_labels, forget_set, one_hot, retain_set, select

DIGITS = st.integers(0, 9)
FORGET_SETS = st.lists(DIGITS, min_size=1, max_size=9, unique=True)


@given(DIGITS)
def test_a_digit_is_a_forget_set_of_one(digit):
    assert forget_set(digit) == (digit,)


@given(FORGET_SETS)
def test_a_forget_set_keeps_its_order(digits):
    assert forget_set(digits) == tuple(digits)
    assert forget_set(tuple(digits)) == tuple(digits)


@given(FORGET_SETS)
def test_a_forget_set_of_a_forget_set_is_the_same(digits):
    assert forget_set(forget_set(digits)) == forget_set(digits)


@pytest.mark.parametrize("bad", [[], list(range(10)), [9, 9], [10], [-1], ["9"], [None], [9.0], [True], [[9]], {9}, 10,
                                 -1, 9.0, True, None, "9", "[9]", range(3), torch.tensor(9), torch.tensor([9])],
                         ids=repr)
def test_anything_else_is_no_forget_set(bad):
    message = f"forget must be a class from 0 to 9 or a list of 1 to 9 distinct ones, got {bad!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        forget_set(bad)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=12))
def test_a_forget_set_is_one_to_nine_distinct_digits_or_refused_in_one_line(value):
    try:
        digits = forget_set(value)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert len(set(digits)) == len(digits)
        assert set(digits) < set(range(10))


@pytest.mark.parametrize("least, most, good, bad", [(0, 9, [], list(range(10))), (2, 9, [3, 1], 3), (1, 1, 7, [7, 1]),
                                                    (1, 2, [4, 5], [4, 5, 6])])
def test_the_size_of_a_forget_set_may_be_bounded(least, most, good, bad):
    assert forget_set(good, least, most) == ((7,) if good == 7 else tuple(good))
    with pytest.raises(ValueError, match="^without must be a class .*, got "):
        forget_set(bad, least, most, name="without")


def test_the_message_of_a_chapter_that_forgets_one_digit_asks_for_one_digit():
    with pytest.raises(ValueError, match=r"^forget must be a class from 0 to 9, got \[1, 2\]$"):
        forget_set([1, 2], most=1)


@given(st.lists(DIGITS, max_size=9, unique=True))
def test_every_class_is_either_forgotten_or_retained(digits):
    retain = retain_set(digits)
    assert sorted([*retain, *digits]) == list(range(10))
    assert list(retain) == sorted(retain)


def test_the_retain_set_of_a_digit_and_of_nothing():
    assert retain_set(4) == (0, 1, 2, 3, 5, 6, 7, 8, 9)
    assert retain_set(()) == tuple(range(10))


@pytest.mark.parametrize("bad", [list(range(10)), [3, 3], 10, "3"])
def test_a_bad_forget_set_has_no_retain_set(bad):
    with pytest.raises(ValueError, match="^forget must be "):
        retain_set(bad)


@given(st.lists(DIGITS), st.sets(DIGITS))
def test_select_gives_the_places_of_the_chosen_labels(labels, classes):
    expected = [place for place, label in enumerate(labels) if label in classes]
    assert select(torch.tensor(labels, dtype=torch.long), classes).tolist() == expected


def test_one_hot_gives_the_rows_of_the_unit_matrix():
    assert torch.equal(one_hot(torch.arange(10)), torch.eye(10))
    assert torch.equal(one_hot(torch.tensor([3, 3], dtype=torch.uint8)), torch.eye(10)[[3, 3]])
    assert one_hot(torch.zeros(0, dtype=torch.long)).shape == (0, 10)


@pytest.mark.parametrize("labels, message", [
    (torch.tensor([0, 10]), r"must be in \[0, 9\], got \[0, 10\]"),
    (torch.tensor([-1, 3]), r"must be in \[0, 9\], got \[-1, 3\]"),
    (torch.tensor([1.0, 2.0]), r"must be integers of shape \[N\], got torch.float32 \[2\]"),
    (torch.tensor([True]), r"must be integers of shape \[N\], got torch.bool \[1\]"),
    (torch.tensor([1j]), r"must be integers of shape \[N\], got torch.complex64 \[1\]"),
    (torch.tensor([[1, 2]]), r"must be integers of shape \[N\], got torch.int64 \[1, 2\]"),
    (torch.tensor(3), r"must be integers of shape \[N\], got torch.int64 \[\]")])
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"^labels {message}$"):
        one_hot(labels)


def test_labels_must_be_as_many_as_their_images():
    with pytest.raises(ValueError, match="^train_labels must be one for each of the 4 images or rows, got 3$"):
        check_labels(torch.arange(3), 4, name="train_labels")


def test_labels_may_have_another_number_of_outcomes():
    check_labels(torch.tensor([0, 10]), outcomes=11)
    with pytest.raises(ValueError, match=r"^labels must be in \[0, 1\], got \[0, 2\]$"):
        check_labels(torch.tensor([0, 2]), outcomes=2)


@given(DIGITS)
def test_a_digit_is_a_label(digit):
    check_label(digit)


@pytest.mark.parametrize("bad", [10, -1, 3.0, True, "3", None, [3]])
def test_anything_else_is_no_label(bad):
    with pytest.raises(ValueError, match=f"^label must be a class from 0 to 9, got {re.escape(repr(bad))}$"):
        check_label(bad)

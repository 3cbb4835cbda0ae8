"""Kinds of values: what text means, and what is refused with what it must be."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.runtime import values

NUMBERS = values.several(values.number())


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (values.number(), "8/255", 8 / 255),
        (values.number(), "0", 0.0),
        (values.integer(), "110_000", 110_000),
        (NUMBERS, "0,2/255,0.1", (0.0, 2 / 255, 0.1)),
        (NUMBERS, "(0, 0.1)", (0.0, 0.1)),
        (NUMBERS, "[0.5]", (0.5,)),
        (NUMBERS, "()", ()),
        (values.several(values.integer(), 2, 2), "100,1000", (100, 1000)),
        (values.several(values.nonempty_text()), "('a', 'b')", ("a", "b")),
        (values.boolean(), "True", True),
        (values.choice("x", "y"), "y", "y"),
        (values.row_of({"a": 1}, "letter"), "math:pi", "math:pi"),
        (values.optional(values.number()), "0.5", 0.5),
    ],
)
def test_text_is_read(kind, text, value):
    found = kind.read(text)
    assert found == value and type(found) is type(value)
    assert kind.check(found) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (values.number(), "many", "must be a number or a fraction"),
        (values.number(), "1/0", "must be a number or a fraction"),
        (values.number(), "nan", "must be finite and not negative"),
        (values.number(), "-0.1", "must be finite and not negative"),
        (values.number(positive=True), "0", "must be positive and finite"),
        (values.integer(1), "0", "must be a whole number, at least 1"),
        (values.integer(), "-1", "must be a whole number, at least 0"),
        (values.integer(0, 9), "10", r"must be a whole number, from 0 to 9"),
        (values.integer(), "1.5", "must be a whole number, at least 0"),
        (values.integer(), "²", "must be a whole number, at least 0"),
        (values.integer(), "9" * 20, "must be a whole number, at least 0"),
        (values.several(values.integer(), 2, 2), "1,2,3", "must be 2 values"),
        (values.several(values.number(), 1), "", "must be at least 1 values"),
        (values.distinct(values.several(values.number())), "0,1,0.0", "must not name one value twice"),
        (values.several(values.number()), "0,a", "must be a number or a fraction"),
        (values.boolean(), "perhaps", "must be true or false"),
        (values.choice("x", "y"), "z", "choose one of x, y"),
        (values.row_of({"a": 1}, "letter"), "b", "choose one of a, or bring your own"),
        (values.nonempty_text(), " ", "must not be empty"),
    ],
)
def test_text_is_refused_with_what_it_must_be(kind, text, message):
    with pytest.raises(ValueError, match=message):
        kind.read(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (values.number(), True),
        (values.number(), "0.1"),
        (values.number(), None),
        (values.integer(), 1.0),
        (values.integer(), True),
        (NUMBERS, 0.1),
        (NUMBERS, "0.1"),
        (NUMBERS, ("a",)),
        (values.boolean(), 1),
        (values.nonempty_text(), 3),
    ],
)
def test_values_of_another_type_are_refused(kind, value):
    with pytest.raises(ValueError, match="must"):
        kind.check(value)


@given(st.floats(0, 1e6))
def test_a_number_is_read_as_it_is_written(number):
    assert values.number().read(repr(number)) == number


@given(st.text())
def test_no_text_is_an_error_of_ours(text):
    """Whatever is typed, it is read or refused with a reason."""
    for kind in (values.number(), values.integer(), NUMBERS, values.boolean(), values.choice("x"), values.nonempty_text()):
        with contextlib.suppress(ValueError):
            assert kind.check(kind.read(text)) == kind.read(text)


def test_the_kind_of_an_option_follows_from_its_default():
    assert values.kind_like(0.5).read("1/4") == 0.25
    assert values.kind_like(5).read("3") == 3
    assert values.kind_like(False).read("true") is True
    assert values.kind_like("a").read("b") == "b"
    with pytest.raises(ValueError, match="must be a whole number, at least 1"):
        values.kind_like(5).check(0)
    assert values.optional(values.number()).check(None) is None and math.isfinite(values.optional(values.number()).check(1))

"""Values that nobody would give on purpose, in every field of a config and every option of a measure: accepted as what they say, or one line."""

import contextlib
import math

import ml_collections
import pytest
from damage import TRIED, counted  # noqa: F401
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.configs import base
from experiments.evaluation.measures import MEASURES
from experiments.evaluation.options import flag_fields
from experiments.evaluation.run import choose_measures
from experiments.runtime.errors import UserError
from experiments.runtime.flags import place
from irob.defenses import DEFENSES

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *(
                "",
                " ",
                "nan",
                "inf",
                "-inf",
                "-1",
                "1e400",
                "1e-400",
                "0x10",
                "²",
                "\u0661",
                "1_0",
                "8/255",
                "8/0",
                "()",
                "(0,nan)",
                "(a,b)",
            ),
            *("None", "[", "{}", "{a:1}", "true", "1,2,3", "os:getcwd", "os:sep", "math:nope", ":", "a:", "no.module:x", "9" * 30),
            *("adam(", "adam(b1=2,b1=3)", "adam(b1=__import__('os'))", "sgd(momentum=nan)", "linear_schedule(end_value=-1)", "flip,,flip"),
            *("x" * 300, "\0", "\n", "cam", "l2", "digits", "small", "int", "normal", "folder:/", "npz:/dev/null", "tfds:", "npz:"),
        ]
    ),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.lists(st.floats(), max_size=3).map(lambda values: ",".join(map(str, values))),
)
FIELDS = [*base.FIELDS, "defense.weight", "attack", "defense", "no_such_field", "eps_ramp[0]"]


def refused_in_one_line(action):
    """Whether it refuses; anything but a `UserError` of one line fails."""
    try:
        action()
    except UserError as error:
        message = str(error)
    else:
        return False
    assert message.strip() and "\n" not in message.strip(), message
    return True


@settings(max_examples=400)
@example(field="method", text="os:sep", method="normal")
@given(field=st.sampled_from(FIELDS), text=TEXTS, method=st.sampled_from(list(DEFENSES)))
def test_overrides_of_a_config(field, text, method):
    TRIED["override"] += 1

    def load():
        config = base.load_config(f"digits:{method},tiny", [f"{field}={text}"])
        base.validate_config(config)
        plain = base.plain_config(config)
        assert all(math.isfinite(value) for value in base.flat(plain).values() if isinstance(value, float))
        again = base.stored_config(plain, "config.json")
        assert base.plain_config(again) == plain

    if "\0" not in text:
        refused_in_one_line(load)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.just(float("nan")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=400)
@given(field=st.sampled_from([*base.FIELDS, "attack", "defense"]), value=VALUES)
def test_values_of_a_config_file(field, value):
    TRIED["config value"] += 1

    def load():
        config = base.load_config("digits:int,tiny")
        *parents, last = field.split(".")
        parent = config
        for part in parents:
            parent = parent[part]
        with contextlib.suppress(ValueError, TypeError):  # of ml_collections, which a config file would see itself
            parent[last] = ml_collections.ConfigDict(value) if isinstance(value, dict) and all("." not in key for key in value) else value
        base.validate_config(config)
        base.plain_config(config)

    refused_in_one_line(load)


OPTIONS = [
    (name, field) for name, measure in MEASURES.items() for field in flag_fields(next(iter(measure.presets.values())))
]  # fmt: skip


@settings(max_examples=400)
@given(option=st.sampled_from(OPTIONS), text=TEXTS)
def test_options_of_measures(option, text):
    TRIED["option"] += 1
    measure, field = option
    refused_in_one_line(lambda: choose_measures((measure,), "standard", {field: text}))


@settings(max_examples=300)
@given(text=TEXTS | st.text())
def test_places(text):
    TRIED["place"] += 1
    refused_in_one_line(lambda: place(text, "workdir"))


@pytest.mark.parametrize("stored", [None, [], 3, "a", {"a": 1}, {"method": []}, {"attack": {}}, {"defense": 3}, {"eps": {"b": 1}}])
def test_stored_configs(stored):
    assert refused_in_one_line(lambda: base.stored_config(stored, "config.json"))

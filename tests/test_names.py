"""Names of tables and of packages outside."""

import pytest

from experiments.runtime.errors import UserError
from experiments.runtime.names import find

TABLE = {"a": 1, "b": 2}


def test_a_row_by_its_key():
    assert find(TABLE, "b", "letter") == 2


def test_anything_by_module_and_attribute():
    assert find(TABLE, "math:pi", "letter") == pytest.approx(3.14159, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("c", "unknown letter 'c': choose one of a, b, or bring your own as package.module:attribute"),
        (
            "nowhere.at_all:x",
            "letter 'nowhere.at_all:x': there is no module 'nowhere'; its folder must be the current one or on PYTHONPATH",
        ),
        ("math:tau_b", "letter 'math:tau_b': math has no attribute 'tau_b'"),
        ("raising_module:x", "letter 'raising_module:x': importing raising_module raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_not_there(name, message, tmp_path, monkeypatch):
    (tmp_path / "raising_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        find(TABLE, name, "letter")
    assert str(error.value) == message

"""YAML is read as DVC reads it."""

import pytest
from dvc.utils.serialize import parse_yaml

from stages import yaml12
from stages.errors import UserError

SCALARS = (
    "010", "0o10", "0x1f", "1_000", "+1", "1:30", "no", "off", "yes", "y", "True", "TRUE", "~", "NULL", "1e-05", "1E-5",
    "1.e-5", ".5", "-.5", "1.", ".inf", "1e999", "'0.1'", "[1, 2.0]", "{a: 1}", "plain words", "2020-01-01",
)  # fmt: skip


@pytest.mark.parametrize("scalar", SCALARS)
def test_values_are_those_of_dvc(scalar: str) -> None:
    text = f"knob: {scalar}\n"
    value, expected = yaml12.parse(text, "params.yaml")["knob"], parse_yaml(text, "params.yaml")["knob"]
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("scalar", "value"), [("010", 10), ("0o10", 8), ("no", "no"), ("1e-05", 1e-05), ("1:30", "1:30")]
)
def test_values_are_those_of_yaml_1_2(scalar: str, value: object) -> None:
    assert yaml12.parse(f"knob: {scalar}", "params.yaml") == {"knob": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml, line 3: `a` is already on line 1."),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "f.yaml, line 4: `b` is already on line 2."),
        ("a:\n- b: 1\n- c: 2\n  c: 3\n", "f.yaml, line 4: `c` is already on line 3."),
        ("a: {b: 1, b: 2}\n", "f.yaml, line 1: `b` is already on line 1."),
        ("a: &x {b: 1}\nc: *x\nd: 1\nd: 2\n", "f.yaml, line 4: `d` is already on line 3."),
    ],
)
def test_a_key_that_stands_twice_is_told_with_both_lines(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        yaml12.parse(text, "f.yaml")
    assert str(caught.value) == message

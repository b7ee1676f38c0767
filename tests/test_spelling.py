"""How sentences write numbers."""

import pytest

from trace_engine.spelling import number


@pytest.mark.parametrize(
    ("value", "form", "written"),
    [
        (-0.0004, "+.3f", "+0.000"),
        (-0.0004, ".3f", "0.000"),
        (-0.0, ",.1f", "0.0"),
        (-0.0006, "+.3f", "\N{MINUS SIGN}0.001"),
        (0.0004, "+.3f", "+0.000"),
        (-1234.5, ",.1f", "\N{MINUS SIGN}1,234.5"),
        (-0.0, "z.1f", "0.0"),
        (-1e-7, "g", "\N{MINUS SIGN}1e\N{MINUS SIGN}07"),
    ],
)
def test_what_rounds_to_zero_has_no_minus_sign(value: float, form: str, written: str) -> None:
    assert number(value, form) == written

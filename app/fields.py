"""Number fields that live in the address: bounded when read, at a setting's own default.

Apart from the forms, which share them. Accepted trade-off: what the address says beyond a field's
bounds is refused by `state.bound` in its own words, not by the settings' model.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st

from app import forms, state

MOST = 2**53 - 1
"""The largest whole number that a browser keeps exactly."""


def number(
    label: str,
    field: str,
    read: Callable[[str], Any],
    settings: type[Any],
    default: Any = None,
    prefix: str = "u",
    **kwargs: Any,
) -> Any:
    """A number field of a setting; without a `default`, at the setting's own."""
    key = f"{prefix}_{field}"
    if default is None:
        default = settings.model_fields[field].default
    bounded = within(read, kwargs.get("min_value", -MOST), kwargs.get("max_value", MOST))
    state.bound(key, default, read=bounded)
    return st.number_input(label, key=key, help=forms.help_of(settings, field), **kwargs)


def within(read: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    """`read` that refuses what the field itself would, as ValueError."""

    def inner(text: str) -> Any:
        value = read(text)
        if not low <= value <= high:
            raise ValueError(f"{value} is not from {low} to {high}.")
        return value

    return inner

"""The Unlearn form's *More settings*: optimizer, memory, when a run ends and what it saves.

Everything here starts at what most runs want, so it is folded away. An empty field is off, in the
address as `off`. Accepted trade-off: thresholds of accuracy and of loss are widgets of their own,
because a run has questions or has none.
"""

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from app import fields, forms, state
from trace_engine.config import KeepConfig, StopConfig, UnlearnConfig

SCHEDULES = {
    "constant": "constant",
    "cosine": "half a cosine to 0",
    "linear": "a straight line to 0",
}
MIXED = {"none": "none: as the weights are", "bfloat16": "bfloat16 products"}
KEPT = {"last": "the last step's model", "best": "the best evaluation's model"}
FORGOTTEN_AT, FORGOTTEN_LOSS = 0.3, 4.0
"""Where *the best* starts: a little above chance of four choices, and a loss of e^-4 a token."""
OWN_QUESTIONS = (
    "The best is chosen on the questions that the run is judged on, which flatters its score "
    "there: measure it on other questions."
)
_OFF = "off"


def draw(asked: bool) -> dict[str, Any]:
    """The widgets; `asked`: whether the run has questions. Returns values for `build`."""
    with st.expander("More settings", icon=":material/tune:"):
        rate, memory, end = st.columns(3, gap="medium")
        with rate:
            st.markdown("**Optimizer**")
            values = _rate()
        with memory:
            st.markdown("**Memory and speed**")
            values |= _memory()
        with end:
            st.markdown("**When it ends, what it saves**")
            values |= {"stop": _stop(asked), "keep": _keep(asked)}
    return values


def _rate() -> dict[str, Any]:
    return {
        "warmup_steps": _whole("Warm-up steps", "warmup_steps", 0),
        "schedule": _choice("After the warm-up", "schedule", SCHEDULES),
        "grad_clip": _maybe(
            "Largest gradient norm",
            "grad_clip",
            UnlearnConfig,
            placeholder="no clipping",
            default=UnlearnConfig.model_fields["grad_clip"].default,
            low=1e-6,
            step=0.5,
        ),
        "weight_decay": fields.number(
            "Weight decay", "weight_decay", float, UnlearnConfig, min_value=0.0, step=0.01
        ),
    }


def _memory() -> dict[str, Any]:
    size = _maybe(
        "Micro-batch size",
        "micro_batch_size",
        UnlearnConfig,
        placeholder="the whole batch",
        low=1,
        step=1,
        read=int,
    )
    length = fields.number(
        "Tokens per document", "max_length", int, UnlearnConfig, min_value=8, step=64
    )
    return {
        "micro_batch_size": size,
        "max_length": length,
        "mixed_precision": _choice("Mixed precision", "mixed_precision", MIXED),
    }


def _stop(asked: bool) -> dict[str, Any]:
    if asked:
        labels = {
            "forget_at_most": "End at a forget accuracy of",
            "utility_at_least": "End at a utility below",
        }
    else:
        labels = {
            "forget_loss_at_least": "End at a forget loss of",
            "retain_loss_at_most": "End at a retain loss above",
        }
    return {
        field: _threshold(label, f"stop_{field}", StopConfig, field, share=asked)
        for field, label in labels.items()
    }


def _keep(asked: bool) -> dict[str, Any]:
    state.bound("u_keep", "last", list(KEPT))
    which = forms.option("Save", KEPT, key="u_keep", help=forms.help_of(KeepConfig, "which"))
    if which == "last":
        return {"which": which}
    field = "forget_at_most" if asked else "forget_loss_at_least"
    label = "Forgotten enough at accuracy" if asked else "Forgotten enough at loss"
    start = FORGOTTEN_AT if asked else FORGOTTEN_LOSS
    found = _threshold(label, f"keep_{field}", KeepConfig, field, share=asked, default=start)
    st.caption(OWN_QUESTIONS if asked else OWN_QUESTIONS.replace("questions", "documents"))
    return {"which": which, field: found}


def _threshold(
    label: str,
    key: str,
    settings: type[Any],
    field: str,
    *,
    share: bool,
    default: float | None = None,
) -> float | None:
    found: float | None = _maybe(
        label,
        field,
        settings,
        key=key,
        placeholder="never" if settings is StopConfig else "needed",
        default=default,
        low=0.0 if share else 1e-3,
        high=1.0 if share else None,
        step=0.05 if share else 0.5,
    )
    return found


def _choice(label: str, field: str, names: Mapping[str, str]) -> str:
    key = f"u_{field}"
    state.bound(key, str(UnlearnConfig.model_fields[field].default), list(names))
    return forms.option(label, names, key=key, help=forms.help_of(UnlearnConfig, field))


def _whole(label: str, field: str, low: int) -> int:
    key = f"u_{field}"
    most = 2**53 - 1  # the largest whole number that a browser keeps exactly
    state.bound(key, UnlearnConfig.model_fields[field].default, read=_reader(int, low, most))
    help_text = forms.help_of(UnlearnConfig, field)
    return int(st.number_input(label, min_value=low, step=1, key=key, help=help_text))


def _maybe(
    label: str,
    field: str,
    settings: type[Any],
    *,
    placeholder: str,
    key: str = "",
    default: float | None = None,
    low: float,
    high: float | None = None,
    step: float,
    read: Callable[[str], Any] = float,
) -> Any:
    """A number that may be left empty."""
    key = f"u_{key or field}"
    state.bound(
        key,
        default,
        read=_reader(read, low, 2**53 - 1 if high is None else high),
        write=lambda value: _OFF if value is None else str(value),
    )
    return st.number_input(
        label,
        min_value=low,
        max_value=high,
        value=None,
        step=step,
        key=key,
        placeholder=placeholder,
        help=forms.help_of(settings, field),
    )


def _reader(read: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    """Reads the address's text; raises ValueError for what the field cannot hold."""

    def inner(text: str) -> Any:
        if text == _OFF:
            return None
        value = read(text)
        if not low <= value <= high:
            raise ValueError(f"{value} is not from {low} to {high}.")
        return value

    return inner

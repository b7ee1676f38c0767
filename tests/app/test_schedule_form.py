"""More settings of the Unlearn page: what is chosen stands in the file that the page shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from app import schedule_form
from trace_engine.config import UnlearnConfig, parse_config

DEFAULTS = UnlearnConfig.model_validate({"forget": {"source": "f"}, "retain": {"source": "r"}})


def shown(app: AppTest) -> UnlearnConfig:
    """The settings file on the page."""
    (text,) = [block.value for block in app.code if "kind: unlearn" in block.value]
    found = parse_config(yaml.safe_load(text))
    assert isinstance(found, UnlearnConfig)
    return found


def test_untouched_they_are_the_engines_defaults(
    trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn")
    assert not app.exception
    found = shown(app)
    fields = ("warmup_steps", "schedule", "grad_clip", "micro_batch_size", "mixed_precision")
    for field in (*fields, "stop", "keep"):
        assert getattr(found, field) == getattr(DEFAULTS, field), field


def test_what_is_chosen_is_in_the_file_and_in_the_address(
    trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn")
    app.number_input(key="u_warmup_steps").set_value(5)
    app.selectbox(key="u_schedule").select("cosine")
    app.number_input(key="u_grad_clip").set_value(None)
    app.number_input(key="u_micro_batch_size").set_value(8)
    app.selectbox(key="u_mixed_precision").select("bfloat16")
    app.number_input(key="u_stop_utility_at_least").set_value(0.6)
    app.selectbox(key="u_keep").select("best").run()
    assert not app.exception
    found = shown(app)
    assert (found.warmup_steps, found.schedule, found.grad_clip) == (5, "cosine", None)
    assert (found.micro_batch_size, found.mixed_precision) == (8, "bfloat16")
    assert (found.stop.utility_at_least, found.stop.forget_at_most) == (0.6, None)
    assert found.keep.which == "best"
    assert found.keep.forget_at_most == schedule_form.FORGOTTEN_AT
    assert any(c.value == schedule_form.OWN_QUESTIONS for c in app.caption)
    asked: dict[str, Any] = dict(app.query_params)
    assert (asked["u_grad_clip"], asked["u_schedule"]) == ("off", "cosine")
    again = open_page("unlearn", **asked)
    assert not again.exception
    assert shown(again) == found


def test_without_questions_thresholds_are_losses(
    trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_keep="best")
    assert "u_stop_forget_at_most" in {box.key for box in app.number_input}
    box = app.selectbox(key="u_questions")
    box.select(next(o for o in box.options if "held-out" in o)).run()
    keys = {box.key for box in app.number_input}
    assert {"u_stop_forget_loss_at_least", "u_keep_forget_loss_at_least"} <= keys
    assert "u_stop_forget_at_most" not in keys
    app.number_input(key="u_stop_retain_loss_at_most").set_value(2.5).run()
    assert not app.exception
    found = shown(app)
    assert found.stop.retain_loss_at_most == 2.5
    assert found.keep.forget_loss_at_least == schedule_form.FORGOTTEN_LOSS


def test_the_best_without_a_threshold_cannot_be_launched(
    trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_keep="best", u_keep_forget_at_most="off")
    assert app.button(key="u_launch").disabled
    assert any("how much must be forgotten" in box.value for box in app.error)


@pytest.mark.parametrize(
    ("name", "value"), [("u_warmup_steps", "-1"), ("u_stop_forget_at_most", "1.5"),
                        ("u_micro_batch_size", "0"), ("u_grad_clip", "nan")],
)  # fmt: skip
def test_a_number_that_a_field_cannot_hold_is_refused(
    trace_home: Path, open_page: Callable[..., AppTest], name: str, value: str
) -> None:
    app = open_page("unlearn", **{name: value})
    assert not app.exception
    assert any("was refused" in box.value for box in app.warning)
    assert name not in app.query_params

"""Settings: combinations that do nothing are refused, and every refusal is in plain words."""

from pathlib import Path
from typing import Any

import pytest

from trace_engine.config import parse_config, read_config, to_yaml
from trace_engine.errors import InputError

BASE: dict[str, Any] = {"forget": {"source": "f"}, "retain": {"source": "r"}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"gamma": 0, "alpha": 0},
            "gamma and alpha are both 0: the loss would be 0 and nothing would train.",
        ),
        ({"gamma": 0}, "gamma is 0: the forget term is off, so nothing would be unlearned."),
        (
            {"gamma": 0, "method": "graddiff"},
            "gamma is 0: the forget term is off, so nothing would be unlearned.",
        ),
        (
            {"alpha": 0},
            "alpha is 0: there is no retain loss for the token weights to act on. Raise alpha, or "
            "choose the uniform rule.",
        ),
    ],
)
def test_terms_that_switch_each_other_off_are_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        parse_config(BASE | changes, "run.yaml")
    assert str(caught.value) == f"run.yaml: {sentence}"
    # A run of before the rule stays readable.
    kept = parse_config(BASE | changes, recorded=True)
    (tmp_path / "config.yaml").write_text(to_yaml(kept))
    assert read_config(tmp_path / "config.yaml", recorded=True) == kept


def test_forgetting_alone_is_allowed_with_uniform_weights() -> None:
    parse_config(BASE | {"alpha": 0, "weights": {"rule": "uniform"}})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"weights": {"hardness": "much"}},
            "weights.hardness: must be 'auto' or a number (found 'much').",
        ),
        ({"weights": {"hardness": 2}}, "weights.hardness: must be 'auto' or at most 1 (found 2)."),
        ({"max_steps": 0}, "max_steps: must be at least 1 (found 0)."),
        ({"max_steps": 1.5}, "max_steps: must be a whole number (found 1.5)."),
        ({"grad_clip": 0}, "grad_clip: must be more than 0 (found 0)."),
        ({"learning_rate": 1}, "learning_rate: must be less than 1 (found 1)."),
        ({"method": "x"}, "method: must be 'graddiff' or 'npo' (found 'x')."),
        ({"count_bos": "maybe"}, "count_bos: must be true or false (found 'maybe')."),
        ({"forget": {}}, "forget.source: is missing."),
        ({"forget": "f"}, "forget: must be a group of settings (found 'f')."),
        (
            {"learning_rat": 1},
            "learning_rat: there is no such setting; did you mean learning_rate?",
        ),
        (
            {"selection": {"topk": 2}},
            "selection.topk: there is no such setting; did you mean top_k?",
        ),
        ({"zebra": 1}, "zebra: there is no such setting."),
        (
            {"weights": {"clip": (2, 3)}},
            "weights: clip must satisfy 0 < low <= 1 <= high, found (2.0, 3.0).",
        ),
        ({"weights": {"clip": (2,)}}, "weights.clip.1: is missing."),
        (
            {"selection": {"layers": ["a"]}},
            "selection.layers.0: must be a whole number (found 'a').",
        ),
        (
            {"max_steps": 0, "seed": "x"},
            "max_steps: must be at least 1 (found 0); seed: must be a whole number (found 'x').",
        ),
    ],
)
def test_refusals_are_in_plain_words(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config(BASE | changes, "run.yaml")
    assert str(caught.value) == f"run.yaml: {sentence}"


def test_a_folder_in_place_of_a_settings_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read as a settings file \(Is a directory\)"):
        read_config(tmp_path)

"""Settings: combinations that do nothing are refused, and every refusal is in plain words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from trace_engine.config import (
    UnlearnConfig,
    identity_of,
    parse_config,
    read_config,
    to_yaml,
)
from trace_engine.errors import InputError
from trace_engine.methods import METHODS

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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"method": "ga"},
            "method is ga, which has no retain loss for the token weights to act on. Choose the "
            "uniform rule, or graddiff, which is the same with a retain loss.",
        ),
        (
            {"method": "ga", "weights": {"rule": "uniform"}, "retain_term": "kl"},
            "method is ga, which has no retain loss, and retain_term is kl. Leave retain_term out, "
            "or choose another method.",
        ),
        (
            {"method": "npo", "beta1": 5},
            "beta1 is given and method is npo, which has beta. Leave beta1 out, or choose the "
            "method it belongs to.",
        ),
        (
            {"method": "npo", "steering_layer": 1},
            "steering_layer is given and method is npo, which works on predictions. Leave "
            "steering_layer out, or choose rmu.",
        ),
        (
            {"trainable": {"kind": "top_experts", "freeze_routers": True}},
            "trainable: freeze_routers is true and kind is top_experts, which trains its layers' "
            "routers. Set freeze_routers to false, or pick the experts by hand: kind "
            "selected_experts, and selection.add.",
        ),
        (
            {"anchor": 1},
            "anchor is given and trainable.kind is all: the anchor holds the routers of "
            "top_experts. Set trainable.kind to top_experts, or leave anchor out.",
        ),
        (
            {"trainable": {"number": 2}},
            "trainable: number is given and kind is all: only the kind top_experts takes so many "
            "experts. Set kind to top_experts, or leave number out.",
        ),
        (
            {"method": "graddiff", "delta": 0},
            "delta is given and method is graddiff, which has no parameter of its own. Leave delta "
            "out, or choose the method it belongs to.",
        ),
    ],
)
def test_what_a_method_does_not_have_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config(BASE | changes, "run.yaml")
    assert str(caught.value) == f"run.yaml: {sentence}"


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("npo", {"gamma": 1.0, "beta": 0.1}),
        ("graddiff", {"gamma": 1.0, "beta": 0.1}),
        ("simnpo", {"gamma": 0.125, "beta": 4.5, "delta": 0}),
        ("wga", {"gamma": 1, "beta": 1}),
        ("satimp", {"gamma": 1, "beta1": 5, "beta2": 1}),
        ("undial", {"gamma": 1, "beta": 10}),
        ("rmu", {"gamma": 1, "steering": 20}),
        ("ceu", {"gamma": 1}),
        ("dpo", {"gamma": 1, "beta": 0.1}),
        ("idkdpo", {"gamma": 1, "beta": 0.1}),
    ],
)
def test_defaults_left_out_and_written_out_are_the_same_run(
    method: str, given: dict[str, float]
) -> None:
    left_out = unlearning(BASE | {"method": method})
    written = unlearning(BASE | {"method": method} | given)
    assert identity_of(left_out) == identity_of(written)
    assert left_out.forget_weight == given["gamma"]
    assert left_out.parameters() == {
        name: value for name, value in given.items() if name in left_out.parameters()
    }
    for name, value in given.items():
        if name in {"gamma", *left_out.parameters()}:
            other = unlearning(BASE | {"method": method} | given | {name: value + 0.5})
            assert identity_of(other) != identity_of(left_out)


def test_an_old_runs_identity_has_no_field_that_came_later() -> None:
    data = identity_of(unlearning(BASE | {"gamma": 1.0, "beta": 0.1}))
    assert (data["gamma"], data["alpha"], data["beta"]) == (1.0, 1.0, 0.1)
    later = {"retain_term", "beta1", "beta2", "delta", "steering", "steering_layer"}
    assert data.keys().isdisjoint(later)
    assert identity_of(unlearning(BASE | {"beta": 0.1, "retain_term": "nll"})) == data
    other = identity_of(unlearning(BASE | {"retain_term": "kl"}))
    assert other["retain_term"] == "kl"


def test_a_methods_own_retain_term_and_the_one_written_out_are_the_same_run() -> None:
    left_out = unlearning(BASE | {"method": "rmu"})
    assert left_out.kept == "hidden"
    written = unlearning(BASE | {"method": "rmu", "retain_term": "hidden"})
    assert identity_of(left_out) == identity_of(written)
    for changes in ({"retain_term": "nll"}, {"steering_layer": 0}, {"steering_layer": 1}):
        assert identity_of(unlearning(BASE | {"method": "rmu"} | changes)) != identity_of(left_out)


def test_the_anchors_default_and_1_written_out_are_the_same_run() -> None:
    plain = identity_of(unlearning(BASE))
    assert plain.keys().isdisjoint({"anchor"})
    assert "number" not in plain["trainable"]
    top = {"trainable": {"kind": "top_experts"}}
    left_out = unlearning(BASE | top)
    assert left_out.anchor_weight == 1
    assert unlearning(BASE).anchor_weight == 0
    assert identity_of(left_out) == identity_of(unlearning(BASE | top | {"anchor": 1}))
    assert identity_of(left_out) != identity_of(unlearning(BASE | top | {"anchor": 0}))


def unlearning(data: dict[str, Any]) -> UnlearnConfig:
    config = parse_config(data)
    assert isinstance(config, UnlearnConfig)
    return config


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
        (
            {"method": "x"},
            f"method: must be {', '.join(map(repr, [*METHODS][:-1]))} or {[*METHODS][-1]!r} "
            "(found 'x').",
        ),
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


@pytest.mark.parametrize(
    "character", ["\x85", "\u2028", "\u2029", "\xa0", "\ufeff", "\t", "\n", "\r"]
)
def test_a_name_of_any_character_reads_back(character: str) -> None:
    for name in (character, f"a{character}b", f"'{character}", f"{character}: b"):
        config = parse_config(BASE | {"kind": "unlearn", "name": name})
        assert parse_config(yaml.safe_load(to_yaml(config))).name == name

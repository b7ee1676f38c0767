"""A sweep's plan: every combination once, the same run told, what makes no sense refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unlearning.cases import tiny_config
from trace_engine.config import UnlearnConfig
from trace_engine.errors import InputError
from trace_engine.methods import METHODS
from trace_engine.sweeps.file import parse_values, read_sweep, sweep_yaml
from trace_engine.sweeps.plan import label_of, plan_sweep, what_trains
from trace_engine.unlearning import unlearn


def base(**changes: Any) -> UnlearnConfig:
    values = {"forget": {"source": "demo:forget"}, "retain": {"source": "demo:retain"}}
    return UnlearnConfig.model_validate(values | changes)


def labels(plan: Any) -> list[str]:
    return [point.label for point in plan.points]


def test_every_combination_in_order() -> None:
    plan = plan_sweep(
        base(), [{"selection.top_k": (1, 2), "weights.rule": ("mean", "exact")}], "mine"
    )
    assert labels(plan) == [
        "top-k 1, mean", "top-k 1, exact", "top-k 2, mean", "top-k 2, exact",
    ]  # fmt: skip
    assert not plan.repeats
    third = plan.points[2].config
    assert (third.selection.top_k, third.weights.rule) == (2, "mean")
    assert third.name == "mine: top-k 2, mean"
    assert third.max_steps == base().max_steps


def test_runs_that_are_compared_do_not_each_time_their_experts() -> None:
    timed = base(model={"experts_implementation": "trial"})
    with pytest.raises(InputError, match=r"runs of a sweep are compared.*inspect --trial"):
        plan_sweep(timed, [{"selection.top_k": (1, 2)}])


def test_what_is_the_same_run_is_made_once_and_said() -> None:
    plan = plan_sweep(
        base(), [{"selection.top_k": (1, 2, 4), "weights.rule": ("uniform", "exact"),
                  "weights.strength": (0.5, 1.0)}],
    )  # fmt: skip
    # One uniform run and, as strength does nothing to exact, one exact run per top-k.
    assert labels(plan) == ["uniform", "top-k 1, exact", "top-k 2, exact", "top-k 4, exact"]
    assert len(plan.repeats) == 12 - 4
    assert ("top-k 4, uniform, η 1", "uniform") in plan.repeats
    assert "top-k 1, exact, η 1 is the same run as top-k 1, exact." in plan.sentences()


@pytest.mark.parametrize("method", METHODS)
def test_no_method_draws_on_the_selection_by_itself(tmp_path: Path, method: str) -> None:
    """Under uniform weights no method may depend on which experts are selected: the plan says
    so."""
    settings = tiny_config(
        tmp_path, method=method, weights={"rule": "uniform"}, max_steps=2, evaluation={"every": 2}
    )
    grid = {"selection.top_k": (1, 3)}
    first, second = (
        plan_sweep(settings, [{"selection.top_k": (k,)}]).points[0].config for k in (1, 3)
    )
    assert len(plan_sweep(settings, [grid]).points) == 1
    trained = [weights_after(config) for config in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def test_grids_follow_one_another() -> None:
    plan = plan_sweep(
        base(),
        [{"weights.rule": ("mean",), "weights.strength": (0.5, 1)},
         {"weights.rule": ("exact",), "weights.hardness": ("auto", 0.5)}],
    )  # fmt: skip
    assert labels(plan) == ["mean, η 0.5", "mean, η 1", "exact, κ auto", "exact, κ 0.5"]


def test_top_k_matters_where_only_selected_experts_train() -> None:
    chosen = base(trainable={"kind": "selected_experts"}, weights={"rule": "uniform"})
    assert len(plan_sweep(chosen, [{"selection.top_k": (1, 2)}]).points) == 2
    fixed = base(trainable={"kind": "layers", "layers": [1]}, weights={"rule": "uniform"})
    assert len(plan_sweep(fixed, [{"selection.top_k": (1, 2)}]).points) == 1
    derived = base(trainable={"kind": "layers"}, weights={"rule": "uniform"})
    assert len(plan_sweep(derived, [{"selection.top_k": (1, 2)}]).points) == 2
    threshold = base(selection={"scope": "threshold"})
    assert len(plan_sweep(threshold, [{"selection.top_k": (1, 2)}]).points) == 1


@pytest.mark.parametrize(
    ("field", "values", "rule", "same"),
    [
        ("selection.top_k", (1, 2), "uniform", True),
        ("selection.top_k", (1, 2), "exact", False),
        ("weights.strength", (0.5, 2.0), "exact", True),
        ("weights.strength", (0.5, 2.0), "mean", False),
        ("weights.clip", ([0.5, 1.5], [0.1, 20.0]), "exact", True),
        ("weights.clip", ([0.9, 1.1], [0.1, 20.0]), "mean", False),
        ("weights.hardness", (0.2, 0.9), "uniform", True),
        ("weights.hardness", (0.2, 0.9), "mean", False),
        ("weights.ess_floor", (0.3, 0.9), "uniform", True),
        ("selection.threshold", (0.01, 0.2), "exact", True),
    ],
)
def test_the_engine_agrees_on_what_is_the_same(
    tmp_path: Path, field: str, values: tuple[Any, Any], rule: str, same: bool
) -> None:
    """Both settings train three updates; the plan must say "same" exactly when the bits are."""
    settings = tiny_config(
        tmp_path, weights={"rule": rule, "hardness": 0.5}, max_steps=3, evaluation={"every": 3}
    )
    first, second = (plan_sweep(settings, [{field: (value,)}]).points[0].config for value in values)
    assert (what_trains(first) == what_trains(second)) is same
    trained = [weights_after(config) for config in (first, second)]
    equal = all(torch.equal(a, b) for a, b in zip(*trained, strict=True))
    assert equal is same


@pytest.mark.parametrize(
    ("field", "values", "settings", "same"),
    [
        ("trainable.lora_rank", (2, 4), {}, True),
        ("trainable.lora_rank", (2, 4), {"trainable": {"kind": "lora"}}, False),
        ("trainable.lora_alpha", (8.0, 16.0), {}, True),
        ("trainable.lora_alpha", (8.0, 16.0), {"trainable": {"kind": "lora"}}, False),
        ("trainable.freeze_routers", (False, True), {}, False),
        ("trainable.freeze_routers", (False, True), {"trainable": {"kind": "lora"}}, True),
        ("trainable.freeze_routers", (False, True),
         {"trainable": {"kind": "selected_experts"}}, True),
        ("alpha", (1.0, 4.0), {"method": "ga"}, True),
        ("alpha", (1.0, 4.0), {"method": "graddiff"}, False),
        ("beta", (0.1, 0.5), {"method": "graddiff"}, True),
        ("beta", (0.1, 0.5), {"method": "npo"}, False),
        ("checkpoint_every", (1, 3), {}, True),
    ],
)  # fmt: skip
def test_a_field_that_does_nothing_makes_no_second_run(
    tmp_path: Path,
    field: str,
    values: tuple[Any, Any],
    settings: dict[str, Any],
    same: bool,
) -> None:
    """The plan says "same" exactly when the bits are, and which point stands for which."""
    one = {"weights": {"rule": "uniform"}, "max_steps": 3, "evaluation": {"every": 3}}
    config = tiny_config(tmp_path, **one | settings)
    plan = plan_sweep(config, [{field: values}])
    assert len(plan.points) == (1 if same else 2)
    assert len(plan.sentences()) == (1 if same else 0)
    both = [plan_sweep(config, [{field: (value,)}]).points[0].config for value in values]
    first, second = (weights_after(found) for found in both)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) is same


def weights_after(config: UnlearnConfig) -> list[torch.Tensor]:
    with unlearn(config).session as session:
        return [value.clone() for value in session.opened.model.state_dict().values()]


@pytest.mark.parametrize(
    ("grid", "changes", "sentence"),
    [
        ({}, {}, "Nothing varies"),
        ({"weights.rul": (1,)}, {}, "there is no setting 'rul'; there are rule, hardness"),
        ({"weights": (1,)}, {}, "weights is a group of settings"),
        ({"weights.rule.x": (1,)}, {}, "there is no setting 'x'"),
        ({"weights.rule": ()}, {}, "weights.rule: give at least one value"),
        ({"weights.rule": ("magic",)}, {}, "magic"),
        ({"evaluation.every": (1, 2)}, {}, "cannot be swept"),
        ({"model.source": ("a",)}, {}, "cannot be swept"),
        ({"seed": tuple(range(65))}, {}, "That is 65 runs, and a sweep has at most 64"),
        ({"seed": tuple(range(10**4)), "max_steps": tuple(range(1, 10**4))}, {}, "at most 64"),
        ({"seed": (1,)}, {"evaluation": {"questions": "demo:questions/test"}},
         "chosen on the test questions"),
        ({"method": ("npo", "simnpo")}, {"beta": 0.03},
         "beta is 0.03 for npo: beta means something else in simnpo. Set beta to null"),
        ({"weights.rule": ("uniform",)}, {"control": "shuffled_weights"},
         "there are no weights to control"),
    ],
)  # fmt: skip
def test_refusals(grid: dict[str, Any], changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence.replace(".", r"\.")):
        plan_sweep(base(**changes), [grid])


def test_methods_may_vary_where_each_has_its_own_beta() -> None:
    plan = plan_sweep(base(), [{"method": ("npo", "simnpo")}])
    assert [point.config.parameters()["beta"] for point in plan.points] == [0.1, 4.5]
    grid = {"method": ("npo", "simnpo"), "beta": (0.5,)}
    assert len(plan_sweep(base(beta=0.03), [grid]).points) == 2


def test_64_runs_are_allowed() -> None:
    assert len(plan_sweep(base(), [{"seed": tuple(range(64))}]).points) == 64


def test_values_from_a_command_line() -> None:
    assert parse_values(["selection.top_k=1, 2,4", "weights.hardness=auto,0.5"]) == {
        "selection.top_k": [1, 2, 4],
        "weights.hardness": ["auto", 0.5],
    }
    assert parse_values(["weights.clip=[[0.1, 20], [0.5, 2]]"]) == {
        "weights.clip": [[0.1, 20], [0.5, 2]]
    }
    assert parse_values(["grad_clip=null,1"]) == {"grad_clip": [None, 1]}
    # YAML takes 1e-4 for a word; the settings read it as the number it is.
    [point] = plan_sweep(base(), [parse_values(["learning_rate=1e-4"])]).points
    assert point.config.learning_rate == 1e-4
    for text in ("weights.rule", "=1", "weights.rule=", "weights.rule=[a, b"):
        with pytest.raises(InputError):
            parse_values([text])
    with pytest.raises(InputError, match="given twice"):
        parse_values(["seed=1", "seed=2"])


def test_a_sweeps_file_reads_back_as_itself(tmp_path: Path) -> None:
    grids = [{"weights.rule": ["mean"], "weights.strength": [0.5]}, {"weights.rule": ["exact"]}]
    file = tmp_path / "sweep.yaml"
    file.write_text(sweep_yaml(base(seed=3), grids, "mine"))
    assert read_sweep(file) == (base(seed=3), grids, "mine")
    file.write_text("base: {}\ngrids: [[1]]\n")
    with pytest.raises(InputError, match=r"sweep\.yaml: grids must be a list of fields"):
        read_sweep(file)
    file.write_text("grids: []\n")
    with pytest.raises(InputError, match="has `base` and `grids`"):
        read_sweep(file)
    with pytest.raises(InputError, match="no such settings file"):
        read_sweep(tmp_path / "none.yaml")


def test_labels_are_short_words() -> None:
    assert label_of({"weights.clip": [0.1, 20], "learning_rate": 0.001}) == (
        "weights.clip 0.1–20, learning_rate 0.001"
    )

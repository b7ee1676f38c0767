"""Selection & weights: the preview follows the settings, and says what it cannot do."""

import shlex
from collections.abc import Callable

import numpy as np
import pytest
import yaml
from streamlit.testing.v1 import AppTest

from app import forms, selection_controls, selection_view, state, weights_view
from app.theme import LIGHT
from tests.support.profiles import synthetic_profile
from trace_engine.calibration import fit_weights, select_experts
from trace_engine.cli.main import build_parser
from trace_engine.cli.options import read_selection, read_weights
from trace_engine.config import Cell, SelectionConfig, TrainableConfig, UnlearnConfig, WeightsConfig
from trace_engine.routing import Profile


def test_page_shows_cells_sample_and_equal_command(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("selection")
    assert not app.exception
    cells = select_experts(bundled, SelectionConfig()).cells
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics["Selected experts"] == f"{len(cells)} / 24"
    assert metrics["Their parameters"] == "not recorded"
    assert any("trace-moe select " in code.value for code in app.code)


def test_top_k_moves_the_selection_and_the_command(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("selection", sel='{"top_k":2}')
    app.slider(key="sel_top_k").set_value(1).run()
    assert not app.exception
    cells = select_experts(bundled, SelectionConfig(top_k=1)).cells
    assert {m.label: m.value for m in app.metric}["Selected experts"] == f"{len(cells)} / 24"
    assert any("--top-k 1" in code.value for code in app.code)


def test_every_rule_previews_or_refuses_in_words(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("selection")
    for rule in selection_view.RULES:
        app.selectbox(key="wts_rule").set_value(rule).run()
        assert not app.exception, rule
        refused = [error.value for error in app.error]
        assert refused == [] or (rule == "odds" and "exactly one expert" in refused[0])


def test_a_refit_interval_is_kept_and_zero_means_never(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("selection")
    assert app.number_input(key="wts_refresh_every").value == 0
    app.number_input(key="wts_refresh_every").set_value(20).run()
    assert not app.exception
    assert '"refresh_every":20' in str(app.query_params["weights"])
    app.number_input(key="wts_refresh_every").set_value(0).run()
    assert "refresh_every" not in str(app.query_params.get("weights", ""))
    assert not app.warning


def test_a_refused_combination_changes_nothing(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("selection", weights='{"rule":"mean"}')
    app.number_input(key="wts_clip_0").set_value(3.0).run()
    assert app.number_input(key="wts_clip_0").value == pytest.approx(0.1)
    assert any("clip" in warning.value for warning in app.warning)


def test_top_k_beyond_the_experts_is_a_sentence(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("selection", sel='{"top_k":99}')
    assert not app.exception
    assert len(app.error) == 1


def test_the_keyboard_reaches_a_cell_and_adds_it(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("selection", layer="1", expert="5")
    assert Cell(1, 5) not in select_experts(bundled, SelectionConfig()).cells
    app.button(key="sel_add").click().run()
    assert not app.exception
    assert '"add":[[1,5]]' in str(app.query_params["sel"])
    assert any("--add 1:5" in code.value for code in app.code)
    app.button(key="sel_leave_out").click().run()
    assert '"remove":[[1,5]]' in str(app.query_params["sel"])


def test_without_a_profile_the_page_points_on(
    trace_home: object, open_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "BUNDLED_PATH", state.PACK / "no-such-profile")
    app = open_page("selection")
    assert not app.exception
    assert len(app.warning) == 1


def test_uncoverable_experts_are_named() -> None:
    cell = Cell(0, 1)
    profile = synthetic_profile(planted=(cell,), unseen=cell)
    chosen = select_experts(profile, SelectionConfig(scope="global", top_k=1))
    assert chosen.cells == (cell,)
    fit = fit_weights(profile, chosen, WeightsConfig())
    sentences = weights_view.troubles(fit)
    assert len(sentences) == 1
    assert "uncoverable" in sentences[0]


def test_a_simple_rule_says_which_targets_it_misses() -> None:
    profile = synthetic_profile()
    chosen = select_experts(profile, SelectionConfig())
    simple = fit_weights(profile, chosen, WeightsConfig(rule="product", hardness=1.0))
    assert "misses the target" in " ".join(weights_view.troubles(simple))
    exact = fit_weights(profile, chosen, WeightsConfig(rule="exact", hardness=0.3))
    assert weights_view.troubles(exact) == []


def test_dumbbell_has_four_marks_per_expert() -> None:
    profile = synthetic_profile()
    chosen = select_experts(profile, SelectionConfig())
    fit = fit_weights(profile, chosen, WeightsConfig())
    figure = weights_view.dumbbell_figure(fit.table, colours=LIGHT)
    marks = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert set(marks) == {"retain before", "retain after", "target", "forget side"}
    assert all(len(trace.x) == len(chosen.cells) for trace in marks.values())
    ordered = fit.table.sort_values(["layer", "expert"], ascending=False)
    np.testing.assert_allclose(marks["retain after"].x, 100 * ordered["achieved"])
    (line,) = [trace for trace in figure.data if trace.mode == "lines"]
    ends = np.array(line.x, dtype=float).reshape(-1, 3)
    np.testing.assert_allclose(ends[:, :2], 100 * ordered[["retain", "achieved"]])
    assert np.isnan(ends[:, 2]).all()
    assert list(line.y[::3]) == list(marks["target"].y)


def test_histogram_holds_every_labelled_token() -> None:
    profile = synthetic_profile()
    chosen = select_experts(profile, SelectionConfig())
    for weights in (WeightsConfig(), WeightsConfig(rule="uniform")):
        fit = fit_weights(profile, chosen, weights)
        frame = weights_view.histogram_frame(fit.histogram.edges_B, fit.histogram.counts_B)
        assert frame["tokens"].sum() == profile.sample_retain.labelled_N.sum()
        assert len(weights_view.histogram_figure(frame, colours=LIGHT).data[0].x) == len(frame)


def test_parameters_come_from_the_profile_or_are_not_recorded() -> None:
    cells, only = (Cell(1, 0), Cell(3, 2)), TrainableConfig(kind="selected_experts")
    assert selection_view.training_sentence({}, cells, only)[0] == "not recorded"
    meta = {"model": {"parameters": 1000, "layers": [1, 3], "expert_parameters": [30, 40]}}
    figure, sentence = selection_view.training_sentence(meta, cells, only)
    assert figure == "70"
    assert "7.0\N{NO-BREAK SPACE}%" in sentence
    assert selection_view.training_sentence(meta, (), only)[0] == "0"
    assert "1\u202f000" in selection_view.training_sentence(meta, cells, TrainableConfig())[0]
    lora = TrainableConfig(kind="lora", lora_rank=4)
    assert selection_view.training_sentence(meta, cells, lora)[0] == "not recorded"
    meta["model"] |= {"lora_parameters_per_rank": 5, "router_parameters": [7, 8]}
    assert selection_view.training_sentence(meta, cells, lora)[0] == "20"
    frozen = TrainableConfig(freeze_routers=True)
    figure, sentence = selection_view.training_sentence(meta, cells, frozen)
    assert figure == "985"
    assert "without the routers" in sentence
    top = TrainableConfig(kind="top_experts")
    assert selection_view.training_sentence(meta, (Cell(3, 1),), top)[0] == "48"


def test_what_is_calibrated_says_what_the_run_does() -> None:
    cells = (Cell(1, 0), Cell(3, 2))
    base = {"forget": {"source": "f"}, "retain": {"source": "r"}, "model": {"source": "m"}}
    uniform = UnlearnConfig.model_validate(base | {"weights": {"rule": "uniform"}})
    assert selection_view.calibration_sentence(uniform, cells).startswith("Nothing")
    plain = UnlearnConfig.model_validate(base | {"weights": {"rule": "mean"}})
    assert selection_view.calibration_sentence(plain, cells).startswith(
        "2 experts by mean weights:"
    )
    for control, words in (("random_experts", "random"), ("shuffled_weights", "shuffled")):
        config = UnlearnConfig.model_validate(
            base | {"weights": {"rule": "mean"}, "control": control}
        )
        assert words in selection_view.calibration_sentence(config, cells)


def test_commands_name_only_what_differs_from_the_defaults() -> None:
    selection = SelectionConfig(top_k=3, floor=False, layers=(1, 3), add=(Cell(1, 5),))
    command = forms.select_command("P", selection)
    assert command == "trace-moe select P --top-k 3 --no-floor --layers 1 3 --add 1:5"
    assert forms.select_command("P", SelectionConfig()) == "trace-moe select P"


@pytest.mark.parametrize(
    ("selection", "weights"),
    [
        (SelectionConfig(), WeightsConfig()),
        (
            SelectionConfig(scope="threshold", threshold=0.025, layers=(1,), remove=(Cell(1, 2),)),
            WeightsConfig(rule="mean", hardness=0.35, clip=(0.5, 3.0), normalise="batch"),
        ),
        (
            SelectionConfig(scope="cumulative", share=1 / 3, add=(Cell(1, 0), Cell(3, 2))),
            WeightsConfig(rule="product", strength=0.5, routing="frozen", ess_floor=0.7),
        ),
    ],
)
def test_command_file_and_python_mean_the_same_settings(
    selection: SelectionConfig, weights: WeightsConfig
) -> None:
    options = build_parser().parse_args(
        shlex.split(forms.weights_command("P", selection, weights))[1:]
    )
    assert (read_selection(options), read_weights(options)) == (selection, weights)
    loaded = yaml.safe_load(forms.settings_yaml(("selection", selection), ("weights", weights)))
    assert SelectionConfig.model_validate(loaded["selection"]) == selection
    assert WeightsConfig.model_validate(loaded["weights"]) == weights
    scope: dict[str, object] = {}
    lines = forms.weights_python("P", selection, weights).splitlines()
    settings = [line.split("(", 1)[1].split(", ", 1)[1][:-1] for line in lines[-2:]]
    exec("from trace_engine.config import Cell, SelectionConfig, WeightsConfig", scope)
    exec(f"chosen = {settings[0]}", scope)
    exec(f"fitted = {settings[1].split(', ', 1)[1]}", scope)
    assert (scope["chosen"], scope["fitted"]) == (selection, weights)


def test_every_widget_has_the_fields_own_help() -> None:
    for settings in (SelectionConfig, WeightsConfig):
        for field in settings.model_fields:
            assert forms.help_of(settings, field), field
    assert forms.choices_of(WeightsConfig, "rule") == list(selection_view.RULES)
    assert forms.choices_of(SelectionConfig, "scope") == list(selection_view.SCOPES)
    assert forms.choices_of(SelectionConfig, "score") == list(selection_controls.SCORES)
    assert forms.choices_of(WeightsConfig, "normalise") == list(selection_controls.NORMALISE)

"""Unlearn: one launch per press, states in words, curves with gaps, and no tick after the end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import compare_view, forms, question_form, runs_view, unlearn_form
from tests.app.stored import eval_row, open_profile_of, train_row, unlearn_config, write_run
from trace_engine import trackers
from trace_engine.config import ProfileConfig, SetConfig, UnlearnConfig
from trace_engine.demo.settings import TUNED, UNTUNED_NOTE, defaults_for
from trace_engine.disk import write_json
from trace_engine.methods import METHODS, PARAMETERS, MethodName, needs_start_model
from trace_engine.runs import launcher, list_runs, open_run


def test_launch_puts_one_run_into_the_address(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_max_steps="7")
    assert not app.exception
    assert [error.value for error in app.error] == []
    app.button(key="u_launch").click().run()
    assert not app.exception
    (run,) = list_runs()
    assert run.id in app.query_params["run"]
    assert run.status.max_steps == 7


def test_the_list_follows_the_run_that_was_launched_until_another_is_chosen(
    own_sets: dict[str, Path], trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    older = write_run(trace_home, [eval_row(0, 0.9, 0.9)], name="older")
    # An id of the future is the newest, whatever the clock says: the box would stay on it.
    newest = write_run(trace_home, [eval_row(0, 0.9, 0.9)], name="newest")
    newest.path.rename(newest.path.with_name("20990101-000000-abcdef"))
    app = open_page("unlearn")
    box = app.selectbox(key="runs_pick")
    box.select(next(option for option in box.options if older.id in option)).run()
    app.button(key="u_launch").click().run()
    assert not app.exception
    assert app.selectbox(key="runs_pick").value == app.query_params["run"]
    box = app.selectbox(key="runs_pick")
    box.select(next(option for option in box.options if older.id in option)).run()
    assert app.selectbox(key="runs_pick").value == older.id


def test_every_setting_of_the_form_has_its_help(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_trains="lora")
    fields = [*app.number_input, *(box for box in app.selectbox if box.key != "runs_pick")]
    assert len(fields) > 10
    assert [field.key for field in fields if not field.help] == []


def test_two_presses_with_one_token_are_one_run(own_sets: dict[str, Path]) -> None:
    config = unlearn_config(
        forget={"source": str(own_sets["forget"])}, retain={"source": str(own_sets["retain"])}
    )
    first = launcher.launch(config, token="press")
    assert launcher.launch(config, token="press") == first
    assert len(list_runs()) == 1


@pytest.mark.fault_row(19)
def test_equal_sets_disable_the_launch(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    own_sets["retain"].write_text(own_sets["forget"].read_text(encoding="utf-8"), encoding="utf-8")
    app = open_page("unlearn")
    assert app.button(key="u_launch").disabled
    assert len(app.error) == 1


@pytest.mark.fault_row(19)
def test_overlap_needs_a_tick(own_sets: dict[str, Path], open_page: Callable[..., AppTest]) -> None:
    with own_sets["retain"].open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({"text": "forget document 0"}))
    app = open_page("unlearn")
    assert app.button(key="u_launch").disabled
    assert "1 of 5 forget documents" in app.warning[0].value
    app.checkbox(key="u_overlap").check().run()
    assert not app.button(key="u_launch").disabled


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        (("forget",), "The forget set comes from the hub"),
        (("forget", "retain"), "The forget and the retain set come from the hub"),
    ],
)
def test_hub_sets_are_not_fetched_by_the_page(
    own_sets: dict[str, Path],
    open_page: Callable[..., AppTest],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    sides: tuple[str, ...],
    words: str,
) -> None:
    sources = {side: str(path) for side, path in own_sets.items()}
    sources |= {side: f"hub:nobody/{side}" for side in sides}
    settings = ProfileConfig.model_validate({s: {"source": name} for s, name in sources.items()})
    open_profile_of(settings, tmp_path / "hub", monkeypatch)
    monkeypatch.setattr(unlearn_form, "load_set", _refuse_to_read)
    app = open_page("unlearn")
    assert not app.exception
    assert [error.value for error in app.error] == []
    assert any(caption.value.startswith(words) for caption in app.caption)
    assert not app.button(key="u_launch").disabled


def test_large_sets_are_left_to_the_run(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(path.stat().st_size for path in own_sets.values())
    monkeypatch.setattr(unlearn_form, "MOST_COMPARED", total)
    assert not any("are large" in caption.value for caption in open_page("unlearn").caption)
    monkeypatch.setattr(unlearn_form, "MOST_COMPARED", total - 1)
    monkeypatch.setattr(unlearn_form, "load_set", _refuse_to_read)
    app = open_page("unlearn")
    assert not app.exception
    assert any("The two sets are large" in caption.value for caption in app.caption)
    assert not app.button(key="u_launch").disabled


def _refuse_to_read(config: SetConfig) -> None:
    raise AssertionError(f"the page reads {config.source}")


def test_an_empty_trainable_set_is_refused_with_its_reason(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page(
        "unlearn", u_trains="selected_experts", sel='{"scope":"threshold","threshold":9.0}'
    )
    assert app.button(key="u_launch").disabled
    assert "none is selected" in app.error[0].value


def test_a_control_reaches_the_launched_settings_and_its_facts_are_told(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_control="shuffled_weights")
    app.button(key="u_launch").click().run()
    assert not app.exception
    config = open_run(list_runs()[0].id).config()
    assert isinstance(config, UnlearnConfig)
    assert config.control == "shuffled_weights"
    assert unlearn_form.file_name(config) == "npo-exact-shuffled-weights.yaml"
    assert runs_view.fact_sentences({"control": {"name": "none", "sentence": ""}}) == []
    told = runs_view.fact_sentences({"control": {"sentence": "Control: shuffled."}})
    assert told == ["Control: shuffled."]


def test_the_weighting_rule_is_chosen_here_too_and_is_that_of_selection(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", weights='{"hardness":0.25}')
    app.selectbox(key="wts_rule").set_value("mean").run()
    app.button(key="u_launch").click().run()
    assert not app.exception
    config = open_run(list_runs()[0].id).config()
    assert isinstance(config, UnlearnConfig)
    assert (config.weights.rule, config.weights.hardness) == ("mean", 0.25)
    app.selectbox(key="u_method").set_value("ga").run()
    assert not [box for box in app.selectbox if box.key == "wts_rule"], "GA has nothing to weigh"


def test_a_default_written_out_is_no_difference_between_runs() -> None:
    written = {"gamma": 1.0, "beta": 0.1, "retain_term": "nll"}
    runs = {"old": unlearn_config(**written), "new": unlearn_config()}
    assert forms.differing_fields(runs) == {}
    runs["kl"] = unlearn_config(retain_term="kl")
    wanted = {"old": "nll", "new": "nll", "kl": "kl"}
    assert forms.differing_fields(runs) == {"retain_term": wanted}


@pytest.mark.parametrize("control", list(unlearn_form.CONTROLS))
def test_every_control_has_a_name_on_the_page_and_in_compare(control: str) -> None:
    config = unlearn_config(control=control)
    assert (compare_view.weighs(config) == "exact") == (control == "none")


def test_layers_and_frozen_routers_reach_the_settings(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_trains="layers", u_routers="freeze")
    app.button(key="u_launch").click().run()
    assert not app.exception
    config = open_run(list_runs()[0].id).config()
    assert isinstance(config, UnlearnConfig)
    assert (config.trainable.kind, config.trainable.freeze_routers) == ("layers", True)
    assert "none is selected" in forms.selection_troubles(config, 0)[0]
    assert forms.selection_troubles(config, 2) == []


def test_named_layers_and_the_adapters_scale_reach_the_settings(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_trains="layers", u_layers="6,1")
    assert app.multiselect(key="u_layers").options == ["1", "3", "6"]
    app.button(key="u_launch").click().run()
    app = open_page("unlearn", u_trains="lora", u_lora_alpha="32.0")
    app.button(key="u_launch").click().run()
    assert not app.exception
    found = {summary.id: open_run(summary.id).config() for summary in list_runs()}
    trained = [c.trainable for c in found.values() if isinstance(c, UnlearnConfig)]
    by_kind = {trainable.kind: trainable for trainable in trained}
    assert by_kind["layers"].layers == (1, 6)
    assert (by_kind["lora"].lora_alpha, by_kind["lora"].lora_rank) == (32.0, 8)


def test_a_control_of_uniform_weights_disables_the_launch(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_control="shuffled_weights", weights='{"rule":"uniform"}')
    assert app.button(key="u_launch").disabled
    assert "there are no weights to control" in app.error[0].value


def test_test_questions_come_with_a_warning(
    trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn")
    assert not any("Choose on validation" in caption.value for caption in app.caption)
    app.selectbox(key="u_questions").set_value("demo:questions/test").run()
    assert any("Choose on validation" in caption.value for caption in app.caption)
    assert any("demo:questions/test" in block.value for block in app.code)


GOOD = {"question": "what?", "choices": ["one", "two"], "answer": 0, "category": "hazard"}


def with_question_file(app: AppTest, path: str) -> AppTest:
    """Choose a question file of one's own."""
    app.selectbox(key="u_questions").set_value("a file of my own").run()
    app.text_input(key="u_question_file").set_value(path).run()
    assert not app.exception
    return app


def troubles(app: AppTest) -> list[str]:
    return [error.value.replace("\\", "") for error in app.error]


def test_a_blank_question_file_never_becomes_no_questions(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn")
    app.selectbox(key="u_questions").set_value("a file of my own").run()
    for path in ("", "   "):
        app.text_input(key="u_question_file").set_value(path).run()
        assert app.button(key="u_launch").disabled
        assert [text for text in troubles(app) if "no path is given" in text]
        assert not any("kind: unlearn" in block.value for block in app.code)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such question file"),
        (b"\xff\xfe\x00\x01", "expected a UTF-8 text file, found binary data"),
        (json.dumps(GOOD).encode() + b"\n{", "questions.jsonl, line 2: expected a JSON object"),
        (json.dumps({**GOOD, "category": "chem"}).encode(), "The file has: chem"),
    ],
)
def test_a_question_file_that_cannot_be_asked_disables_the_launch(
    own_sets: dict[str, Path],
    open_page: Callable[..., AppTest],
    tmp_path: Path,
    content: bytes | None,
    why: str,
) -> None:
    path = tmp_path / "questions.jsonl"
    if content is not None:
        path.write_bytes(content)
    app = with_question_file(open_page("unlearn"), str(path))
    assert app.button(key="u_launch").disabled
    (said,) = troubles(app)
    assert why in said
    # A mended file is read again.
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    app.run()
    assert troubles(app) == []
    assert not app.button(key="u_launch").disabled
    assert any(str(path) in block.value for block in app.code)


def test_what_is_no_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for path in ("/dev/zero", str(tmp_path / "nothing"), "a\0b"):
        assert "no such question file" in str(question_form.question_trouble(path, "hazard"))
    # A folder may be large and a hub set must be fetched: the run reads them, and refuses likewise.
    for path in (str(tmp_path), "hub:cais/wmdp:wmdp-bio"):
        assert question_form.question_trouble(path, "hazard") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("u_max_steps", "-4"), ("u_seed", "-1"), ("u_most", "-4"), ("u_max_steps", "9" * 30),
     ("u_gamma", "nan"), ("u_beta", "inf")],
)  # fmt: skip
def test_a_number_that_its_field_cannot_hold_is_refused_in_a_sentence(
    trace_home: Path, open_page: Callable[..., AppTest], name: str, value: str
) -> None:
    app = open_page("unlearn", **{name: value})
    assert not app.exception
    (said,) = [box.value.replace("\\", "") for box in app.warning]
    assert f"{name!r} was refused (found {value[:40]!r})" in said
    assert name not in app.query_params


@pytest.mark.parametrize("method", METHODS)
def test_only_the_chosen_methods_fields_are_drawn_with_its_defaults(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest], method: MethodName
) -> None:
    app = open_page("unlearn", u_method=method, weights='{"rule":"uniform"}')
    assert not app.exception
    chosen = METHODS[method]
    prefix = "u" if method in ("npo", "graddiff") else f"u_{method}"
    keys = {box.key for box in app.number_input}
    for field in PARAMETERS:
        shown = {key for key in keys if str(key).endswith(f"_{field}")}
        assert shown == ({f"{prefix}_{field}"} if field in chosen.parameters else set())
    for field, default in chosen.parameters.items():
        # The profile's model is the bundled one, for which some methods are tuned.
        wanted = defaults_for("demo:target", method).get(field) or default
        assert app.number_input(key=f"{prefix}_{field}").value == wanted
    for field in ("learning_rate", "batch_size", "max_steps"):
        found = app.number_input(key=f"u_{field}").value
        assert found == defaults_for("demo:target", method)[field]
    assert app.number_input(key=f"{prefix}_gamma").value == chosen.gamma
    assert ("u_alpha" in keys) is chosen.retains
    assert any(chosen.line in caption.value for caption in app.caption)
    told = [caption for caption in app.caption if caption.value == UNTUNED_NOTE]
    assert len(told) == (method not in TUNED)
    copies = [caption for caption in app.caption if caption.value == unlearn_form.START_COPY]
    assert len(copies) == needs_start_model(method, chosen.retain_term)
    assert ("u_steering_layer" in keys) is chosen.steers


def test_another_method_brings_its_defaults_and_leaves_what_was_changed(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_method="npo")
    assert (
        app.number_input(key="u_learning_rate").value
        == defaults_for("demo:target")["learning_rate"]
    )
    app.number_input(key="u_batch_size").set_value(5).run()
    app.selectbox(key="u_method").set_value("wga").run()
    assert not app.exception
    wanted = defaults_for("demo:target", "wga")
    for field in ("alpha", "learning_rate", "max_steps"):
        assert app.number_input(key=f"u_{field}").value == wanted[field]
    assert app.number_input(key="u_batch_size").value == 5


def test_a_retain_term_and_a_methods_parameter_reach_the_launched_run(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_method="simnpo", u_simnpo_delta="-0.5", u_retain_term="kl")
    assert any(caption.value == unlearn_form.START_COPY for caption in app.caption)
    app.button(key="u_launch").click().run()
    assert not app.exception
    (run,) = list_runs()
    config = open_run(run.id).config()
    assert isinstance(config, UnlearnConfig)
    assert (config.method, config.delta, config.retain_term) == ("simnpo", -0.5, "kl")
    assert (config.forget_weight, config.beta) == (0.125, 4.5)


@pytest.mark.parametrize(("given", "layer"), [({}, None), ({"u_steering_layer": "2"}, 2)])
def test_rmu_holds_hidden_states_at_its_layer_unless_told_otherwise(
    own_sets: dict[str, Path],
    open_page: Callable[..., AppTest],
    given: dict[str, str],
    layer: int | None,
) -> None:
    app = open_page("unlearn", u_method="rmu", u_rmu_steering="6.5", **given)
    assert not app.exception
    assert app.selectbox(key="u_rmu_retain_term").value == "hidden"
    assert any(caption.value == unlearn_form.STEERED for caption in app.caption)
    app.button(key="u_launch").click().run()
    config = open_run(list_runs()[0].id).config()
    assert isinstance(config, UnlearnConfig)
    assert (config.method, config.steering, config.steering_layer) == ("rmu", 6.5, layer)
    assert config.kept == "hidden"


def test_a_method_on_answers_needs_a_set_of_them(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_method="idkdpo")
    assert not app.exception
    assert any("idkdpo works on answers to prompts" in said for said in troubles(app))
    assert app.button(key="u_launch").disabled
    lines = [json.dumps({"question": f"q{i}?", "answer": f"a{i}"}) for i in range(5)]
    own_sets["forget"].write_text("\n".join(lines), encoding="utf-8")
    app = open_page("unlearn", u_method="idkdpo", u_idkdpo_beta="0.2")
    assert troubles(app) == []
    app.button(key="u_launch").click().run()
    config = open_run(list_runs()[0].id).config()
    assert isinstance(config, UnlearnConfig)
    assert (config.method, config.beta) == ("idkdpo", 0.2)


def test_seufs_expert_and_anchor_reach_the_launched_run(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn", u_trains="top_experts", u_anchor="0.5")
    assert not app.exception
    assert any("highest gate mass on the forget set" in block.value for block in app.markdown)
    fields = [*app.number_input, *(box for box in app.selectbox if box.key != "runs_pick")]
    assert [field.key for field in fields if not field.help] == []
    app.button(key="u_launch").click().run()
    config = open_run(list_runs()[0].id).config()
    assert isinstance(config, UnlearnConfig)
    assert (config.trainable.kind, config.trainable.number) == ("top_experts", 1)
    assert config.anchor_weight == 0.5
    told = runs_view.fact_sentences({"anchor": {"sentence": "The expert: L1 E2."}})
    assert told == ["The expert: L1 E2."]
    assert "u_anchor" not in {box.key for box in open_page("unlearn").number_input}


def test_ga_weights_nothing_whatever_rule_other_methods_have(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn")
    app.selectbox(key="wts_rule").set_value("mean").run()
    app.selectbox(key="u_method").set_value("ga").run()
    assert not app.exception
    assert not troubles(app)
    app.button(key="u_launch").click().run()
    config = open_run(list_runs()[0].id).config()
    assert isinstance(config, UnlearnConfig)
    assert (config.method, config.weights.rule) == ("ga", "uniform")
    app.selectbox(key="u_method").set_value("npo").run()
    assert app.selectbox(key="wts_rule").value == "mean"
    sweep = open_page("unlearn", u_method="ga", u_mode="a sweep")
    assert not sweep.exception
    assert not troubles(sweep)


def test_style_length_and_weight_decay_reach_the_settings(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest]
) -> None:
    path = own_sets["forget"].with_name("questions.jsonl")
    path.write_text(json.dumps({**GOOD, "category": "hazard"}) + "\n", encoding="utf-8")
    app = open_page("unlearn", u_style="letters", u_max_length="96", u_weight_decay="0.05")
    assert "u_style" not in {box.key for box in app.selectbox}, "without questions none is scored"
    app = with_question_file(app, str(path))
    app.selectbox(key="u_style").set_value("letters").run()
    app.button(key="u_launch").click().run()
    assert not app.exception
    config = open_run(list_runs()[0].id).config()
    assert isinstance(config, UnlearnConfig)
    assert (config.max_length, config.weight_decay) == (96, 0.05)
    assert config.evaluation.style == "letters"


def test_a_profile_without_settings_cannot_be_unlearned(
    bundled: object, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("unlearn")
    assert not app.exception
    assert "does not record its settings" in app.warning[0].value


@pytest.mark.parametrize(
    ("ended", "word"),
    [("done", "All"), ("stopped", "Resume continues"), ("failed", "NaN at step 3"),
     ("interrupted", "without a word")],
)  # fmt: skip
def test_an_ended_run_shows_its_state_and_curves(
    own_sets: dict[str, Path],
    trace_home: Path,
    open_page: Callable[..., AppTest],
    ended: str,
    word: str,
) -> None:
    messages = {
        "done": "All 20 steps done.",
        "failed": "loss became NaN at step 3.",
        "stopped": "Stopped at step 2 of 20; saved.",
    }
    rows = [eval_row(0, 0.9, 0.9), train_row(1), train_row(2, None), eval_row(2, 0.5, 0.85)]
    facts = {"knowledge": {"sentence": "The model knows the forget set: 90 of 100."}}
    run = write_run(trace_home, rows, ended, messages.get(ended, ""), facts=facts)
    app = open_page("unlearn", run=run.id)
    assert not app.exception
    assert any(word in text.value for text in app.text)
    assert any("knows the forget set" in text.value for text in app.markdown)
    keys = {button.key for button in app.button}
    assert ("run_resume" in keys) == (ended != "done")
    assert "run_stop" not in keys


@pytest.mark.parametrize("repeats", [False, True])
def test_resume_is_not_the_first_thing_to_do_where_it_would_fail_again(
    own_sets: dict[str, Path],
    trace_home: Path,
    open_page: Callable[..., AppTest],
    repeats: bool,
) -> None:
    run = write_run(trace_home, [], "failed", "No expert is selected.", repeats=repeats)
    app = open_page("unlearn", run=run.id)
    assert not app.exception
    kind = app.button(key="run_resume").proto.type
    assert kind == ("secondary" if repeats else "primary")
    said = any(caption.value == runs_view.SAME_AGAIN for caption in app.caption)
    assert said is repeats


def test_a_run_at_work_shows_progress_and_stop(
    own_sets: dict[str, Path], trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    rows = [eval_row(0, 0.9, 0.9), train_row(5)]
    run = write_run(trace_home, rows, "interrupted")
    progress = {"phase": "unlearning", "done": 5, "total": 20, "unit": "steps"}
    write_json(run.path / "progress.json", {**progress, "per_second": 2.0, "eta_seconds": 7.5})
    with run.lock():
        app = open_page("unlearn", run=run.id)
    assert not app.exception
    assert "run_stop" in {button.key for button in app.button}
    assert any(text.value == "Running." for text in app.text)
    (bar,) = app.get("progress")
    assert bar.proto.value == 25
    assert bar.proto.text.replace("\\", "") == (
        "unlearning: 5 of 20 steps, 2 steps/s, about 8 s left"
    )


@pytest.mark.parametrize("address", ["../../etc", "20200101-000000-abcdef", "x" * 300])
def test_a_wrong_run_in_the_address_is_a_sentence(
    own_sets: dict[str, Path], open_page: Callable[..., AppTest], address: str
) -> None:
    app = open_page("unlearn", run=address)
    assert not app.exception
    assert len(app.error) == 1


def test_a_run_is_opened_and_deleted_from_the_list(
    own_sets: dict[str, Path], trace_home: Path, open_page: Callable[..., AppTest]
) -> None:
    run = write_run(trace_home, [eval_row(0, 0.9, 0.9)], name="<b>first</b>")
    app = open_page("unlearn")
    app.button(key="runs_open").click().run()
    assert run.id in app.query_params["run"]
    app.button(key="runs_delete").click().run()
    assert not app.exception
    assert list_runs() == []
    assert "run" not in app.query_params


def test_launch_troubles_are_sentences() -> None:
    assert forms.launch_troubles(unlearn_config(), None) == []
    assert forms.launch_troubles(None, "beta: wrong.") == ["beta: wrong."]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ({"u_gamma": "0.0", "u_alpha": "0.0"}, "the loss would be 0 and nothing would train."),
        ({"u_gamma": "0.0"}, "the forget term is off, so nothing would be unlearned."),
        ({"u_alpha": "0.0"}, "Raise alpha, or choose the uniform rule."),
    ],
)
def test_a_loss_that_does_nothing_is_refused_with_the_engines_sentence(
    own_sets: dict[str, Path],
    open_page: Callable[..., AppTest],
    address: dict[str, str],
    sentence: str,
) -> None:
    app = open_page("unlearn", **address)
    assert not app.exception
    assert app.button(key="u_launch").disabled
    assert sentence in app.error[0].value


def test_progress_names_rate_and_time_left() -> None:
    progress = {
        "phase": "unlearning",
        "done": 30,
        "total": 60,
        "unit": "steps",
        "per_second": 1.5,
        "eta_seconds": 20.0,
    }
    assert (
        runs_view.progress_sentence(progress)
        == "unlearning: 30 of 60 steps, 1.5 steps/s, about 20 s left"
    )
    assert runs_view.progress_sentence(None) is None


def test_trackers_are_chosen_and_a_missing_one_stops_the_launch(
    own_sets: dict[str, Path],
    open_page: Callable[..., AppTest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trackers, "installed", lambda name: name == "tensorboard")
    app = open_page("unlearn", u_trackers="tensorboard")
    assert "trackers:\n- tensorboard\n" in next(
        str(block.value) for block in app.code if block.language == "yaml"
    )
    app.multiselect(key="u_trackers").set_value(["mlflow"]).run()
    assert any("pip install mlflow" in error.value for error in app.error)
    assert app.button(key="u_launch").disabled

"""Data & model: sets in, what is refused and why, the launch, and a job's end."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import doors, launch_view, model_view, state
from tests.app.conftest import KEY
from trace_engine.config import ModelConfig, ProfileConfig, SetConfig
from trace_engine.disk import write_json
from trace_engine.routing import Profile
from trace_engine.runs import RunDirectory

OpenPage = Callable[..., AppTest]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """What the page can see of a model: settings and a weights file's name."""
    folder = tmp_path / "model"
    folder.mkdir()
    settings = {"architectures": ["OlmoeForCausalLM"], "num_hidden_layers": 2, "num_experts": 8}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    return folder


def typed(app: AppTest, forget: str, retain: str) -> AppTest:
    """Type both sets."""
    for side, text in (("forget", forget), ("retain", retain)):
        app.segmented_control(key=f"{side}_kind").set_value("Type").run()
        app.text_area(key=f"{side}_text").set_value(text).run()
    return app


def with_folder(app: AppTest, folder: Path) -> AppTest:
    """Choose a model folder."""
    app.segmented_control(key="model_kind").set_value("Folder").run()
    return app.text_input(key="model_folder").set_value(str(folder)).run()


def said(app: AppTest) -> str:
    elements = [*app.markdown, *app.error, *app.warning, *app.caption, *app.success]
    return " ".join(element.value for element in elements).replace("\\", "")


def test_presets_show_counts_and_text(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("data_model")
    assert not app.exception
    assert "documents" in said(app)
    assert any("gun" in text.value for text in app.text)


@pytest.mark.fault_row(18)
def test_launch_is_disabled_and_says_why(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("data_model", forget_kind="Type", model_kind="Folder")
    assert app.button(key="launch").disabled
    assert "Nothing is typed yet" in said(app)
    assert "No model is named yet" in said(app)


@pytest.mark.fault_row(19)
def test_equal_sets_are_refused(bundled: Profile, open_page: OpenPage, model_folder: Path) -> None:
    app = with_folder(typed(open_page("data_model"), "a b\n\nc d", "c  D\n\na b"), model_folder)
    assert "the same texts" in said(app)
    assert app.button(key="launch").disabled


@pytest.mark.fault_row(19)
def test_overlap_shows_its_count_and_asks(
    bundled: Profile, open_page: OpenPage, model_folder: Path
) -> None:
    app = with_folder(typed(open_page("data_model"), "a b\n\nc d", "c d\n\ne f"), model_folder)
    assert "1 of 2 forget documents" in said(app)
    assert app.button(key="launch").disabled
    next(box for box in app.checkbox if box.label.startswith("Compare")).check().run()
    assert not app.button(key="launch").disabled


def test_own_text_is_hidden_until_revealed_and_kept_across_pages(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = typed(open_page("data_model"), "secret one\n\nsecret two", "plain")
    assert not any("secret" in text.value for text in app.text)
    app.button(key="reveal-forget").click().run()
    assert any("secret one" in text.value for text in app.text)
    app.switch_page("pages/expert.py").run()
    app.switch_page("pages/data_model.py").run()
    assert app.text_area(key="forget_text").value == "secret one\n\nsecret two"
    assert not any("secret" in str(value) for value in app.query_params.values())


@pytest.mark.fault_row(15)
def test_a_malformed_upload_is_a_sentence_and_the_good_one_is_kept(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = open_page("data_model", forget_kind="Upload")
    uploader = app.file_uploader(key="forget_file")
    uploader.upload("good.jsonl", b'{"text": "one"}\n{"text": "two"}\n', "application/json").run()
    assert not app.exception
    assert "**2** documents" in said(app)
    app.file_uploader(key="forget_file").upload(
        "bad.jsonl", b'{"text": "one"}\n{"text": 42}\n', "application/json"
    ).run()
    assert "bad.jsonl, line 2" in said(app)
    assert "good.jsonl is kept" in said(app)
    assert "**2** documents" in said(app)


def test_a_file_taken_out_of_the_uploader_is_no_longer_used(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = open_page("data_model", forget_kind="Upload")
    good, bad = b'{"text": "one"}\n{"text": "two"}\n', b'{"text": 42}\n'
    uploader = app.file_uploader(key="forget_file")
    uploader.set_value(("good.jsonl", good, "application/json")).run()
    app.file_uploader(key="forget_file").set_value(("bad.jsonl", bad, "application/json")).run()
    # Taking out what was refused leaves what was accepted before.
    app.file_uploader(key="forget_file").clear().run()
    assert "**2** documents" in said(app)
    assert "good.jsonl is in use" in said(app)
    app.file_uploader(key="forget_file").set_value(("good.jsonl", good, "application/json")).run()
    app.file_uploader(key="forget_file").clear().run()
    assert not app.exception
    assert "**2** documents" not in said(app)
    assert "Nothing is uploaded yet" in said(app)


def test_an_upload_is_named_after_a_visit_to_another_page(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = open_page("data_model", forget_kind="Upload")
    file = ("good.jsonl", b'{"text": "one"}\n{"text": "two"}\n', "application/json")
    app.file_uploader(key="forget_file").set_value(file).run()
    app.switch_page("pages/expert.py").run()
    app.switch_page("pages/data_model.py").run()
    assert "**2** documents" in said(app)
    assert "good.jsonl is in use" in said(app)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "no config.json"),
        ({"config.json": "{"}, "not readable JSON"),
        ({"config.json": "[]"}, "holds no settings"),
        ({"config.json": "{}"}, "no *.safetensors"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "pickled weights"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    tmp_path: Path, files: dict[str, str], sentence: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert sentence in (model_view.read_folder(str(tmp_path)).problem or "")


def test_a_folder_is_described_without_opening_weights(model_folder: Path) -> None:
    note = model_view.read_folder(str(model_folder))
    assert note.problem is None
    assert "OlmoeForCausalLM" in note.facts
    assert "8 experts per layer" in note.facts


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        (
            {"n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2},
            ["64 experts per layer", "6 experts per token", "2 shared experts"],
        ),
        (
            {"text_config": {"num_local_experts": 16, "experts_per_token": 1}},
            ["16 experts per layer", "1 expert per token"],
        ),
        ({"expert_num": 8}, ["its settings name experts in words of their own"]),
        ({"num_experts": 0}, ["its settings name experts in words of their own"]),
        ({}, ["its settings name no experts"]),
    ],
)
def test_experts_are_counted_in_words(
    model_folder: Path, settings: dict[str, object], facts: list[str]
) -> None:
    (model_folder / "config.json").write_text(json.dumps(settings))
    found = model_view.read_folder(str(model_folder)).facts[3:]
    assert [fact.split(";")[0] for fact in found] == facts
    assert not any("_" in fact or "num " in fact for fact in found)


@pytest.mark.parametrize("source", ["/no/such/folder", "a\0b", "demo:../x", "x" * 5000])
def test_a_folder_that_is_not_there_is_a_sentence(source: str) -> None:
    assert model_view.read_folder(source).problem


def test_launching_writes_the_sets_and_shows_the_job(
    bundled: Profile,
    open_page: OpenPage,
    model_folder: Path,
    trace_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched: list[ProfileConfig] = []

    def launch(config: ProfileConfig) -> str:
        launched.append(config)
        return "20260101-000000-abcdef"

    monkeypatch.setattr(doors, "launch", launch)
    app = with_folder(typed(open_page("data_model"), "a b\n\nc d", "e f"), model_folder)
    assert not (trace_home / "sets").exists()
    app.selectbox(key="model_dtype").set_value("bfloat16").run()
    app.selectbox(key="model_experts_implementation").set_value("trial").run()
    app.button(key="launch").click().run()
    assert not app.exception
    assert launched[0].model == ModelConfig(
        source=str(model_folder), dtype="bfloat16", experts_implementation="trial"
    )
    assert Path(launched[0].forget.source).read_text().count("\n") == 2
    assert app.query_params["job"] == "20260101-000000-abcdef"


def finished_job(home: Path, state_: str, **facts: Any) -> str:
    """A profiling job's directory as its worker leaves it."""
    run = RunDirectory(home / "runs" / "20260101-000000-abcdef")
    config = ProfileConfig(
        model=ModelConfig(source="x"), forget=SetConfig(source="a"), retain=SetConfig(source="b")
    )
    with run.create(config):
        run.update(state=state_, message="failed: disk full" if state_ == "failed" else "")
    write_json(run.path / "facts.json", facts)
    return run.id


def test_a_finished_job_opens_its_map(
    bundled: Profile, open_page: OpenPage, trace_home: Path
) -> None:
    app = open_page("data_model", job=finished_job(trace_home, "done", profile_key=KEY))
    app.button(key="open_map").click().run()
    assert not app.exception
    assert app.title[0].value == "Where do they differ?"
    assert app.query_params["profile"] == KEY


@pytest.mark.parametrize("count", [0, 3])
def test_a_finished_job_says_counts_and_overlap(
    bundled: Profile, open_page: OpenPage, trace_home: Path, count: int
) -> None:
    overlap = {"count": count, "forget_total": 40, "retain_total": 60}
    job = finished_job(trace_home, "done", profile_key=KEY, overlap=overlap)
    app = open_page("data_model", job=job)
    assert not app.exception
    warned = [box.value.replace("\\", "") for box in app.warning]
    said = [caption.value.replace("\\", "") for caption in app.caption]
    if count:
        assert "Overlap: 3 of 40 forget documents are among the 60 retain documents too." in warned
    else:
        assert "Overlap: none of 40 forget documents is among the 60 retain documents." in said


def test_a_finished_job_can_be_put_away(
    bundled: Profile, open_page: OpenPage, trace_home: Path
) -> None:
    app = open_page("data_model", job=finished_job(trace_home, "done", profile_key=KEY))
    app.button(key="close_job").click().run()
    assert not app.exception
    assert "job" not in app.query_params
    assert [button for button in app.button if button.key == "open_map"] == []


def test_a_failed_job_says_why_and_can_be_dismissed(
    bundled: Profile, open_page: OpenPage, trace_home: Path
) -> None:
    app = open_page("data_model", job=finished_job(trace_home, "failed"))
    assert "failed: disk full" in app.error[0].value.replace("\\", "")
    app.button(key="dismiss_job").click().run()
    assert "job" not in app.query_params


@pytest.mark.parametrize("job", ["../../etc", "20260101-000000-000000", "<script>"])
def test_a_job_that_is_not_there_is_a_sentence(
    bundled: Profile, open_page: OpenPage, job: str
) -> None:
    app = open_page("data_model", job=job)
    assert not app.exception
    assert "run" in app.warning[0].value


def test_the_command_repeats_what_the_page_chose() -> None:
    config = ProfileConfig(
        model=ModelConfig(source="demo:target"),
        forget=SetConfig(source="demo:forget"),
        retain=SetConfig(source="demo:retain"),
    )
    words = shlex.split(launch_view.command(config).replace("\\\n", " "))
    assert words[:2] == ["trace-moe", "profile"]
    assert words[words.index("--retain") + 1] == "demo:retain"
    assert "--seed" not in words
    changed = config.model_copy(update={"seed": 3, "count_bos": True})
    words = shlex.split(launch_view.command(changed).replace("\\\n", " "))
    assert words[words.index("--seed") + 1] == "3"
    assert "--count-bos" in words
    assert "--dtype" not in words
    model = ModelConfig(dtype="bfloat16", quantization="8bit", revision="v1")
    words = shlex.split(
        launch_view.command(changed.model_copy(update={"model": model})).replace("\\\n", " ")
    )
    for option, value in (("dtype", "bfloat16"), ("quantization", "8bit"), ("revision", "v1")):
        assert words[words.index(f"--{option}") + 1] == value


def test_key_of_state_is_what_the_tests_use(bundled: Profile) -> None:
    assert state.profile_path(KEY) is not None

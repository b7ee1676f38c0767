"""The page Audit: the form's file, what is refused, a finished audit's finding and files."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from streamlit.testing.v1 import AppTest

from app import audit_view
from tests.audit.cases import small, write_published
from trace_engine.audit.manifest import changed_files, read_manifest
from trace_engine.audit.run import run_audit
from trace_engine.audit.settings import HARNESS_SENTENCE, AuditConfig, LicenceConfig, parse_audit
from trace_engine.bundled import AUDIT, resolve_report
from trace_engine.config import ModelConfig, to_yaml
from trace_engine.disk import write_json, write_text
from trace_engine.evaluation import muse as muse_family
from trace_engine.evaluation import tofu as tofu_family
from trace_engine.runs.places import new_run_id, subfolder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def page(**query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return app.switch_page("pages/audit.py").run()


def stored(home: Path, config: AuditConfig, state: str, message: str = "") -> Path:
    """An audit of the home, as its process leaves it."""
    folder = subfolder("audits", home) / new_run_id()
    folder.mkdir()
    write_text(folder / "audit.yaml", to_yaml(config))
    write_json(folder / "status.json", {"state": state, "message": message})
    return folder


def texts(app: AppTest) -> str:
    kinds = (app.text, app.markdown, app.error, app.warning, app.success, app.info, app.caption)
    said = "\n".join(str(element.value) for kind in kinds for element in kind)
    # What a stranger may have typed is escaped for Markdown.
    return said.replace("\\", "")


@pytest.mark.usefixtures("home")
def test_the_file_on_the_page_is_what_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[AuditConfig] = []

    def launch(config: AuditConfig, token: str | None = None) -> str:
        launched.append(config)
        return new_run_id()

    monkeypatch.setattr("app.doors.launch_audit", launch)
    app = page()
    assert not app.exception
    app.text_input(key="audit_name").set_value("Mine")
    app.text_input(key="audit_auditor").set_value("Ada <b>")
    app.text_input(key="audit_before").set_value("hub:me/start")
    for key, revision in (("", "v2"), ("before_", " v1 "), ("reference_", "v3")):
        app.text_input(key=f"audit_{key}revision").set_value(revision)
    app.text_area(key="audit_templates").set_value("What of {question}?\n\n say {question}: ")
    app.text_input(key="audit_holdout").set_value("held.jsonl")
    app.text_input(key="audit_questions").set_value("sets/wmdp")
    app.text_input(key="audit_muse").set_value(" hub:muse-bench/MUSE-Books ")
    app.text_input(key="audit_tofu").set_value("sets/TOFU")
    app.selectbox(key="audit_tofu_forget").set_value("forget05")
    licences = {name: f"terms of {name}" for name in LicenceConfig.model_fields}
    for name, terms in licences.items():
        app.text_input(key=f"audit_licence_{name}").set_value(terms)
    app.text_area(key="audit_runs").set_value("one\n\n two ")
    app.run()
    shown = parse_audit(yaml.safe_load(app.code[0].value))
    assert shown.form.auditor == "Ada <b>"
    assert (shown.model.source, shown.max_questions) == ("demo:target", 200)
    published = shown.published
    assert (published.muse, published.tofu) == ("hub:muse-bench/MUSE-Books", "sets/TOFU")
    assert (published.tofu_forget, shown.questions) == ("forget05", "sets/wmdp")
    assert (shown.model.revision, shown.runs) == ("v2", ("one", "two"))
    assert shown.before == ModelConfig(source="hub:me/start", revision="v1")
    assert shown.reference == ModelConfig(source="demo:retrain_no_hazard", revision="v3")
    assert shown.asking.templates == ("What of {question}?", "say {question}:")
    assert shown.holdout is not None
    assert (shown.holdout.source, shown.licences.model_dump()) == ("held.jsonl", licences)
    app.button(key="audit_launch").click().run()
    assert launched == [shown]


@pytest.mark.usefixtures("home")
def test_a_reference_is_offered_beside_another_bundled_model_alone() -> None:
    app = page()

    def shown() -> str:
        return str(app.text_input(key="audit_reference").value)

    assert app.text_input(key="audit_questions").value == "demo:questions/test"
    assert shown() == "demo:retrain_no_hazard"
    app.text_input(key="audit_model").set_value("models/mine").run()
    assert shown() == ""
    assert parse_audit(yaml.safe_load(app.code[0].value)).reference is None
    app.text_input(key="audit_model").set_value("demo:retrain_no_hazard").run()
    assert shown() == ""
    app.text_input(key="audit_model").set_value("demo:retrain_no_book").run()
    assert shown() == "demo:retrain_no_hazard"
    app = app.switch_page("pages/start.py").run().switch_page("pages/audit.py").run()
    assert shown() == "demo:retrain_no_hazard"
    # What a person typed, or cleared, stays.
    app.text_input(key="audit_reference").set_value("models/retrained").run()
    app.text_input(key="audit_model").set_value("models/mine").run()
    assert shown() == "models/retrained"
    app.text_input(key="audit_reference").set_value("").run()
    app.text_input(key="audit_model").set_value("models/yours").run()
    assert shown() == ""


@pytest.mark.usefixtures("home")
def test_wmdp_and_mmlu_are_asked_by_letters_unless_chosen_otherwise() -> None:
    app = page()

    def written() -> AuditConfig:
        return parse_audit(yaml.safe_load(app.code[0].value))

    assert (written().style, written().description) == ("continuation", "")
    app.text_input(key="audit_questions").set_value("hub:cais/wmdp:wmdp-bio").run()
    assert written().style == "letters"
    assert written().description == HARNESS_SENTENCE
    app.selectbox(key="audit_style").set_value("continuation").run()
    assert written().description == ""
    app.selectbox(key="audit_style").set_value("letters").run()
    assert written().description == HARNESS_SENTENCE
    app.text_input(key="audit_description").set_value("About {subject}.\\n").run()
    assert written().description == "About {subject}.\n"
    app.selectbox(key="audit_style").set_value("continuation").run()
    app.text_input(key="audit_questions").set_value("sets/mmlu").run()
    assert written().style == "continuation"


@pytest.mark.usefixtures("home")
def test_training_on_retained_text_can_be_left_out_or_chosen() -> None:
    app = page()
    parts = app.button_group(key="audit_parts")
    assert "Training on retained text alone" in parts.options
    assert parse_audit(yaml.safe_load(app.code[0].value)).parts is None
    parts.set_value(["questions", "recovery"]).run()
    assert parse_audit(yaml.safe_load(app.code[0].value)).parts == ("questions", "recovery")


@pytest.mark.usefixtures("home")
def test_without_a_template_the_bundled_questions_keep_their_own() -> None:
    app = page()
    app.text_area(key="audit_templates").set_value(" \n").run()
    assert parse_audit(yaml.safe_load(app.code[0].value)).asking.templates == "auto"


@pytest.mark.usefixtures("home")
def test_a_template_without_a_place_for_the_question_is_refused() -> None:
    app = page()
    app.text_area(key="audit_templates").set_value("{question}?\nWhat is it?").run()
    assert "the template 'What is it?' has no {question} in it" in texts(app)
    assert app.button(key="audit_launch").disabled


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("audit_model", "demo:nothing", "no 'demo:nothing'"),
        ("audit_model", " ", "Audited model: is empty"),
        ("audit_before", "demo:target", "no change to look at"),
        ("audit_before_revision", "v1", "Start model: is empty"),
        ("audit_forget", "", "Forget set: is empty"),
        ("audit_muse", "demo:target", "the bundled pack has one corpus of MUSE, demo:book"),
        ("audit_tofu", "demo:book", "the bundled pack has no TOFU"),
    ],
)
def test_what_cannot_be_audited_is_said_and_the_button_is_off(
    field: str, value: str, said: str
) -> None:
    app = page()
    app.text_input(key=field).set_value(value).run()
    assert said in texts(app)
    assert app.button(key="audit_launch").disabled


def test_a_finished_audit_shows_its_finding(home: Path, tmp_path: Path) -> None:
    config = small(tmp_path / "sets", parts=["questions", "recovery"], name="<script>")
    folder = stored(home, config, "done", "Undecided")
    found = run_audit(config, folder / "report", base=home)
    app = page(audit=folder.name)
    assert not app.exception
    said = texts(app)
    assert found.finding.title in said
    assert found.finding.sentence in said
    assert "left out by the settings" in said
    assert "Utility, all other questions: " in said
    figure, *trained = app.get("plotly_chart")
    assert len(trained) == 2  # answers not shown, utility
    assert all("optimizer updates on retained text" in curve.proto.spec for curve in trained)
    assert "No fact of the forget set is told" in said
    assert "the forget questions" in figure.proto.spec
    excess, accuracy = (table.value for table in app.dataframe)
    assert list(excess["test"]) == [
        "the forget questions, asked plainly", "training on retained text",
    ]  # fmt: skip
    assert excess["yardstick"][0] == "the reference, treated alike"
    assert list(accuracy["questions"]) == ["hazard", "other", "utility"]
    assert set(accuracy) >= {"audited model", "start model", "reference"}
    assert [button.label for button in app.get("download_button")][:4] == [
        "report.html", "report.json", "tables and answers (CSV)", "everything (ZIP)",
    ]  # fmt: skip
    # What is taken away is the whole folder, and nothing that a link in it points to.
    (folder / "report" / "parts" / "link").symlink_to(tmp_path / "sets")
    with zipfile.ZipFile(io.BytesIO(audit_view._zipped(folder / "report"))) as archive:
        archive.extractall(tmp_path / "taken")
    taken = tmp_path / "taken" / audit_view.WHOLE
    assert changed_files(taken, read_manifest(taken)) == []


def test_muse_and_tofu_are_shown_with_what_they_say(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((muse_family, "VERBATIM_TOKENS"), (tofu_family, "ANSWER_TOKENS")):
        monkeypatch.setattr(module, name, 8)  # what is written is not what is tested
    config = small(
        tmp_path / "sets", parts=["muse", "tofu"], before=None,
        published=write_published(tmp_path),
    )  # fmt: skip
    folder = stored(home, config, "done", "Undecided")
    run_audit(config, folder / "report", base=home)
    app = page(audit=folder.name)
    assert not app.exception
    muse, tofu = (table.value for table in app.dataframe)
    assert list(muse["measure"])[:2] == ["VerbMem, ROUGE-L F1", "KnowMem on forget, ROUGE-L F1"]
    assert list(muse["n"]) == ["4", "4", "4", "11", "11"]
    assert list(muse)[2:] == ["audited model", "reference"]
    assert muse["reference"].iloc[-1] == "this is the reference"
    assert list(tofu["set"])[:3] == ["forget", "forget", "the other three"]
    assert set(tofu["set"][3:]) == {"forget", "retain", "real authors", "world facts"}
    said = texts(app)
    assert "VerbMem, ROUGE-L F1: how well what the model writes" in said
    assert "the finding does not rest on them" in said
    assert str(tmp_path) not in "".join(table.value.to_csv() for table in app.dataframe)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("finding", {"verdict": "nope"}, "KeyError: 'nope'"),
        ("finding.title", "![x](https://example.org/x.png)", ""),
        ("finding.sentence", "\ud800", "UnicodeEncodeError"),
        ("parts.questions.summary", [1, 2, 3], "TypeError"),
        ("parts.muse.summary.rows", {"a": 1}, "TypeError"),
        ("runs", 7, "TypeError"),
        ("format", 99, "a newer version wrote it"),
    ],
)
def test_a_report_of_other_values_is_a_sentence_and_can_be_taken_away(
    home: Path, tmp_path: Path, path: str, value: Any, said: str
) -> None:
    folder = stored(home, small(tmp_path / "sets"), "done", "Undecided")
    shutil.copytree(resolve_report(AUDIT), folder / "report")
    report = json.loads((folder / "report" / "report.json").read_bytes())
    inner, *outer = path.split(".")[::-1]
    place = report
    for name in reversed(outer):
        place = place[name]
    place[inner] = value
    (folder / "report" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    app = page(audit=folder.name)
    assert not app.exception
    damaged = [error.value.replace("\\", "") for error in app.error if "verify" in error.value]
    assert bool(damaged) == bool(said)
    assert said in "".join(damaged[:1])
    assert "![x](" not in "".join(str(one.value) for one in (*app.error, *app.markdown))
    labels = [button.label for button in app.get("download_button")]
    assert {"report.html", "report.json", "everything (ZIP)"} <= {*labels}
    assert any("trace-moe verify" in one.value for one in app.code)


def test_a_finished_audit_without_its_files_is_a_sentence(home: Path, tmp_path: Path) -> None:
    folder = stored(home, small(tmp_path / "sets"), "done", "Undecided \ud800")
    app = page(audit=folder.name)
    assert not app.exception
    assert "there is no readable report.json" in texts(app)
    (folder / "report").mkdir()
    (folder / "report" / "report.json").write_text("[]")
    app = page(audit=folder.name)
    assert not app.exception
    labels = [button.label for button in app.get("download_button")]
    assert labels[0] == "report.json"
    assert "report.html" not in labels


def test_an_ended_audit_can_go_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored(home, small(tmp_path / "sets"), "failed", "the disk caught fire.\ud800")
    resumed: list[Any] = []
    monkeypatch.setattr("app.doors.resume_audit", resumed.append)
    app = page(audit=folder.name)
    assert "failed: the disk caught fire." in texts(app)
    app.button(key="audit_resume").click().run()
    assert resumed == [folder.name]


@pytest.mark.usefixtures("home")
def test_an_address_of_no_audit_is_a_sentence() -> None:
    app = page(audit="../../etc")
    assert not app.exception
    assert "There is no audit '../../etc' on this machine." in texts(app)


def test_the_page_computes_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path / "sets", parts=["questions", "measures"])
    folder = stored(home, config, "done", "Undecided")
    run_audit(config, folder / "report", base=home)
    computed: list[str] = []

    def refuse(name: str) -> Any:
        def called(*_: object, **__: object) -> None:
            computed.append(name)
            raise AssertionError(name)

        return called

    for name in ("open_model", "inspect_model", "read_chosen_questions", "load_set"):
        monkeypatch.setattr(f"trace_engine.audit.case.{name}", refuse(name))
    monkeypatch.setattr(torch.nn.Module, "__call__", refuse("forward"))
    with pytest.raises(AssertionError, match="load_set"):
        run_audit(config, tmp_path / "again", base=home)
    with pytest.raises(AssertionError, match="forward"):
        torch.nn.Identity()(torch.ones(1))
    computed.clear()
    app = page(audit=folder.name)
    assert not app.exception
    assert "Forget and utility" in texts(app)
    assert len(app.dataframe) == 2
    assert computed == []

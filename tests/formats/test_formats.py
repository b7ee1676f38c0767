"""Every kept format opens, and resumes; a newer one is refused in one sentence, everywhere."""

import ast
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from streamlit.testing.v1 import AppTest

import trace_engine
from app import bench_view
from tests.app import conftest as app_fixtures
from tests.formats.make import (
    BLOCKS,
    DONE,
    EVIDENCE,
    JOB,
    LATER,
    STOPPED,
    SWEEP,
    UNNUMBERED,
)
from trace_engine import runs, sweeps
from trace_engine.audit import background as audits
from trace_engine.audit.report_file import read_report
from trace_engine.audit.settings import PUBLISHED, read_audit
from trace_engine.audit.verify import verify_audit
from trace_engine.benchmark import read_bench, read_table
from trace_engine.benchmark.run import progress
from trace_engine.benchmark.run import run_table as make_table
from trace_engine.calibration import preview_weights, select_experts
from trace_engine.causal.perform import perform
from trace_engine.causal.replay import Examination
from trace_engine.causal.rerouted_results import Rerouted
from trace_engine.causal.results import Ablation, Scan
from trace_engine.causal.settings import parse_causal
from trace_engine.cli import main
from trace_engine.config import SelectionConfig, UnlearnConfig, WeightsConfig
from trace_engine.disk import read_json, sha256_file
from trace_engine.errors import TraceError
from trace_engine.export.background import ExportState, export_state
from trace_engine.formats import AUDIT, AUDIT_JOB, EXPORT_JOB
from trace_engine.routing import Profile, load_mismatch
from trace_engine.runs.evidence import evidence_folder, evidence_state
from trace_engine.runs.launcher import reopen
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import work

FORMATS = sorted(path.parent for path in Path(__file__).parent.glob("v*/runs"))
AUDITS = sorted(Path(__file__).parent.glob("v*/audit"))
KINDS = ("scan", "ablate", "rerouted")
NEWER = "a newer version wrote it. Open it with that one. Nothing was changed."

saved_profile = app_fixtures.saved_profile
trace_home = app_fixtures.trace_home
open_page = app_fixtures.open_page


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def kept(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    trace_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A copy of what one format's version left, as the current folder and as the home."""
    folder = tmp_path / "kept"
    shutil.copytree(request.param, folder)
    key = json.loads((folder / "profile" / "profile.json").read_text())["meta"]["key"]
    shutil.copytree(folder / "profile", folder / "profiles" / key)
    monkeypatch.setenv("TRACE_HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=AUDITS, ids=lambda path: path.parent.name)
def audited(request: pytest.FixtureRequest, kept: Path) -> Path:
    """The same with the audit of one format, which may be newer than the rest."""
    shutil.rmtree(kept / "audit")
    shutil.copytree(request.param, kept / "audit")
    for benchmark in PUBLISHED:
        if (request.param.parent / benchmark).is_dir():
            shutil.copytree(request.param.parent / benchmark, kept / benchmark)
    return kept


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_profile_gives_the_selection_and_the_weights_it_gave(kept: Path) -> None:
    profile, found = Profile.load(kept / "profile"), load_mismatch(kept / "profile")
    selection = select_experts(profile, SelectionConfig(top_k=1), found)
    recorded = json.loads((kept / "select.json").read_text())
    assert recorded["format"] == 1
    assert [list(cell) for cell in selection.cells] == recorded["cells"]
    assert len(recorded["cells"]) == 2
    weights = json.loads((kept / "weights.json").read_text())
    fitted = preview_weights(profile, selection, WeightsConfig()).fitted
    assert weights["rule"] == fitted.rule == "exact"
    achieved = [row["achieved"] for row in weights["table"]]
    assert np.allclose(fitted.table["achieved"], achieved, atol=1e-9)


@pytest.fixture
def in_blocks(kept: Path) -> Path:
    """The profile whose sides are counted in blocks, among the others."""
    key = json.loads((LATER / BLOCKS / "profile.json").read_text())["meta"]["key"]
    return Path(shutil.copytree(LATER / BLOCKS, kept / "profiles" / key))


@pytest.mark.fault_row(26)
def test_a_profile_in_blocks_opens_with_its_map(
    in_blocks: Path, open_page: Callable[..., AppTest]
) -> None:
    assert json.loads((in_blocks / "profile.json").read_text())["schema"] == 2
    profile, found = Profile.load(in_blocks), load_mismatch(in_blocks)
    assert (profile.forget.unit, profile.retain.unit) == ("block", "block")
    counts = [profile.forget.block_documents_D, profile.retain.block_documents_D]
    assert [each is not None and each.tolist() for each in counts] == [[1, 3, 0, 2], [1, 1, 2, 2]]
    assert (found.blocks_forget, found.blocks_retain) == (3, 4)
    assert len(select_experts(profile, SelectionConfig(top_k=1), found).cells) == 2
    for page in ("routing_map", "expert", "selection"):
        app = open_page(page, profile=in_blocks.name)
        assert not app.exception, page
        assert not app.error, page


def test_opening_changes_no_file(kept: Path, open_page: Callable[..., AppTest]) -> None:
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    key = json.loads((kept / "profile" / "profile.json").read_text())["meta"]["key"]
    for address in ({"run": DONE}, {"run": STOPPED}, {"sweep": SWEEP}):
        assert not open_page("unlearn", profile=key, **address).exception
    for page in ("routing_map", "compare", "causal", "audit"):
        assert not open_page(page, profile=key).exception, page
    assert main(["runs", "show", DONE]) == main(["runs", "show", STOPPED]) == 0
    read_table(kept / "table")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.fault_row(26)
def test_runs_open_by_id_and_by_folder_and_can_be_imported(kept: Path) -> None:
    states = {run.id: (run.status.state, run.status.step) for run in runs.list_runs()}
    assert states == {DONE: ("done", 4), STOPPED: ("stopped", 2)}
    run = runs.open_run(DONE)
    config = run.config()
    assert isinstance(config, UnlearnConfig)
    assert (config.name, config.trainable.kind) == ("kept, done", "selected_experts")
    assert [row["step"] for row in run.rows("train")] == [1, 2, 3, 4]
    assert [row["step"] for row in run.rows("eval")] == [0, 2, 4]
    assert set(run.rows("eval")[0]["accuracy"]) == {"hazard", "general"}
    assert run.facts()["knowledge"]
    assert run.events()[-1]["event"] == "done"
    for checkpoint in run.checkpoints():
        checkpoint.verify()
    for folder in (run.profile_before(), run.profile_after()):
        assert folder is not None
        assert Profile.load(folder).layers == (0, 1)
        assert load_mismatch(folder).layers == (0, 1)
    assert json.loads((run.path / "report" / "summary.json").read_text())["steps"] == 4
    imported = runs.open_run(runs.import_run(run.path, kept / "other"), kept / "other")
    assert imported.rows() == run.rows()


def test_a_run_exports_the_model_it_saved(kept: Path, tmp_path: Path) -> None:
    out = trace_engine.export_run(runs.open_run(DONE), tmp_path / "export")
    saved = (kept / "runs" / DONE / "model" / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == saved
    assert "kept, done" in (out / "README.md").read_text()


@pytest.mark.parametrize("name", [DONE, UNNUMBERED])
def test_why_an_export_failed_is_still_said(kept: Path, name: str) -> None:
    # The second note has no run of its own here; nothing but its name is asked of one.
    run = runs.RunDirectory(kept / "runs" / name)
    assert export_state(run, "merged") == ExportState(
        "failed", kept / "exports" / f"{name}-merged", "The disk is full."
    )


def test_a_newer_note_on_an_export_is_no_reason_one_can_read(kept: Path) -> None:
    run = runs.open_run(DONE)
    change(kept / "exports" / f".{DONE}-merged.json", format=EXPORT_JOB + 1)
    found = export_state(run, "merged")
    assert (found.state, found.message.endswith(NEWER)) == ("failed", True)


@pytest.mark.fault_row(26)
def test_a_stopped_run_resumes_from_its_checkpoint(kept: Path) -> None:
    run = runs.open_run(STOPPED)
    before = run.rows("train")
    with reopen(run):
        status = work(run, StopFlag(), base=kept)
    assert (status.state, status.step, status.attempt) == ("done", 4, 2), status.message
    assert any("continued from step 2" in note for note in status.notes)
    assert run.rows("train")[:2] == before
    assert [row["attempt"] for row in run.rows("train")] == [1, 1, 2, 2]
    assert run.model_folder() is not None


def test_a_sweep_opens(kept: Path) -> None:
    sweep = sweeps.open_sweep(SWEEP)
    assert (sweep.name, sweep.status().state) == ("kept", "stopped")
    assert [(point.values, point.run) for point in sweep.points()] == [
        ({"selection.top_k": 1}, DONE),
        ({"selection.top_k": 2}, None),
    ]


def test_a_table_opens_and_nothing_of_it_is_computed_again(kept: Path) -> None:
    loaded = read_table(kept / "table")
    assert loaded is not None
    assert list(bench_view.lines(loaded)["weighting"]) == ["uniform", "mean"]
    left = progress(read_bench(kept / "bench.yaml"), kept / "table")
    assert (left.rows, left.tuning_left, left.test_left) == (2, 0, 0)


@pytest.mark.parametrize(
    "audited",
    [*(pytest.param(older, marks=pytest.mark.slow) for older in AUDITS[:-1]), AUDITS[-1]],
    ids=lambda path: path.parent.name,
    indirect=True,
)
def test_an_audit_is_read_and_checked_against_its_models_and_sets(audited: Path) -> None:
    report = read_report(audited / "audit")
    assert (report["settings"]["name"], report["finding"]["verdict"]) == ("kept", "undecided")
    found = verify_audit(audited / "audit", seed=0)
    states = {check.what: (check.state, *check.details) for check in found.checks}
    page, *details = states.pop("page and tables against report.json")
    assert page == "not checked"
    assert "TRACE 0 (kept) made them" in details[0]
    assert {state for state, *_ in states.values()} == {"agrees"}, states
    # Files, parts, accuracies, attacks, what they start from, rules, finding; sources, hashes,
    # attacked, guessing, judged, answers; two models, a loss, three attacks. MUSE and TOFU, since
    # format 4: scores, items; two models.
    there = [name for name in PUBLISHED if name in report["parts"]]
    # Those of formats 5 and 6 have answers under other routing besides. All had experts taken out,
    # together and by themselves, and say what follows; 6 keeps its random sets.
    routed, random = int(report["format"] > 4), int(report["format"] > 5)
    alone = min(3, len(report["parts"]["causal"]["summary"]["cells"]))
    assert len(states) == 19 + 1 + 1 + 1 + alone + routed + random + 4 * len(there)
    assert len(there) == (2 if report["format"] > 3 else 0)


def test_an_audit_opens_on_its_page(audited: Path, open_page: Callable[..., AppTest]) -> None:
    folder = audited / "audits" / DONE
    shutil.copytree(audited / "audit", folder / "report")
    shutil.copy(folder / "report" / "audit.yaml", folder / "audit.yaml")
    (folder / "status.json").write_text('{"state": "done", "manifest_sha256": "f"}')
    app = open_page("audit", audit=DONE)
    assert not app.exception
    assert not app.error
    assert any("Undecided" in found.value for found in app.info)


@pytest.mark.parametrize("audit", [JOB, UNNUMBERED])
def test_a_stopped_audit_of_the_page_opens_and_goes_on(
    kept: Path, audit: str, monkeypatch: pytest.MonkeyPatch, open_page: Callable[..., AppTest]
) -> None:
    assert {one.id: one.state for one in audits.list_audits()} == {
        JOB: "stopped",
        UNNUMBERED: "stopped",
    }
    app = open_page("audit", audit=audit)
    assert not app.exception
    assert any("finished parts are kept" in error.value for error in app.error)
    # The same press of a button opens it, whichever version wrote it down.
    config = read_audit(kept / "audits" / audit / "audit.yaml")
    assert audits.launch_audit(config, token="press") in (JOB, UNNUMBERED)
    monkeypatch.setattr(audits, "WORKER", [sys.executable, "-c", ""])
    audits.resume_audit(audit)
    told = read_json(kept / "audits" / audit / "launch.json")
    assert (told["format"], told["token"]) == (1, "press")


def test_an_audit_at_work_writes_the_formats_number(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kept / "audits" / JOB
    written: list[Any] = []

    def run_audit(*_: Any, tell: Callable[[str], None], **__: Any) -> None:
        written.append(read_json(folder / "status.json"))
        tell("A sentence.")
        written.append(read_json(folder / "status.json"))
        raise TraceError("enough")

    monkeypatch.setattr("trace_engine.audit.run.run_audit", run_audit)
    assert audits._work(folder) == 1
    written.append(read_json(folder / "status.json"))
    assert [(told["format"], told["state"]) for told in written] == [
        (1, "running"),
        (1, "running"),
        (1, "failed"),
    ]


@pytest.mark.parametrize("name", ["status.json", "launch.json"])
def test_an_audit_of_a_newer_version_is_listed_with_its_reason(
    kept: Path, name: str, open_page: Callable[..., AppTest]
) -> None:
    change(kept / "audits" / JOB / name, format=AUDIT_JOB + 1)
    listed = {one.id: one for one in audits.list_audits()}
    assert listed[JOB].state == "damaged"
    assert listed[JOB].message.endswith(NEWER)
    assert listed[UNNUMBERED].state == "stopped"
    app = open_page("audit", audit=JOB)
    assert not app.exception
    assert any("newer version" in error.value for error in app.error)


def test_causal_evidence_opens(kept: Path) -> None:
    results = {what: read_json(kept / "evidence" / what / "result.json") for what in KINDS}
    assert [cell.cell for cell in Scan.from_dict(results["scan"]).cells] == [
        (layer, expert) for layer in (0, 1) for expert in range(4)
    ]
    ablated = Ablation.from_dict(results["ablate"])
    assert (ablated.cells, len(ablated.random)) == (((0, 1), (1, 2)), 2)
    assert ablated.order is not None
    assert Rerouted.from_dict(results["rerouted"]).overlap.layers[1].layer == 1
    for what, result in results.items():
        settings = parse_causal(read_json(kept / "evidence" / what / "settings.json"))
        assert settings.what == what
        assert result["schema"] == 1


@pytest.mark.parametrize("ended", ["done", "failed"])
def test_a_job_of_evidence_opens(kept: Path, ended: str) -> None:
    settings = parse_causal(read_json(LATER / EVIDENCE / ended / "settings.json"))
    shutil.copytree(LATER / EVIDENCE / ended, evidence_folder(settings))
    found = evidence_state(settings)
    assert found.state == ended
    if ended == "failed":
        assert found.message == "These questions cannot be asked."
        assert found.result is None
    else:
        assert found.result is not None
        assert Ablation.from_dict(found.result).cells == ((0, 1),)


def test_a_scan_goes_on_from_the_answers_it_kept(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = parse_causal(read_json(kept / "evidence" / "scan" / "settings.json"))
    monkeypatch.setattr(Examination, "without", lambda *a: pytest.fail("it was measured again"))
    found = perform(settings, kept / "evidence" / "answers")
    assert isinstance(found, Scan)
    known = Scan.from_dict(read_json(kept / "evidence" / "scan" / "result.json"))
    assert [cell.cell for cell in found.cells] == [cell.cell for cell in known.cells]
    for now, then in zip(found.cells, known.cells, strict=True):
        assert now.forget.loss.change == pytest.approx(then.forget.loss.change, abs=1e-5)


def test_the_pages_open_them(kept: Path, open_page: Callable[..., AppTest]) -> None:
    key = json.loads((kept / "profile" / "profile.json").read_text())["meta"]["key"]
    for page in ("routing_map", "expert", "selection"):
        app = open_page(page, profile=key)
        assert not app.exception, page
        assert not app.error, page
    app = open_page("unlearn", profile=key, run=DONE)
    assert not app.exception
    assert any("kept, done" in found.value.replace("\\", "") for found in app.subheader)
    assert not open_page("compare", profile=key).exception


# --- all of them ----------------------------------------------------------------------------------


def _field(name: str, path: Path) -> Any:
    if path.suffix == ".npz":
        head = np.load(path, allow_pickle=False)["head"].tobytes()
        return json.loads(head)[name]
    return json.loads(path.read_text(encoding="utf-8")).get(name)


WRITTEN = {
    "formats.RUN": [("format", "*/runs/*/status.json"), ("format", "*/runs/*/report/summary.json")],
    "formats.SWEEP": [("format", "*/sweeps/*/status.json")],
    "formats.TABLE": [("format", "*/table/table.json")],
    "formats.CALIBRATION": [("format", "*/select.json"), ("format", "*/weights.json")],
    "formats.AUDIT": [("format", "*/audit/report.json"), ("format", "*/audit/manifest.json")],
    "formats.AUDIT_JOB": [
        ("format", "*/audits/*/status.json"),
        ("format", "*/audits/*/launch.json"),
    ],
    "formats.EXPORT_JOB": [("format", "*/exports/.*.json")],
    "routing.storage.SCHEMA": [("schema", "*/profile/profile.json")],
    "routing.storage.BLOCKS_SCHEMA": [("schema", "*/profile/profile.json")],
    "routing.mismatch_map.SCHEMA": [("schema", "*/profile/mismatch.npz")],
    "benchmark.plan.SCHEMA": [("schema", "*/table/trials/*.json")],
    "unlearning.packing.SCHEMA": [("schema", "*/runs/*/checkpoints/*/state.json")],
    "runs.checkpoints._FORMAT": [("format", "*/runs/*/checkpoints/*/manifest.json")],
    "runs.evidence.FORMAT": [
        ("format", "*/evidence/*/status.json"),
        ("format", "*/evidence/*/launch.json"),
    ],
    "causal.results.SCHEMA": [
        ("schema", "*/evidence/scan/result.json"),
        ("schema", "*/evidence/ablate/result.json"),
    ],
    "causal.rerouted_results.SCHEMA": [("schema", "*/evidence/rerouted/result.json")],
    "causal.store.SCHEMA": [("schema", "*/evidence/answers/*/layer-*-expert-*.json")],
}
"""A number that the engine writes -> the files that carry it, and under which name."""
NOT_WRITTEN = {
    "audit.parts.VERSION",  # of how parts compute: it goes into their keys
    "config.base.SCHEMA_VERSION",  # what a program asks; no file has it
}


def numbers() -> set[str]:
    """Every number of a format in the engine, by module and name."""
    root = Path(trace_engine.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            [target] = node.targets if isinstance(node, ast.Assign) else [node.target]
            name = target.id if isinstance(target, ast.Name) else ""
            number = isinstance(node.value, ast.Constant) and type(node.value.value) is int
            if number and (module == "formats" or re.search("FORMAT|SCHEMA|VERSION", name)):
                found.add(f"{module}.{name}")
    return found


def test_every_format_that_is_written_is_kept() -> None:
    assert numbers() == set(WRITTEN) | NOT_WRITTEN
    for number, files in WRITTEN.items():
        module, _, name = number.rpartition(".")
        now = getattr(importlib.import_module(f"trace_engine.{module}"), name)
        for field, pattern in files:
            kept = {_field(field, path) for path in Path(__file__).parent.glob(pattern)}
            assert now in kept, f"{number} is {now}; kept are {kept}: {pattern}"


# --- newer ---------------------------------------------------------------------------------------


def spoil_run(kept: Path) -> Callable[[], object]:
    change(kept / "runs" / DONE / "status.json", format=2)
    return lambda: runs.open_run(DONE).status()


def spoil_settings(kept: Path) -> Callable[[], object]:
    # The directory's format is looked at first: its settings may have fields not known here.
    change(kept / "runs" / DONE / "status.json", format=2)
    (kept / "runs" / DONE / "config.yaml").write_text("kind: unknown")
    return lambda: runs.open_run(DONE).config()


def spoil_profile(kept: Path) -> Callable[[], object]:
    change(kept / "profile" / "profile.json", schema=3)
    return lambda: Profile.load(kept / "profile")


def spoil_sweep(kept: Path) -> Callable[[], object]:
    change(kept / "sweeps" / SWEEP / "status.json", format=2)
    return lambda: sweeps.open_sweep(SWEEP).status()


def spoil_table(kept: Path) -> Callable[[], object]:
    change(kept / "table" / "table.json", format=2)
    return lambda: read_table(kept / "table")


def spoil_trial(kept: Path) -> Callable[[], object]:
    for path in (kept / "table" / "trials").glob("*.json"):
        change(path, schema=2)
    return lambda: make_table(read_bench(kept / "bench.yaml"), kept / "table")


def spoil_audit(kept: Path) -> Callable[[], object]:
    change(kept / "audit" / "report.json", format=AUDIT + 1)
    return lambda: read_report(kept / "audit")


def spoil_manifest(kept: Path) -> Callable[[], object]:
    change(kept / "audit" / "manifest.json", format=AUDIT + 1)
    return lambda: verify_audit(kept / "audit")


def spoil_audit_job(kept: Path) -> Callable[[], object]:
    change(kept / "audits" / JOB / "status.json", format=AUDIT_JOB + 1)
    return lambda: audits.resume_audit(JOB)


def spoil_audit_launch(kept: Path) -> Callable[[], object]:
    change(kept / "audits" / JOB / "launch.json", format=AUDIT_JOB + 1)
    return lambda: audits.resume_audit(JOB)


def spoil_evidence(kept: Path) -> Callable[[], object]:
    settings = parse_causal(read_json(kept / "evidence" / "scan" / "settings.json"))
    folder = evidence_folder(settings)
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"format": 2, "state": "done"}')
    return lambda: evidence_state(settings)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_run,
        spoil_settings,
        spoil_profile,
        spoil_sweep,
        spoil_table,
        spoil_trial,
        spoil_audit,
        spoil_manifest,
        spoil_audit_job,
        spoil_audit_launch,
        spoil_evidence,
    ],
    ids=lambda spoil: spoil.__name__.removeprefix("spoil_"),
)
def test_a_newer_one_is_refused_in_one_sentence(
    kept: Path, spoil: Callable[[Path], Callable[[], object]]
) -> None:
    open_it = spoil(kept)
    before = {path: path.read_bytes() for path in kept.rglob("*.json")}
    with pytest.raises(TraceError) as refused:
        open_it()
    assert str(refused.value).endswith(NEWER)
    assert {path: path.read_bytes() for path in kept.rglob("*.json")} == before


def test_a_newer_run_is_listed_with_its_reason_and_refused_by_every_door(
    kept: Path, open_page: Callable[..., AppTest], capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_run(kept)
    (listed,) = [run for run in runs.list_runs() if run.id == DONE]
    assert listed.status.state == "damaged"
    assert listed.status.message.endswith(NEWER)
    shutil.copytree(kept / "runs" / DONE, kept / "brought")
    given = {"show": DONE, "log": DONE, "resume": DONE, "import": str(kept / "brought")}
    for action, name in given.items():
        assert main(["runs", action, name]) == 2
        assert "newer version" in capsys.readouterr().err
    app = open_page("unlearn", run=DONE)
    assert not app.exception
    assert any("newer version" in error.value for error in app.error)


def test_a_newer_checkpoint_is_refused_and_not_passed_over(kept: Path) -> None:
    folder = kept / "runs" / STOPPED / "checkpoints" / "000002"
    change(folder / "state.json", schema=2)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = sha256_file(folder / "state.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run = runs.open_run(STOPPED)
    with reopen(run):
        status = work(run, StopFlag(), base=kept)
    assert status.state == "failed"
    assert status.message.endswith(NEWER)
    assert [row["step"] for row in run.rows("train")] == [1, 2]


def test_settings_of_a_newer_version_say_so_in_a_run_and_not_in_a_file_of_yours(
    kept: Path,
) -> None:
    path = kept / "runs" / DONE / "config.yaml"
    data = yaml.safe_load(path.read_text()) | {"telepathy": 1}
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(TraceError, match=r"telepathy.*A newer version of TRACE"):
        runs.open_run(DONE).config()
    with pytest.raises(TraceError, match="telepathy: there is no such setting") as refused:
        trace_engine.read_config(path)
    assert "newer" not in str(refused.value)

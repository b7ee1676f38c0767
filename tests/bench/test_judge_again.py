"""Judging finished audits again: stored answers decide, and not what was recorded of them."""

import json
from pathlib import Path

from bench.judge_again import differences, judged_again, named_audits
from bench.wrecked import settings
from tests.audit.cases import small
from trace_engine.audit.run import run_audit


def test_a_finding_follows_from_the_stored_answers_alone(tmp_path: Path) -> None:
    parts = ["questions", "relearning", "prefixes"]
    audited = run_audit(small(tmp_path / "sets", parts=parts), tmp_path / "out")
    known = audited.finding.to_dict()
    found = judged_again(audited.folder)
    assert {name: found[name] for name in ("verdict", "confidence", "sentence")} == {
        name: known[name] for name in ("verdict", "confidence", "sentence")
    }
    assert found["reasons"] == list(known["reasons"])
    counted = found["relearning_questions"]
    assert counted["questions"] == 60
    assert counted["no_choice_shown"]["0"] <= counted["right_answer_not_shown"]["0"] <= 60
    # What other rules made of the answers, and which questions they judged, does not count.
    path = audited.folder / "parts/relearning.json"
    data = json.loads(path.read_text("utf-8"))
    data["summary"]["excess"][0]["estimate"]["value"] = 0.9
    data["items"]["shown"]["0"] = "0" * 60
    del data["items"]["clear"], data["items"]["choices"]
    path.write_text(json.dumps(data), encoding="utf-8")
    assert judged_again(audited.folder) == found


def test_audits_of_a_blind_test_are_named_by_what_their_models_are(tmp_path: Path) -> None:
    (tmp_path / "blind.json").write_text('{"fake": {"folder": "audit-2"}}')
    assert list(named_audits([tmp_path])) == [("fake", tmp_path / "audit-2")]
    alone = tmp_path / "audit-1"
    assert list(named_audits([alone])) == [("audit-1", alone)]


def test_what_differs_from_an_earlier_file_is_named() -> None:
    one = {"fake": {"verdict": "suppressed"}}
    assert differences(one, one) == []
    (said,) = differences(one, {"fake": {"verdict": "returns"}})
    assert said == "fake, verdict: 'returns' there, 'suppressed' now"
    assert len(differences(one, {})) == 1


def test_a_wrecked_model_is_audited_plainly_and_on_retained_text() -> None:
    config = settings("wrecked", "target", "demo:retrain_no_hazard")
    assert config.parts == ("questions", "recovery")
    assert config.before is not None
    assert (config.before.source, config.recovery.steps) == ("target", 200)

"""Finished audits, judged by today's rules from the answers that they stored.

`python -m bench.judge_again FOLDER…` takes audits, or the folder of a blind test with its
`blind.json`, and prints every finding; `--out FILE` keeps them with their reasons, `--expect FILE`
compares them with such a file and ends with 1 where they differ. No model is opened and nothing is
asked again: sets and questions are read to find what a relearning showed. An audit that stored no
answers under other routing keeps the figures it recorded there.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trace_engine.attacks.relearning import not_shown
from trace_engine.audit.case import Case
from trace_engine.audit.evidence import finding_of
from trace_engine.audit.marks import TOGETHER, attack_figures
from trace_engine.audit.report_file import read_report
from trace_engine.audit.rules import RulesConfig
from trace_engine.audit.settings import PARTS, AuditConfig, read_audit
from trace_engine.audit.trained import documents_of, flags_of, left_out, unseen_of
from trace_engine.sets import check_pair, load_set
from trace_engine.unlearning.setup import read_chosen_questions

WHAT: Final = (
    "Judged again from stored answers by today's rules; no model was made or asked again. Answers "
    "under other routing that were not stored: the recorded figures."
)
Parts = dict[str, dict[str, Any]]


def judged_again(folder: Path) -> dict[str, Any]:
    """The finding on one audit, and which questions its relearning leaves to judge by."""
    config, report = read_audit(folder / "audit.yaml"), read_report(folder)
    parts: Parts = {
        part: json.loads(path.read_text(encoding="utf-8"))
        for part in PARTS
        if (path := folder / "parts" / f"{part}.json").is_file()
    }
    summaries = {part: found["summary"] for part, found in parts.items()}
    counted: dict[str, Any] = {}
    case = _materials(config)
    for part in ("relearning", "recovery"):
        if part in parts:
            items, counted[f"{part}_questions"] = _by_unshown(case, part, parts[part]["items"])
            summaries[part] = summaries[part] | attack_figures(part, config, items)
    for part in (*TOGETHER, "rerouted"):
        if part in parts and "right" in parts[part]["items"]:
            figures = attack_figures(part, config, parts[part]["items"])
            summaries[part] = summaries[part] | figures
    missing = {part: row["why"] for part, row in report["parts"].items() if not row["done"]}
    # The thresholds are the audit's, the way they are applied is today's.
    rules = config.rules.model_copy(update={"edition": RulesConfig().edition})
    finding = finding_of(summaries, missing, rules).to_dict()
    told = {name: finding[name] for name in ("verdict", "confidence", "sentence", "reasons")}
    judged: dict[str, Any] = json.loads(json.dumps(told | counted))
    return judged


def _materials(config: AuditConfig) -> Case:
    """Sets and questions, without any model."""
    forget, retain = load_set(config.forget), load_set(config.retain)
    questions = read_chosen_questions(config.asked(), config.seed) or {}
    overlap = check_pair(forget, retain)
    return Case(config, forget, retain, None, overlap, questions, None, {}, None)


def _by_unshown(
    case: Case, part: str, items: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training's items with the questions that are judged today, and how many those are."""
    asked, documents = case.forget_questions(), documents_of(case, part)
    unseen = unseen_of(asked, documents)
    told = {str(seed): sum(not_shown(asked, shown)) for seed, shown in documents.items()}
    clear = {str(seed): number for seed, number in unseen.clear.items()}
    counted = {"questions": len(asked), "right_answer_not_shown": told, "no_choice_shown": clear}
    today = {"shown": left_out(unseen), "told": flags_of(unseen.told), "clear": unseen.is_clear}
    return dict(items) | today, counted


def named_audits(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Audits by name; those of a blind test by what their models are."""
    for folder in folders:
        blind = folder / "blind.json"
        if blind.is_file():
            found = json.loads(blind.read_text(encoding="utf-8"))
            for name, row in found.items():
                yield name, folder / row["folder"]
        else:
            yield folder.name, folder


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What an earlier file says otherwise, by name."""
    said = []
    for name in sorted({*found, *expected}):
        now, then = found.get(name, {}), expected.get(name, {})
        for field in sorted({*now, *then}):
            if now.get(field) != then.get(field):
                said.append(f"{name}, {field}: {then.get(field)!r} there, {now.get(field)!r} now")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--expect", type=Path)
    options = parser.parse_args()
    found = {name: judged_again(folder) for name, folder in named_audits(options.folders)}
    for name, row in found.items():
        print(f"{name:<10} {row['verdict']:<15} {row['sentence']}")
    if options.out is not None:
        text = json.dumps({"what": WHAT, "findings": found}, ensure_ascii=False, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.expect is not None:
        expected = json.loads(options.expect.read_text(encoding="utf-8"))["findings"]
        said = differences(found, expected)
        print("\n".join(said) or f"As in {options.expect.name}.")
        sys.exit(1 if said else 0)


if __name__ == "__main__":
    main()

"""Checking an audit's folder: hashes, what follows from what, and a sample of figures anew.

From cheap to dear: every file against the manifest; report.json, page, tables and finding against
the parts, and the parts' accuracies and excesses against who was right when; then sets and models
by their hashes, a sample of questions asked again, plainly and under the attacks that only ask, one
loss, and, where asked for, one seed of those that train. The sample is drawn with a seed that
nobody knew beforehand, unless one is given. What is not computed again is told: it rests on stored
answers, which the manifest covers.
"""

import math
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import trace_engine
from trace_engine.audit.again import (
    ASKING,
    RELEARNED_APART,
    TRAINING,
    loss_again,
    not_again,
    picked_again,
    published_again,
    routed_ways,
    threads_of,
)
from trace_engine.audit.against_sets import (
    unlike_asked,
    unlike_files,
    unlike_hashes,
    unlike_items,
    unlike_shown,
)
from trace_engine.audit.case import Case
from trace_engine.audit.evidence import WORDS, finding_of
from trace_engine.audit.experts import selected_experts
from trace_engine.audit.follows import RANDOM_SINCE, unlike_ablation
from trace_engine.audit.made_again import WHOLE, ablated_again, lacking, parts_again
from trace_engine.audit.manifest import NAME, changed_files, read_manifest
from trace_engine.audit.marks import RISEN_SINCE, TOGETHER, attack_figures
from trace_engine.audit.names import NAMES, ROLE_WORDS, TOLD_SINCE
from trace_engine.audit.parts import question_summary
from trace_engine.audit.phrases import bare
from trace_engine.audit.published import figures_of
from trace_engine.audit.record import CONFIG, Record
from trace_engine.audit.report import derived_files
from trace_engine.audit.report_file import JSON, ODD, damaged, read_report
from trace_engine.audit.rules import RulesConfig
from trace_engine.audit.settings import (
    PARTS,
    PUBLISHED,
    AuditConfig,
    PublishedName,
    Role,
    read_audit,
)
from trace_engine.bundled import resolve_report
from trace_engine.disk import sha256_file, strict
from trace_engine.errors import InputError, RunError, TraceError
from trace_engine.formats import FIELD
from trace_engine.progress import ProgressCallback, ignore_progress

_STRUCTURE = "the report's structure"
START_APART = 0.02
"""Share of the answers that may differ between two askings of the same questions by one model."""
State = Literal["agrees", "differs", "not checked"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One check."""

    what: str
    state: State
    details: tuple[str, ...] = ()
    """What differs, by name; or why it was not checked."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, and what came of it."""

    checks: tuple[Checked, ...]
    manifest_sha256: str
    seed: int
    """Drew the sample; give it to look at the same questions again."""
    not_again: tuple[str, ...] = ()
    """What the report holds and was not computed again, by design."""

    @property
    def differs(self) -> bool:
        return any(check.state == "differs" for check in self.checks)

    @property
    def complete(self) -> bool:
        return all(check.state == "agrees" for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 everything agrees; 1 something differs; 3 nothing differs, but not all was checked."""
        return 1 if self.differs else 0 if self.complete else 3

    def to_dict(self) -> dict[str, Any]:
        return {
            "checks": [
                {"what": c.what, "state": c.state, "details": list(c.details)} for c in self.checks
            ],
            "manifest_sha256": self.manifest_sha256,
            "seed": self.seed,
            "not_computed_again": list(self.not_again),
            "agrees": not self.differs,
            "complete": self.complete,
        }


def verify_audit(
    folder: str | Path,
    *,
    config: AuditConfig | None = None,
    sample: int = 40,
    seed: int | None = None,
    recompute: bool = True,
    thorough: bool = False,
    base: Path | None = None,
    report: ProgressCallback = ignore_progress,
) -> Verified:
    """Check the folder of a finished audit, or `demo:audit`.

    `config` stands for its audit.yaml where models and sets lie elsewhere. `thorough` also trains
    again for one seed of the report and makes map, drift and ablations again, which takes as long
    as it took. Raises RunError when it is no such folder, or of a newer format.
    """
    path = resolve_report(folder).absolute()
    manifest = read_manifest(path)
    seed = secrets.randbelow(2**31) if seed is None else seed
    checks = [_checked("files against the manifest", changed_files(path, manifest))]
    left: list[str] = []
    try:
        data = read_report(path)
        parts, unread = _parts(path)
        if unread:
            checks.append(_checked(_STRUCTURE, unread))
        with np.errstate(all="ignore"):  # a stranger's numbers; what comes of them is compared
            for found in _within(path, data, parts):
                checks.append(found)  # one by one: they stay where a later one ends it
        if recompute:
            chosen = _Chosen(sample, seed, thorough, data.get(FIELD, 1))
            checks += _recomputed(path, config, data, parts, chosen, base, report)
            ablated = any("experts taken out again" in check.what for check in checks)
            left = not_again(parts, thorough, ablated)
        else:
            checks.append(Checked("figures recomputed", "not checked", ("left out by request",)))
    except RunError as error:
        checks.append(Checked(_STRUCTURE, "differs", (str(error),)))
    except ODD as error:
        # It was not written by us, and what is left cannot be checked.
        checks.append(Checked(_STRUCTURE, "differs", (damaged(f"{JSON} or a part", error),)))
    return Verified(tuple(checks), sha256_file(path / NAME), seed, tuple(left))


def _checked(what: str, differing: list[str]) -> Checked:
    return Checked(what, "differs" if differing else "agrees", tuple(differing))


def _sound(name: str, found: Iterable[str]) -> Iterator[str]:
    """What differs; last that the file is damaged, where its values are no report's."""
    try:
        yield from found
    except ODD as error:
        yield damaged(name, error)


def _settings(folder: Path) -> AuditConfig:
    try:
        return read_audit(folder / CONFIG)
    except InputError as error:
        raise RunError(f"{CONFIG} is damaged: {error}") from None


def _parts(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The parts that can be read, and a sentence on each that cannot."""
    record = Record(folder)
    parts: dict[str, Any] = {}
    unread: list[str] = []
    for part in PARTS:
        try:
            found = record.find(part, None)
        except RunError as error:
            unread.append(str(error))
        else:
            if found is not None:
                parts[part] = found
    return parts, unread


def _within(folder: Path, data: Mapping[str, Any], parts: Mapping[str, Any]) -> Iterator[Checked]:
    """What follows from what, without a model."""
    yield _checked(
        "the report's figures against the parts'", list(_sound(JSON, _unlike_parts(data, parts)))
    )
    made = _made_by(data)
    if made == trace_engine.__version__:
        said = list(_sound(JSON, _unlike_report(folder, data)))
        yield _checked("page and tables against report.json", said)
    else:
        yield Checked(
            "page and tables against report.json",
            "not checked",
            (f"TRACE {made[:20]} made them, and this is {trace_engine.__version__}",),
        )
    config, version = _settings(folder), data.get(FIELD, 1)
    said = list(_sound(_file("questions"), _unlike_answers(config, parts, version)))
    yield _checked("accuracies against the answers", said)
    yield _checked("attacks against their marks", list(_unlike_marks(config, parts, version)))
    yield _checked("answers before the attacks against the answers", list(_unlike_start(parts)))
    yield _checked("models that were asked in other ways", list(_unlike_models(parts, version)))
    for name in PUBLISHED:
        if name in parts:
            said = list(_sound(_file(name), _unlike_scores(name, parts[name])))
            yield _checked(f"{NAMES[name]} against its scores", said)
    summaries = {part: found["summary"] for part, found in parts.items()}
    if "causal" in parts:
        unlike = _unlike_causal(config, parts, version)
        yield _checked(
            "experts taken out against their figures and the map",
            list(_sound(f"{_file('causal')} or {_file('routing')}", unlike)),
        )
    if "experts" in data:
        said = list(
            _sound(f"{_file('causal')} or {_file('routing')}", _unlike_experts(data, summaries))
        )
        yield _checked("experts against map and ablations", said)
    said = list(_sound(JSON, _unlike_rules(config, data, version)))
    yield _checked("the rules against the settings", said)
    said = list(_sound(f"{JSON} or a part", _unlike_finding(data, summaries)))
    yield _checked("the finding against the rules", said)


def _made_by(data: Mapping[str, Any]) -> str:
    found = data.get("surroundings")
    made = found.get("trace") if isinstance(found, dict) else None
    if not isinstance(made, str):
        raise RunError(f"{JSON} is damaged: it does not say which TRACE made it.")
    return made


def _file(part: str) -> str:
    return f"parts/{part}.json"


def _unlike_causal(config: AuditConfig, parts: Mapping[str, Any], version: int) -> Iterator[str]:
    found = parts["causal"]
    map_ = parts.get("routing", {"summary": {}})["summary"].get(found["summary"]["role"])
    yield from unlike_ablation(
        found["summary"], found["items"], map_, config.forget_category, version
    )


def _unlike_experts(data: Mapping[str, Any], summaries: Mapping[str, Any]) -> Iterator[str]:
    yield from _unlike(f"{JSON}, experts", data["experts"], strict(selected_experts(summaries)))


def _unlike_finding(data: Mapping[str, Any], summaries: Mapping[str, Any]) -> Iterator[str]:
    missing = {part: row["why"] for part, row in data["parts"].items() if not row["done"]}
    finding = finding_of(summaries, missing, RulesConfig.recorded(data["rules"])).to_dict()
    for name, value in strict(finding).items():
        said = data["finding"].get(name)
        if bare(said) != bare(value):
            yield f"finding, {name}: the report says {said!r}, the rules say {value!r}"


def _unlike_parts(data: Mapping[str, Any], parts: Mapping[str, Any]) -> Iterator[str]:
    for part, row in data["parts"].items():
        there = parts.get(part)
        if row["done"] != (there is not None):
            yield f"{part}: the report and the folder disagree on whether it was done"
        elif there is not None:
            yield from _unlike(f"{JSON}, {part}", row["summary"], there["summary"])


def _unlike(where: str, shown: Any, stored: Any) -> Iterator[str]:
    """The places at which two JSON values differ, by name."""
    if isinstance(shown, dict) and isinstance(stored, dict):
        for name in sorted({*shown, *stored}):
            yield from _unlike(f"{where}.{name}", shown.get(name), stored.get(name))
    elif isinstance(shown, list) and isinstance(stored, list) and len(shown) == len(stored):
        for place, (one, other) in enumerate(zip(shown, stored, strict=True)):
            yield from _unlike(f"{where}[{place}]", one, other)
    elif bare(shown) != bare(stored):
        yield f"{where}: {str(shown)[:80]} is said, {str(stored)[:80]} was measured"


def _unlike_report(folder: Path, data: Mapping[str, Any]) -> Iterator[str]:
    for name, made in derived_files(data).items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != made:
            yield f"{name}: does not say what {JSON} says"


def _unlike_answers(config: AuditConfig, parts: Mapping[str, Any], version: int) -> Iterator[str]:
    """Accuracies, differences and guessing, computed again from right and wrong."""
    if "questions" not in parts:
        return
    items = parts["questions"]["items"]
    for role, picked in items["picked"].items():
        right = "".join(
            "1" if one == answer else "0"
            for one, answer in zip(picked, items["answer"], strict=True)
        )
        if right != items["right"][role]:
            yield f"parts/questions.json: what the {role} picked and what is right disagree"
    yield from _unlike_figures("questions", config, parts["questions"], items, version)


def _unlike_marks(config: AuditConfig, parts: Mapping[str, Any], version: int) -> Iterator[str]:
    """Rows, curves and excesses of the attacks, computed again from who was right when."""
    routed = ("rerouted",) if version >= RISEN_SINCE else ()
    for part in (*routed, *TOGETHER, *TRAINING):
        if part in parts:
            unlike = _unlike_figures(part, config, parts[part], parts[part]["items"], version)
            yield from _sound(_file(part), unlike)


def _unlike_models(parts: Mapping[str, Any], version: int) -> Iterator[str]:
    """Where an attack that only asks leaves out a model that the questions were put to, or a way
    of asking of one."""
    for part in TOGETHER:
        if part in parts:
            unlike = _left_out(part, parts, version)
            yield from _sound(f"{_file('questions')} or {_file(part)}", unlike)


def _left_out(part: str, parts: Mapping[str, Any], version: int) -> Iterator[str]:
    asked = parts["questions"]["items"]["right"] if "questions" in parts else {}
    needed = {"model", "reference"}
    if part != "quantisation" and version >= RANDOM_SINCE:
        needed.add("before")
    ways: dict[str, set[str]] = {}
    for name in parts[part]["items"]["right"]:
        role, _, way = name.partition(", ")
        ways.setdefault(role, set()).add(way)
    for role in sorted(needed & {*asked}):
        if ways.get(role) != ways.get("model"):
            yield f"{_file(part)}: the {ROLE_WORDS[role]} was not asked in every way"


def _unlike_start(parts: Mapping[str, Any]) -> Iterator[str]:
    """Where what an attack starts from, and is compared with, is not what the questions' part says
    of the same questions. Nearly equal choices may change places in a batch of other rows."""
    for part in ("rerouted", *TOGETHER, *TRAINING):
        if "questions" in parts and part in parts:
            unlike = _started_otherwise(part, parts)
            yield from _sound(f"{_file('questions')} or {_file(part)}", unlike)


def _started_otherwise(part: str, parts: Mapping[str, Any]) -> Iterator[str]:
    items, asked = parts["questions"]["items"], parts[part]["items"]
    place = {number: n for n, number in enumerate(items["number"])}
    for name, marks in asked.get("right", {}).items():
        role, _, way = name.partition(", ")
        if way != "plain" and not way.endswith(", step 0"):
            continue
        known = [items["right"][role][place[number]] for number in asked["number"]]
        turned = sum(one != other for one, other in zip(marks, known, strict=True))
        if turned > START_APART * len(marks):
            yield (
                f"{_file(part)}, {name}: {turned} of {len(marks)} answers are others than "
                "those of the same questions in parts/questions.json"
            )


def _unlike_figures(
    part: str,
    config: AuditConfig,
    found: Mapping[str, Any],
    items: Mapping[str, Any],
    version: int,
) -> Iterator[str]:
    """Where a part's summary is not what follows from its items."""
    needed = ["choices", *(["utility"] if part in TRAINING else [])]
    needed += ["kept"] if part == "rerouted" and "figures" in found["summary"] else []
    needed += ["told"] if part in TRAINING and version >= TOLD_SINCE else []
    lacking = [name for name in needed if name not in found["items"]]
    if lacking and version >= RISEN_SINCE:
        yield f"parts/{part}.json: {', '.join(lacking)} of its items is missing"
    try:
        if part == "questions":
            again = strict(question_summary(config, items))
        else:
            again = strict(attack_figures(part, config, items, version))
    except InputError as error:
        # Marks of which nothing follows; the other checks go on.
        yield f"parts/{part}.json: no figure follows from its marks ({error})"
        return
    shown = found["summary"]
    if part in TRAINING and "utility" not in items:
        shown = _without_utility(shown)
    for name, value in again.items():
        if lacking and name not in shown:
            continue
        yield from _unlike(f"parts/{part}.json, {name}", shown.get(name), value)


def _unlike_scores(name: PublishedName, found: Mapping[str, Any]) -> Iterator[str]:
    """Where the rows of MUSE or TOFU are not what follows from the scores; whose package scored is
    left aside, as is what another processor's rounding may change."""
    where, shown = f"parts/{name}.json", found["summary"]["rows"]
    try:
        again = strict(figures_of(name, found["summary"]["source"], found["items"]))
    except InputError as error:
        yield f"{where}: no figure follows from its scores ({error})"
        return
    if len(again) != len(shown):
        yield f"{where}: {len(shown)} rows are said, {len(again)} follow from its scores"
        return
    for place, (one, other) in enumerate(zip(shown, again, strict=True)):
        for field, value in other.items():
            if field != "implementation" and not _nearly(one.get(field), value):
                yield from _unlike(f"{where}, rows[{place}].{field}", one.get(field), value)


def _nearly(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
    return bool(one == other)


def _without_utility(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A training's summary but for utility, whose marks older versions did not store."""
    rows = [row for row in summary["rows"] if not row["on"].startswith("utility, ")]
    curves = {name: of for name, of in summary["curves"].items() if not name.endswith(": utility")}
    return dict(summary) | {"rows": rows, "curves": curves}


def _unlike_rules(config: AuditConfig, data: Mapping[str, Any], version: int) -> list[str]:
    rules, shown = strict(config.rules.model_dump(mode="json")), data["rules"]
    names = rules if version >= TOLD_SINCE else shown
    return [
        f"rules, {name}: {str(shown.get(name))[:40]} in {JSON}, "
        f"{str(rules.get(name))[:40]} in {CONFIG}"
        for name in names
        if rules.get(name) != shown.get(name)
    ]


def _unlike_choices(case: Case, parts: Mapping[str, Any], version: int) -> list[str]:
    """What follows from how many choices the questions have: guessing."""
    said = []
    for part in ("questions", *TRAINING):
        if part in parts:
            asked = case.questions if part == "questions" else case.forget_questions()
            counts = [len(question.choices) for question in asked.values()]
            items = dict(parts[part]["items"]) | {"choices": counts}
            said += list(_unlike_figures(part, case.config, parts[part], items, version))
    return said


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is computed again."""

    sample: int
    seed: int
    thorough: bool
    version: int

    def places(self, n: int) -> list[int]:
        """A sample of so many places, drawn with the seed, in order."""
        order = np.random.default_rng(self.seed).permutation(n)
        return sorted(order[: self.sample].tolist())


def _recomputed(
    folder: Path,
    config: AuditConfig | None,
    data: Mapping[str, Any],
    parts: Mapping[str, Any],
    chosen: _Chosen,
    base: Path | None,
    report: ProgressCallback,
) -> list[Checked]:
    what = "figures recomputed from models and sets"
    absent: dict[Role, str] = {}
    try:
        case = Case.read(config or read_audit(folder / CONFIG), base, absent=absent)
    except TraceError as error:
        return [Checked(what, "not checked", (str(error),))]
    checks = [
        Checked(f"figures of the {ROLE_WORDS[role]}", "not checked", (why,))
        for role, why in absent.items()
    ]
    if not case.models:
        return checks
    gone = {f"model: {role}" for role in absent}
    now, then = case.fingerprints(), data["fingerprints"]
    other = [
        f"{name}: its SHA-256 is {str(now.get(name))[:12]}, the report's {str(then.get(name))[:12]}"
        for name in sorted({*now, *then} - gone)
        if now.get(name) != then.get(name)
    ]
    checks.append(_checked("models and sets are those of the report", other))
    if other:
        return [*checks, Checked(what, "not checked", ("models or sets are others",))]
    if "questions" in parts:
        checks.append(_checked("question hashes", unlike_hashes(case, parts["questions"]["items"])))
        checks.append(
            _checked("attacked questions against the sets", list(unlike_asked(case, parts)))
        )
        guessed = _unlike_choices(case, parts, data.get(FIELD, 1))
        checks.append(_checked("guessing against the questions", guessed))
        checks.append(
            _checked("judged questions against the sets", list(unlike_shown(case, parts)))
        )
        checks.append(_checked("answer files against the parts", unlike_files(folder, case, parts)))
    for name in PUBLISHED:
        if name in parts:
            said = unlike_items(case, name, parts[name]["items"])
            checks.append(_checked(f"items of {NAMES[name]}", said))
    with threads_of(case):
        checks += _computed_again(case, parts, chosen, report)
    case.close()
    return checks


def _computed_again(
    case: Case, parts: Mapping[str, Any], chosen: _Chosen, report: ProgressCallback
) -> Iterator[Checked]:
    if "questions" in parts:
        items = parts["questions"]["items"]
        places = chosen.places(len(items["number"]))
        for role in case.models:
            said = picked_again(case, role, items, places, report)
            yield _checked(f"{len(places)} questions asked again, {role}", said)
    if "measures" in parts and "model" in case.models:
        rows = parts["measures"]["summary"]["rows"]
        yield _checked("loss of the retain set again, model", loss_again(case, rows))
    for benchmark in PUBLISHED:
        for role in parts[benchmark]["items"]["scores"] if benchmark in parts else ():
            if role not in case.models:
                continue
            items = parts[benchmark]["items"]
            drawn = {piece: chosen.places(len(of)) for piece, of in items["number"].items()}
            said = published_again(case, benchmark, role, items, drawn, report)
            n = sum(map(len, drawn.values()))
            yield _checked(f"{n} items of {NAMES[benchmark]} asked again, {role}", said)
    for part, again in ASKING.items():
        if part in parts and (part != "rerouted" or _routes(case, parts[part]["items"])):
            items = parts[part]["items"]
            places = chosen.places(len(items["number"]))
            what = f"{len(places)} forget questions asked again, {WORDS[part]}"
            yield _checked(what, again(case, items, places, report))
    for part, trained_again in TRAINING.items() if chosen.thorough else ():
        if part in parts:
            items = parts[part]["items"]
            for name, said in trained_again(case, items, chosen.seed, report):
                what = f"{name}: at most {RELEARNED_APART:.0%} of the answers turned"
                yield _checked(what, said)
    summaries = {part: found["summary"] for part, found in parts.items()}
    for part in WHOLE if chosen.thorough else ("causal",):
        without = lacking(case, part, summaries[part]) if part in summaries else ()
        if without:
            why = f"without the {' and the '.join(ROLE_WORDS[role] for role in without)}"
            yield Checked(f"{WORDS[part]}, again", "not checked", (why,))
    if "causal" in summaries and not lacking(case, "causal", summaries["causal"]):
        again_ = ablated_again(case, parts["causal"], chosen.seed, chosen.version, report)
        for what, said in again_:
            yield _checked(what, said)
    if chosen.thorough:
        for part, said in parts_again(case, summaries, chosen.version, report):
            yield _checked(f"{WORDS[part]}: all of it again", said)


def _routes(case: Case, items: Mapping[str, Any]) -> bool:
    """Whether other routing can be asked about again: there are answers, and both models."""
    return bool(routed_ways(items)) and {"before", "model"} <= {*case.models}

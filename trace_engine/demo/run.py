"""The whole story on the bundled model, without a browser: profile, select, weigh, unlearn, and say
what came.

Every step is the one that a page or a command would take, and leaves the same files. It stands
above the runs room because the last step is a real run; it accepts telling the story in fixed
words.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trace_engine import formats
from trace_engine.calibration import preview_weights, select_experts
from trace_engine.config import UnlearnConfig
from trace_engine.demo.settings import bundled_run
from trace_engine.disk import place_folder, write_json
from trace_engine.errors import InputError, RunError
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.routing import Mismatch, Profile, load_mismatch
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.profiles import ProfileAnswer
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import work
from trace_engine.spelling import NINETY_FIVE, percent

Tell = Callable[[str], object]


def run_demo(
    out: str | Path,
    steps: int = 60,
    *,
    report: ProgressCallback = ignore_progress,
    tell: Tell = print,
    stop: StopFlag | None = None,
    config: UnlearnConfig | None = None,
) -> dict[str, Any]:
    """Run the story into `out` and return its summary (also written as summary.json).

    Leaves `profile/`, `selection.json`, `weights.json`, `run/` and `summary.json`. `tell` gets the
    story, sentence by sentence. `config` puts another model and other sets in the bundled ones'
    place. Raises InputError when `out` is not empty, RunError when the run fails.
    """
    folder = Path(out).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder.name} exists and is not empty. Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    settings = config or bundled_run("demo", steps)

    tell(f"1. Profile: where does {settings.model.source} send the two sets' tokens?")
    cached, _ = ProfileAnswer(settings.profile_config()).get(report)
    place_folder(folder / "profile", lambda to: shutil.copytree(cached, to))
    profile, found = Profile.load(folder / "profile"), load_mismatch(folder / "profile")
    tell(_gap(profile, found))

    tell("2. Select: the experts that the forget set uses more.")
    head = {formats.FIELD: formats.CALIBRATION}
    selection = select_experts(profile, settings.selection, found)
    write_json(folder / "selection.json", head | selection.to_dict())
    tell(
        f"   {len(selection.cells)} experts are selected; they hold "
        f"{percent(selection.gap_share, 0)} of the positive gap."
        if selection.cells
        else f"   {selection.why_empty}"
    )

    tell("3. Weigh: how much should each retain token count?")
    preview = preview_weights(profile, selection, settings.weights)
    write_json(folder / "weights.json", head | preview.fitted.to_dict())
    diagnostics = preview.diagnostics
    tell(
        f"   Rule {preview.fitted.rule} at hardness {preview.fitted.hardness:.2f} keeps an "
        f"effective {percent(diagnostics['ess_share'], 0)} of the retain tokens; the largest "
        f"weight is {diagnostics['max_weight']:.1f}."
    )

    tell(f"4. Unlearn: {settings.max_steps} steps of {settings.method.upper()} with these weights.")
    run = RunDirectory(folder / "run")
    with run.create(settings):
        status = work(run, stop or StopFlag(), report=report)
    if status.state == "failed":
        raise RunError(f"The demo's run failed. {status.message}")
    rows = run.rows("eval")
    for sentence in _outcome(settings, rows):
        tell(sentence)
    summary = {
        "state": status.state,
        "message": status.message,
        "config": settings.model_dump(mode="json"),
        "selected": [list(cell) for cell in selection.cells],
        "weights": diagnostics,
        "start": rows[0] if rows else None,
        "end": rows[-1] if rows else None,
        "knowledge": run.facts().get("knowledge"),
    }
    write_json(folder / "summary.json", summary)
    tell(f"Everything is in {out}: profile/, selection.json, weights.json, run/, summary.json.")
    return summary


def _gap(profile: Profile, found: Mismatch) -> str:
    """The largest gap, with its interval, its controls and its n."""
    row = found.table().sort_values("difference", ascending=False, kind="stable").iloc[0]
    return (
        f"   Expert {row['expert']:.0f} of layer {row['layer']:.0f} gets "
        f"{percent(row['forget'])} of the forget tokens and {percent(row['retain'])} of the "
        f"retain tokens: {row['ratio']:.1f} times as much "
        f"({NINETY_FIVE} interval {row['ratio_low']:.1f} to {row['ratio_high']:.1f}; "
        f"{row['matched_ratio']:.1f} times after matching token identities). "
        f"n = {len(profile.forget.document_ids):,} and "
        f"{len(profile.retain.document_ids):,} documents."
    )


def _outcome(settings: UnlearnConfig, rows: list[dict[str, Any]]) -> list[str]:
    """What the questions, or else the losses, say before and after."""
    if len(rows) < 2:
        return ["   Stopped before a second evaluation: there is nothing to compare yet."]
    start, end = rows[0], rows[-1]
    sentences = []
    for category, before in (start.get("accuracy") or {}).items():
        after = end["accuracy"][category]
        goal = "should fall" if category == settings.evaluation.forget_category else "should hold"
        sentences.append(
            f"   {category} ({goal}): {percent(before['value'])} of {before['n']} questions "
            f"before, {percent(after['value'])} [{percent(after['low'])}, "
            f"{percent(after['high'])}] after {end['step']} steps."
        )
    for name, label in (("forget_nll", "forget loss"), ("retain_nll", "retain loss")):
        before, after = start.get(name), end.get(name)
        if before and after:
            sentences.append(
                f"   {label}: {before['value']:.2f} before, {after['value']:.2f} after."
            )
    return sentences

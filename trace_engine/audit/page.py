"""report.html from report.json: one file, no script, nothing from outside, the finding first.

A pure function, so that the page can be made again and compared. What was not done is a sentence in
the place where its figures would stand.
"""

from collections.abc import Callable
from typing import Final

from trace_engine.audit import inside
from trace_engine.audit.blocks import (
    Report,
    attack_rows,
    count,
    figure,
    items,
    named,
    summary_of,
    table,
    untested,
)
from trace_engine.audit.controls import Control
from trace_engine.audit.experts import told_where
from trace_engine.audit.figures import Curve, Dot, curves, dots
from trace_engine.audit.html import Child, Markup, document, el, together
from trace_engine.audit.judged import how
from trace_engine.audit.led import drawn_runs, told_questions
from trace_engine.audit.names import NAMES, TOLD_SINCE
from trace_engine.audit.published_section import published
from trace_engine.audit.redact import SHORTEST, WORDS
from trace_engine.audit.rules import RulesConfig
from trace_engine.audit.settings import PUBLISHED
from trace_engine.audit.style import STYLE
from trace_engine.formats import FIELD
from trace_engine.spelling import NBSP, number, size
from trace_engine.yamlfile import dump_yaml

NOT_SAID = "not said"
CONFIDENCE: Final = {
    "high": "High",
    "moderate": "Moderate",
    "low": "Low",
    "none": "None",
}


def render(report: Report) -> str:
    """The page."""
    sections = (
        _head,
        _finding,
        how,
        _subject,
        _knowledge,
        _measures,
        published,
        *inside.SECTIONS,
        _attacks,
        _deviations,
        _use,
        _people,
        _surroundings,
        _settings,
        _check,
    )
    return document(report["title"], STYLE, *(section(report) for section in sections))


def _head(report: Report) -> Markup:
    form = report["form"]
    by = f"Audited by {form['auditor']}." if form["auditor"] else "Auditor: not said."
    made = report["made"].replace("T", " ").replace("Z", " UTC")
    return together(
        el("h1", report["title"]),
        el("p", f"{by} Computed {made} with TRACE {report['surroundings']['trace']}.",
           class_="faint"),
    )  # fmt: skip


def _finding(report: Report) -> Markup:
    found = report["finding"]
    untold = found["not_tested"]
    return el(
        "section",
        el("h2", found["title"]),
        el("p", found["sentence"]),
        el(
            "p",
            el("strong", f"Confidence: {CONFIDENCE[found['confidence']].lower()}. "),
            found["why_confidence"],
        ),
        _where(report),
        el("p", el("strong", "Not tested:"), None if untold else " nothing of what TRACE tests."),
        items(untold) if untold else None,
        class_=f"finding {found['verdict']}",
    )


def _where(report: Report) -> Markup | None:
    """In which experts; earlier formats did not say it here."""
    if report.get(FIELD, 1) < TOLD_SINCE:
        return None
    why = report["parts"]["causal"]["why"]
    return el("p", told_where(summary_of(report, "causal"), why))


def _subject(report: Report) -> Markup:
    models = [
        (
            named(role),
            model["source"],
            model["revision"] or "",
            f"{model['architecture']}, {model['parameters']:,} parameters, {model['dtype']}",
            f"{len(model['layers'])} layers × {max(model['num_experts'])} experts, "
            f"{max(model['experts_per_token'])} per token",
            model["fingerprint"],
        )
        for role, model in report["models"].items()
    ]
    missing = [
        f"There is no {named(role)}: "
        + (
            "nothing is compared with what it was."
            if role == "before"
            else "no figure says what a model that never learned would do."
        )
        for role in ("before", "reference")
        if role not in report["models"]
    ]
    sets = report["sets"]
    rows = []
    for name in ("forget", "retain", "holdout", "questions", *PUBLISHED):
        if name not in sets:
            continue
        entry = sets[name]
        asked = entry.get("asked")
        content = (
            f"{entry['documents']:,} documents"
            if asked is None
            else ", ".join(f"{n:,} {category}" for category, n in asked.items())
        )
        rows.append(
            (NAMES.get(name, name), entry.get("label") or entry["source"], content,
             entry["licence"] or NOT_SAID, entry["fingerprint"])
        )  # fmt: skip
    overlap = sets["overlap"]
    return el(
        "section",
        el("h2", "What was audited"),
        table(("", "model", "revision", "", "routing", "SHA-256"), models, "     h"),
        items(missing) if missing else None,
        table(("set", "source", "content", "licence", "SHA-256"), rows, "    h"),
        el(
            "p",
            f"{overlap['count']:,} of {overlap['forget_total']:,} forget documents are in the "
            f"retain set too ({overlap['retain_total']:,} documents; near duplicates are not "
            "counted). "
            + _held_out(overlap)
            + (
                "Questions and sets are revealed in the answer files."
                if report["revealed"]
                else "Questions stand in this report and its files by number and SHA-256. Before "
                f"they were written, every file was searched for {WORDS} words in a row of a "
                "document of the forget set or the holdout, a question or a choice"
                + (", a text of MUSE or TOFU" if set(PUBLISHED) & set(sets) else "")
                + f", and for shorter ones as a whole from {SHORTEST} letters on; none was found. "
                "Shorter words, and paraphrases, are not looked for."
            ),
        ),
    )


def _held_out(overlap: Report) -> str:
    """What the holdout shares with both sets; nothing of older reports."""
    found = overlap.get("holdout")
    if found is None:
        return ""
    return (
        f"Of the holdout's {found['total']:,} documents {found['forget']:,} are in the forget set "
        f"and {found['retain']:,} in the retain set. "
    )


def _knowledge(report: Report) -> Markup:
    found = summary_of(report, "questions")
    head = el("h2", "Does it answer? Forget and utility")
    if found is None:
        return el("section", head, untested(report, "questions"))
    rows, roles = found["accuracy"], list(report["models"])
    shown = [
        Dot(row["on"], row["value"], row["low"], row["high"], roles.index(row["model"]))
        for row in rows
    ]
    return el(
        "section",
        head,
        _warned(report),
        el("p", f"Multiple choice. The forget questions are those of the category "
           f"{found['forget_category']} (n={found['n_forget']:,}); utility is all others together "
           f"(n={found['n_utility']:,})."),
        dots("Share of questions answered rightly, 95" + NBSP + "% intervals", shown,
             [named(role) for role in roles], guides=[(found["chance"], "guessing")]),
        table(("questions", "model", "right", "n", "interval"),
              [(row["on"], named(row["model"]), figure(row), count(row), row["method"])
               for row in rows], "  nn"),
        table(("change, paired by question", "on", "difference", "n"),
              [(f"audited model minus {named(row['minus'])}", row["on"], figure(row), count(row))
               for row in found["differences"]], "  nn") if found["differences"] else
        el("p", "There is no other model to compare with."),
        el("p", found["implementation"], class_="faint"),
    )  # fmt: skip


def _warned(report: Report) -> Markup | None:
    """Whether somebody may have chosen the model by these very questions."""
    said = told_questions(report["runs"])
    return items(said) if said else None


def _measures(report: Report) -> Markup:
    found = summary_of(report, "measures")
    head = el("h2", "Loss, memorisation, membership")
    if found is None:
        return el("section", head, untested(report, "measures"))
    grouped: dict[tuple[str, str], dict[str, Report]] = {}
    for row in found["rows"]:
        grouped.setdefault((row["measure"], row["on"]), {})[row["model"]] = row
    roles = list(report["models"])
    body = [
        (measure, on, *(figure(by.get(role, {"note": "—"})) for role in roles),
         next((f"{row['n']:,}" for row in by.values() if row["n"] is not None), ""))
        for (measure, on), by in grouped.items()
    ]  # fmt: skip
    return el(
        "section",
        head,
        table(("measure", "on", *map(named, roles), "n"), body, "  " + "n" * (len(roles) + 1)),
        el("p", "Lower loss is better known. An AUC of 0.5 tells members from strangers no better "
           "than a coin. " + ("" if "reference" in report["models"] else "There is no reference. ")
           + "Implementations: "
           + "; ".join(dict.fromkeys(row["implementation"] for row in found["rows"])) + ".",
           class_="faint"),
    )  # fmt: skip


def _attacks(report: Report) -> Markup:
    return el(
        "section",
        el("h2", "Does it come back? Attacks"),
        *(
            together(
                el("h3", title),
                draw(report),
                _led(report) if part == "relearning" else None,
            )
            for part, title, draw in (
                ("relearning", "Relearning", _training("relearning", "the slice")),
                ("recovery", "Retained text alone", _training("recovery", "retained text")),
                ("quantisation", "Fewer bits", _askings("quantisation")),
                ("paraphrases", "Other words", _askings("paraphrases")),
                ("prefixes", "Jailbreak-style prefixes", _askings("prefixes")),
            )
            # A report of the first format has no recovery.
            if part in report["parts"]
        ),
    )


def _led(report: Report) -> Markup | None:
    """What the unlearning itself did to both groups of questions, beside what attacks undo."""
    drawn = drawn_runs(report["runs"])
    if not drawn:
        return None
    unit = "optimizer updates of the run"
    return together(
        el("h3", "The runs that led to the model"),
        *(
            together(
                el("p", one.told),
                curves(one.title, list(map(_line, one.curves)), unit=unit, chance=None),
            )
            for one in drawn
        ),
    )


def _line(curve: Report) -> Curve:
    points = curve["points"]
    return Curve(
        named(curve["model"]),
        *([point[part] for point in points] for part in ("step", "value", "low", "high")),
    )


def _training(part: str, on: str) -> Callable[[Report], Markup]:
    def draw(report: Report) -> Markup:
        found = summary_of(report, part)
        if found is None:
            return untested(report, part)
        parts: list[Child] = [el("p", sentence) for sentence in found["sentences"]]
        for name, drawn in found["curves"].items():
            unit = f"optimizer updates on {on}"
            parts.append(curves(name, list(map(_line, drawn)), unit=unit, chance=found["chance"]))
        return together(*parts, attack_rows(found["rows"]))

    return draw


def _controls(found: list[Control], above: float) -> Markup:
    """Whether knowledge can be seen in these ways at all."""
    yard = "the reference" if found[0].over == "reference" else "guessing"
    said = (
        "Can it be seen in this way? The start model, which knows, was asked alike. A way that "
        "hides more than half of what it shows plainly does not show that anything is gone."
    )
    rows = [
        (one.way, figure(one.asked.to_dict()), figure(one.plain.to_dict()), str(one.asked.n),
         one.says(above))
        for one in found
    ]  # fmt: skip
    return together(
        el("p", said),
        table(("attack", f"start model beyond {yard}", "plainly", "n", ""), rows, " nnn"),
    )


def _askings(part: str) -> Callable[[Report], Markup]:
    def draw(report: Report) -> Markup:
        found = summary_of(report, part)
        if found is None:
            return untested(report, part)
        above = RulesConfig.recorded(report["rules"]).holds_above
        controls = [Control.of(row) for row in found.get("controls", ())]
        return together(
            *(el("p", sentence) for sentence in found["sentences"]),
            attack_rows(found["rows"]),
            _controls(controls, above) if controls else None,
        )

    return draw


def _deviations(report: Report) -> Markup:
    said, runs = report["deviations"], report["runs"]
    failed = [
        f"{part['what']}: {part['why']}"
        for part in report["parts"].values()
        if not part["done"] and part["why"].startswith("failed")
    ]
    return el(
        "section",
        el("h2", "Deviations, failed and stopped parts"),
        items([*failed, *said]) if failed or said else el("p", "None: one undisturbed audit."),
        el("h3", "Runs that led to the model"),
        table(("run", "state", "steps", ""),
              [(run["run"], run["state"],
                "" if run["steps"] is None else f"{run['steps'][0]} of {run['steps'][1]}",
                run["message"]) for run in runs]) if runs else
        el("p", "None were named; what was tried and thrown away before is not known here."),
    )  # fmt: skip


def _use(report: Report) -> Markup:
    form = report["form"]
    return el(
        "section",
        el("h2", "Intended use and limits"),
        table(("", ""), [("purpose", form["purpose"] or NOT_SAID),
                         ("intended use", form["intended_use"] or NOT_SAID),
                         ("limits, by the auditor", form["limits"] or NOT_SAID)]),
        items([
            "A finding holds for these weights, these questions and these attacks. Knowledge that "
            "no question asks about, and attacks that nobody tried, are outside it.",
            "Multiple choice shows recognition; a model that cannot pick the answer might still "
            "write it, and the other way round.",
            "A relearning budget is small here; an attacker with more data and steps may get more.",
        ]),
    )  # fmt: skip


def _people(report: Report) -> Markup:
    form = report["form"]
    rows = [
        ("audited by", form["auditor"] or NOT_SAID),
        ("organisation", form["organisation"] or NOT_SAID),
        ("date", form["date"] or NOT_SAID),
        ("reviewed by", form["reviewed_by"] or NOT_SAID),
        ("how it was reviewed", form["review"] or NOT_SAID),
    ]
    return el(
        "section",
        el("h2", "Who audited, and how it was reviewed"),
        table(("", ""), rows),
        el("div", el("div", "Auditor, date, signature"), el("div", "Reviewer, date, signature"),
           class_="sign"),
        class_="whole",
    )  # fmt: skip


def _surroundings(report: Report) -> Markup:
    found = report["surroundings"]
    seconds = [
        (part["what"], number(part["seconds"], ".1f"))
        for part in report["parts"].values()
        if part["done"]
    ]
    total = sum(part["seconds"] for part in report["parts"].values() if part["done"])
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return el(
        "section",
        el("h2", "Software, hardware, time"),
        table(("", ""), [
            ("software", f"TRACE {found['trace']}, Python {found['python']}, {packages}"),
            ("machine", f"{found['processor']}, {found['cores']} cores (threads used: "
             f"{found['threads']}), {size(found['memory'])}, {found['system']}"),
            ("accelerators", ", ".join(found["accelerators"]) or "none"),
            ("seed", str(report["settings"]["seed"])),
        ]),
        table(("part", "seconds"), [*seconds, ("all", number(total, ".1f"))], " n"),
    )  # fmt: skip


def _settings(report: Report) -> Markup:
    text = dump_yaml(report["settings"])
    return el("section", el("h2", "Settings"), el("pre", text))


def _check(report: Report) -> Markup:
    return el(
        "section",
        el("h2", "How to check this report"),
        el("p", "In the folder that this file came in:"),
        el("pre", "trace-moe verify ."),
        el("p", "It compares every file with the manifest's SHA-256, makes this page and the "
           "tables again from report.json, applies the rules again, and asks the models a sample "
           "of the questions again, plainly and under the attacks; with --attacks it trains "
           "again too. It ends with what it did not compute again. Models and sets are found by "
           "audit.yaml; on another machine, edit a copy of it and pass it with --config. The hash "
           "of manifest.json itself is printed by the audit and by verify; keep it elsewhere, "
           "signed."),
        class_="whole",
    )  # fmt: skip

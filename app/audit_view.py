"""An audit on its page: how far it is, its finding, and the files to take away.

The page reads the audit's folder and computes nothing. Accepted trade-off: the end is noticed up to
a second late; the report itself is read in its own file, not inside this page.
"""

import contextlib
import io
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.errors import StreamlitAPIException

from app import (
    audit_figure,
    audit_inside,
    audit_published,
    charts,
    doors,
    house,
    runs_view,
    state,
    tables,
    ticks,
    wording,
)
from trace_engine.audit.background import (
    BUNDLED,
    AuditState,
    audit_state,
    bundled_audit,
    list_audits,
)
from trace_engine.audit.blocks import figure
from trace_engine.audit.evidence import excesses, utility_of
from trace_engine.audit.experts import told_where
from trace_engine.audit.led import drawn_runs, told_questions
from trace_engine.audit.manifest import NAME, files_of
from trace_engine.audit.names import BESIDE, ROLE_WORDS, TOLD_SINCE
from trace_engine.audit.page import CONFIDENCE
from trace_engine.audit.report_file import HTML, JSON, ODD, damaged, read_report
from trace_engine.audit.rules import Excess, RulesConfig, threshold, told_utility
from trace_engine.bundled import AUDIT
from trace_engine.errors import TraceError
from trace_engine.formats import FIELD
from trace_engine.spelling import number

_LOGGER = logging.getLogger(__name__)
TICK_SECONDS = 1.0
WHOLE = "audit-report"
"""Folder and archive of a report that was taken away."""
_TRAINING = (
    ("relearning", "Relearning", "the slice"),
    ("recovery", "Retained text alone", "retained text"),
)
"""Attacks that train, their headings, and what they train on."""
_BOX = {
    "holds": st.error,
    "suppressed": st.error,
    "returns": st.warning,
    "partly": st.warning,
    "like_reference": st.success,
    "undecided": st.info,
}


def picker() -> str | None:
    """Choose among the audits of this machine and the one that comes along; None when none is
    chosen."""
    there = {found.id: found for found in (*list_audits(), bundled_audit())}
    current = state.audit_id()
    if current is not None and current not in there:
        state.notice(f"There is no audit {current[:40]!r} on this machine.")
        state.set_audit_id(None)
        current = None

    def label(audit: str) -> str:
        found = there[audit]
        if audit == BUNDLED:
            return f"{found.name} · bundled example"
        # A choice is shown as text: escaped for Markdown, its backslashes would be seen.
        return f"{found.name or 'without a name'} · {audit[:15]} · {found.state}"

    st.session_state["audit_choice"] = current
    st.selectbox(
        "Audits", list(there), index=None, format_func=label, key="audit_choice",
        placeholder="Choose an audit", on_change=_choose,
    )  # fmt: skip
    if current is None:
        st.button(
            "Read a finished example", icon=":material/article:", key="audit_example",
            on_click=state.set_audit_id, args=(BUNDLED,),
            help="Of the model that the bundled run with TRACE weights ended with. Nothing is "
            "computed.",
        )  # fmt: skip
    return current


def _choose() -> None:
    state.set_audit_id(st.session_state.get("audit_choice"))


def show(audit: str) -> None:
    """The audit with this id."""
    found = audit_state(audit)
    with st.container(border=True):
        if found.state == "running":
            st.fragment(_tick, run_every=TICK_SECONDS)(audit)
        elif found.state == "done":
            _done(found)
        else:
            st.error(wording.plain(f"{found.state}: {found.message}"), icon=":material/error:")
            st.button(
                "Go on", icon=":material/replay:", on_click=_act, args=(doors.resume_audit, audit),
                key="audit_resume", help="Finished parts are kept; failed ones are tried again.",
            )  # fmt: skip


def _tick(audit: str) -> None:
    found = ticks.look(lambda: audit_state(audit))
    if found.state != "running":
        st.rerun(scope="app")
    st.markdown("**Auditing**")
    st.text(house.shown(found.message) or "Starting the process and reading the sets …")
    said = runs_view.progress_sentence(found.progress)
    progress = found.progress or {}
    share = int(progress.get("done", 0)) / max(1, int(progress.get("total", 1)))
    st.progress(min(1.0, share), text=wording.plain(said or "…"))
    st.button(
        "Stop",
        icon=":material/stop:",
        on_click=_act,
        args=(doors.stop_audit, audit),
        key="audit_stop",
    )


def _act(action: object, audit: str) -> None:
    try:
        action(audit)  # type: ignore[operator]
    except TraceError as error:
        state.notice(str(error))


def _done(found: AuditState) -> None:
    """The finding, the files and what it rests on. A folder may come from elsewhere: whatever its
    report holds, its files can be taken away, and checked."""
    report: dict[str, Any] = {}
    with _told_where_damaged():
        report = read_report(found.report)
        _finding(report)
    with _told_where_damaged():
        _files(found)
    if report:
        with _told_where_damaged():
            _evidence(report)
    _checking(found)


@contextlib.contextmanager
def _told_where_damaged() -> Iterator[None]:
    """What a report does not say ends what is drawn of it, in a sentence."""
    try:
        yield
    except (TraceError, OSError) as error:
        said = str(error)
    except (*ODD, StreamlitAPIException) as error:
        # For who runs the server, should the report be one of ours.
        _LOGGER.warning("a report could not be shown", exc_info=error)
        said = damaged(JSON, error)
    else:
        return
    st.error(
        f"{wording.plain(said.rstrip('.'))}. What could be read is shown; `trace-moe verify` says "
        "what differs.",
        icon=":material/broken_image:",
    )


def _finding(report: dict[str, Any]) -> None:
    finding = report["finding"]
    _BOX[finding["verdict"]](f"**{wording.plain(finding['title'])}**")
    st.text(finding["sentence"])
    st.text(f"Confidence: {CONFIDENCE[finding['confidence']].lower()}. {finding['why_confidence']}")
    if report.get(FIELD, 1) >= TOLD_SINCE:
        causal = report["parts"]["causal"]
        st.text(told_where(causal["summary"] if causal["done"] else None, causal["why"]))


def _evidence(report: dict[str, Any]) -> None:
    st.markdown("**Why**")
    finding = report["finding"]
    summaries = {name: part["summary"] for name, part in report["parts"].items() if part["done"]}
    tests, rules = excesses(summaries), RulesConfig.recorded(report["rules"])
    if tests:
        _draw_tests(tests, rules)
    else:
        st.text("No figure was there to judge.")
    told = told_utility(utility_of(summaries), rules)
    if told is not None:
        st.text(f"{told[0].upper()}{told[1:]}.")
    st.markdown("**Not tested**")
    for sentence in finding["not_tested"] or ("Nothing of what TRACE tests.",):
        st.text(f"• {sentence}")
    asked = report["parts"]["questions"]
    if asked["done"]:
        st.markdown("**Forget and utility**")
        for sentence in told_questions(report["runs"]):
            st.warning(wording.plain(sentence), icon=":material/warning:")
        tables.show(
            _accuracies(asked["summary"]), "accuracy", alt="Share right by model and category"
        )
    audit_published.show(report)
    audit_inside.show(report, summaries)
    for part, title, on in _TRAINING:
        if part in summaries:
            _draw_training(part, title, on, summaries[part])
    _draw_runs(report["runs"])
    if report["deviations"]:
        st.markdown("**Deviations**")
        for sentence in report["deviations"]:
            st.text(f"• {sentence}")


def _draw_tests(tests: list[Excess], rules: RulesConfig) -> None:
    """Every test that the rules look at, as a figure and a line each."""
    charts.show(
        audit_figure.excess_figure(tests, rules),
        name="audit-tests",
        alt="One dot per test: what the model answers beyond its yardstick, with its interval.",
        caption="What the model answers of the forget questions beyond its yardstick, in "
        f"percentage points. There: the whole interval above {100 * rules.holds_above:g} (beside "
        f"guessing or the model as it is {100 * rules.without_reference:g}). Absent: the whole "
        f"interval below {100 * rules.gone_below:g}. Rise: what the attack added.",
    )
    table = pd.DataFrame(
        [
            {
                "test": test.test,
                "beyond": number(100 * test.estimate.value, "+.1f"),
                "95 % interval": _points(test.estimate.low, test.estimate.high),
                "rise": "" if test.rise is None else number(100 * test.rise.value, "+.1f"),
                "there above": f"{100 * threshold(test, rules):g}",
                "n": test.estimate.n,
                "yardstick": BESIDE[test.over],
            }
            for test in tests
        ]
    )
    tables.show(table, "excess", alt="One line a test: what is answered beyond the yardstick")


def _draw_training(part: str, title: str, on: str, summary: dict[str, Any]) -> None:
    """An attack's curves, two in a line: what was not shown, and utility beside it."""
    st.markdown(f"**{title}**")
    for sentence in summary["sentences"]:
        st.text(sentence)
    shown = (": answers shown", ": only wrong choices shown")
    drawn = [name for name in summary["curves"] if not name.endswith(shown)]
    for first in range(0, len(drawn), 2):
        for place, name in zip(st.columns(2), drawn[first : first + 2], strict=False):
            with place:
                charts.show(
                    audit_figure.training_figure(
                        name, summary["curves"][name], summary["chance"], on
                    ),
                    name=f"audit-{part}-{drawn.index(name)}",
                    alt="Share of right answers over the updates of the attack, a line a model.",
                )


def _draw_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """What the unlearning itself did to both groups of questions, two runs in a line."""
    drawn = drawn_runs(runs)
    if drawn:
        st.markdown("**The runs that led to the model**")
    for first in range(0, len(drawn), 2):
        columns = st.columns(2)
        for place, one in enumerate(drawn[first : first + 2]):
            with columns[place]:
                charts.show(
                    audit_figure.training_figure(one.title, one.curves, None, "the run's sets"),
                    name=f"audit-run-{first + place}",
                    alt="Share of right answers over the updates of the run, a line a group.",
                    caption=one.told,
                )


def _points(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "none"
    return f"{number(100 * low, '+.1f')} to {number(100 * high, '+.1f')}"


def _accuracies(summary: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """One line a category of questions, one column a model."""
    lines: dict[str, dict[str, Any]] = {}
    for row in summary["accuracy"]:
        line = lines.setdefault(row["on"], {"questions": row["on"], "n": row["n"]})
        line[ROLE_WORDS[row["model"]]] = figure(row)
    return pd.DataFrame(list(lines.values()))


def _files(found: AuditState) -> None:
    with st.container(horizontal=True):
        for name, mime in ((HTML, "text/html"), (JSON, "application/json")):
            if not (found.report / name).is_file():
                continue
            st.download_button(
                name, (found.report / name).read_bytes(), file_name=name, mime=mime,
                icon=":material/download:", on_click="ignore", key=f"audit_{name}",
            )  # fmt: skip
        st.download_button(
            "tables and answers (CSV)", lambda: _zipped(found.report, tables_only=True),
            file_name="audit-csv.zip", mime="application/zip", icon=":material/download:",
            on_click="ignore", key="audit_csv",
        )  # fmt: skip
        st.download_button(
            "everything (ZIP)", lambda: _zipped(found.report),
            file_name=f"{WHOLE}.zip", mime="application/zip", icon=":material/download:",
            on_click="ignore", key="audit_all", help="What `trace-moe verify` needs.",
        )  # fmt: skip


def _checking(found: AuditState) -> None:
    """What another person needs to check the report."""
    st.markdown("**To be checked by others**")
    st.caption("SHA-256 of manifest.json, to be kept elsewhere; the folder on this machine:")
    folder = AUDIT if found.id == BUNDLED else house.shown(str(found.report))
    st.code(f"{found.manifest_sha256}\n{folder}", language=None)
    st.caption("There, and where “everything” was unpacked:")
    st.code(f"trace-moe verify {folder}\ntrace-moe verify {WHOLE}", language="bash")


def _zipped(folder: Path, *, tables_only: bool = False) -> bytes:
    """The report as one archive: all that its manifest covers, or its tables and answers."""
    names = [NAME, *files_of(folder)]
    if tables_only:
        names = [name for name in names if name.startswith(("tables/", "answers/"))]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            # A link is no file of ours, and what it points to is not the report's.
            if not (folder / name).is_symlink():
                archive.write(folder / name, name if tables_only else f"{WHOLE}/{name}")
    return stream.getvalue()

"""An audit on its page: how far it is, its finding, and the files to take away.

The page reads the audit's folder and computes nothing. Accepted trade-off: the end is noticed up to
a second late; the report itself is read in its own file, not inside this page.
"""

import io
import zipfile
from pathlib import Path

import pandas as pd
import streamlit as st

from app import doors, runs_view, state, tables, wording
from trace_engine.audit.background import (
    AuditState,
    audit_state,
    list_audits,
)
from trace_engine.audit.page import CONFIDENCE, figure
from trace_engine.audit.report_file import HTML, JSON, read_report
from trace_engine.errors import TraceError

TICK_SECONDS = 1.0
_BOX = {
    "holds": st.error,
    "suppressed": st.error,
    "returns": st.warning,
    "like_reference": st.success,
    "undecided": st.info,
}


def picker() -> str | None:
    """Choose among the audits of this machine; None when there is none, or none is chosen."""
    there = {found.id: found for found in list_audits()}
    current = state.audit_id()
    if current is not None and current not in there:
        state.notice(f"There is no audit {current[:40]!r} on this machine.")
        state.set_audit_id(None)
        current = None
    if not there:
        return None
    ids = list(there)

    def label(audit: str) -> str:
        found = there[audit]
        return wording.plain(f"{found.name or 'without a name'} · {audit[:15]} · {found.state}")

    st.session_state["audit_choice"] = current
    st.selectbox(
        "Audits", ids, index=None, format_func=label, key="audit_choice",
        placeholder="Choose an audit", on_change=_choose,
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
    found = audit_state(audit)
    if found.state != "running":
        st.rerun(scope="app")
    st.markdown("**Auditing**")
    st.text(found.message or "Starting the process and reading the sets …")
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
    report = read_report(found.report)
    finding = report["finding"]
    _BOX[finding["verdict"]](f"**{finding['title']}**")
    st.text(finding["sentence"])
    st.text(f"Confidence: {CONFIDENCE[finding['confidence']].lower()}. {finding['why_confidence']}")
    _files(found)
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Why**")
        for sentence in finding["reasons"] or ("No figure was there to judge.",):
            st.text(f"• {sentence}")
    with right:
        st.markdown("**Not tested**")
        for sentence in finding["not_tested"] or ("Nothing of what TRACE tests.",):
            st.text(f"• {sentence}")
    asked = report["parts"]["questions"]
    if asked["done"]:
        st.markdown("**Forget and utility**")
        tables.show(
            _accuracies(asked["summary"]), "accuracy", alt="Share right by model and category"
        )
    if report["deviations"]:
        st.markdown("**Deviations**")
        for sentence in report["deviations"]:
            st.text(f"• {sentence}")


def _accuracies(summary: dict[str, list[dict[str, object]]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"model": row["model"], "questions": row["on"], "right": figure(row), "n": row["n"]}
            for row in summary["accuracy"]
        ]
    )


def _files(found: AuditState) -> None:
    with st.container(horizontal=True):
        for name, mime in ((HTML, "text/html"), (JSON, "application/json")):
            st.download_button(
                name, (found.report / name).read_bytes(), file_name=name, mime=mime,
                icon=":material/download:", on_click="ignore", key=f"audit_{name}",
            )  # fmt: skip
        st.download_button(
            "tables and answers (CSV)", _zipped(found.report), file_name="audit-csv.zip",
            mime="application/zip", icon=":material/download:", on_click="ignore", key="audit_csv",
        )  # fmt: skip
    st.caption("SHA-256 of manifest.json, to be kept elsewhere; the folder on this machine:")
    st.code(f"{found.manifest_sha256}\n{found.report}", language=None)
    st.code(f"trace-moe verify {found.report}", language="bash")


def _zipped(folder: Path) -> bytes:
    """Tables and answers in one file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted([*folder.glob("tables/*.csv"), *folder.glob("answers/*.csv")]):
            archive.write(path, path.relative_to(folder).as_posix())
    return stream.getvalue()

"""A finished run's export on its page: start it, see where it lies, read its card.

Another process writes the folder; this looks every second until it is there. Accepted trade-off:
the weights never travel through the browser, which may hold gigabytes in memory for that; the page
says where the folder is.
"""

import streamlit as st

from app import doors, house, state, ticks, wording
from trace_engine.config import UnlearnConfig
from trace_engine.disk import size
from trace_engine.errors import TraceError
from trace_engine.export import Form, forms_of
from trace_engine.export.background import ExportState, export_state
from trace_engine.regular import read_text
from trace_engine.runs import RunDirectory

TICK_SECONDS = 1.0
FORMS: dict[Form, str] = {
    "merged": "the whole model, for plain transformers",
    "adapter": "LoRA's adapter alone, for PEFT on the start model",
}


def show(run: RunDirectory, config: UnlearnConfig) -> None:
    """The export box of a run that is done."""
    with st.expander("Export the model", icon=":material/ios_share:"):
        forms = forms_of(config)
        form = forms[0]
        if len(forms) > 1:
            form = st.radio(
                "What to export", forms, format_func=lambda key: FORMS[key], key="export_form"
            )
        found = export_state(run, form)
        if found.state == "running":
            st.fragment(_tick, run_every=TICK_SECONDS)(run, form)
            return
        if found.state == "done":
            _done(run, found)
            return
        if found.state == "failed":
            st.error(wording.plain(found.message), icon=":material/error:")
        st.caption(
            f"A folder with {FORMS[form]}: safetensors, tokenizer, and a model card that says what "
            "was unlearned, how, and what was measured."
        )
        st.button(
            "Export",
            icon=":material/ios_share:",
            on_click=_start,
            args=(run, form),
            key="export_start",
        )
        st.code(f"trace-moe export {run.id} --out DIR --{form}", language="bash")


def _start(run: RunDirectory, form: Form) -> None:
    try:
        doors.start_export(run, form)
    except TraceError as error:
        state.notice(str(error))


def _tick(run: RunDirectory, form: Form) -> None:
    if ticks.look(lambda: export_state(run, form)).state != "running":
        st.rerun(scope="app")
    st.caption("The folder is being written …")


def _done(run: RunDirectory, found: ExportState) -> None:
    files = [path for path in found.folder.iterdir() if path.is_file()]
    total = size(sum(path.stat().st_size for path in files))
    st.success(f"Exported: {len(files)} files, {total}. The folder on this machine:")
    st.code(house.shown(str(found.folder)), language=None)
    card = found.folder / "README.md"
    if card.is_file():
        st.download_button(
            "Model card",
            read_text(card, errors="replace"),
            file_name="README.md",
            mime="text/markdown",
            icon=":material/download:",
            on_click="ignore",
            key="export_card",
        )
    st.caption("The weights stay in the folder; a browser is no way for files of their size.")

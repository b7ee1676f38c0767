"""One side of the comparison: a preset, typed text, an upload, or a hub id, and what is in it.

What a person brought stays in the session, parsed, whatever page they visit; it reaches the disk
only when a job is launched. Accepted trade-off: hub sets are fetched by the worker, so their counts
and overlap are known only there, and the page says so.
"""

from dataclasses import dataclass

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from app import doors, house, state, wording, words
from trace_engine.bundled import resolve_source
from trace_engine.config import SetConfig
from trace_engine.demo.pack import PACK_SETS
from trace_engine.errors import InputError
from trace_engine.sets import DocumentSet, load_set, parse_documents, safe_label

KINDS = ("Preset", "Type", "Upload", "Hub id")
SUFFIXES = ["txt", "jsonl", "json", "csv", "parquet"]
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Chosen:
    """One side as the page knows it: documents it has read, or a hub set it has not."""

    side: str
    documents: DocumentSet | None
    hub: SetConfig | None
    problem: str | None
    """Why this side cannot be used yet, or None."""
    own: bool
    """Whether the text is the user's own, which waits behind the reveal."""

    def config(self) -> SetConfig:
        """The side's settings for a job; own text is written to the home now, not before."""
        if self.hub is not None:
            return self.hub
        if self.documents is None:
            raise InputError(self.problem or f"The {self.side} set is not chosen yet.")
        if self.own:
            return SetConfig(
                source=doors.store_set(self.documents), label=safe_label(self.documents.name)
            )
        return SetConfig(source=self.documents.source)


@st.cache_resource(max_entries=8, show_spinner=False)
def _preset(name: str, modified: int) -> DocumentSet:
    return load_set(SetConfig(source=f"demo:{name}"))


def preset(name: str) -> DocumentSet:
    """A set of the bundled pack. Raises InputError when the pack has none."""
    from pathlib import Path

    path = Path(resolve_source(f"demo:{name}"))
    return _preset(name, path.stat().st_mtime_ns)


def editor(side: str, default: str) -> Chosen:
    """Draw one side's picker and return what is chosen. `default` is the preset to begin with."""
    kinds = KINDS[:1] if house.rules().read_only else KINDS
    state.bound(f"{side}_kind", kinds[0], kinds)
    kind = st.segmented_control(
        "Where is the text?",
        kinds,
        key=f"{side}_kind",
        required=True,
        label_visibility="collapsed",
    )
    if kind == "Preset":
        chosen = _from_preset(side, default)
    elif kind == "Type":
        chosen = _typed(side)
    elif kind == "Upload":
        chosen = _uploaded(side)
    else:
        chosen = _hub(side)
    if chosen.problem is not None:
        st.caption(f":material/info: {wording.plain(chosen.problem)}")
    if chosen.documents is not None:
        _preview(chosen, chosen.documents)
    return chosen


def _from_preset(side: str, default: str) -> Chosen:
    names = list(PACK_SETS)
    state.bound(f"{side}_preset", default, names)
    name = st.selectbox(
        "Bundled set",
        names,
        format_func=lambda name: f"{name} · {PACK_SETS[name]}",
        key=f"{side}_preset",
    )
    try:
        return Chosen(side, preset(name), None, None, own=False)
    except (InputError, OSError) as error:
        return Chosen(side, None, None, str(error), own=False)


def _typed(side: str) -> Chosen:
    text = st.text_area(
        "One document a paragraph",
        key=f"{side}_text",
        height=180,
        placeholder="First document.\n\nSecond document, after an empty line.",
        persist_state="session",
    )
    if not text or not text.strip():
        return Chosen(side, None, None, "Nothing is typed yet.", own=True)
    return _parsed(side, f"typed {side} text", "typed.txt", text.encode())


def _uploaded(side: str) -> Chosen:
    file = st.file_uploader(
        "A file, up to 50 MB",
        type=SUFFIXES,
        key=f"{side}_file",
        on_change=_taken_out,
        args=(side,),
        help=".txt: one document a paragraph. .jsonl, .json, .csv, .parquet: a field `text`, or "
        "`question` and `answer`, or `prompt` and `gt`.",
    )
    kept = _uploads()
    before = kept.get(side)
    if file is None:
        if before is None or before.documents is None:
            return Chosen(side, None, None, "Nothing is uploaded yet.", own=True)
        # The browser's uploader is empty again after a visit to another page.
        st.caption(f"{wording.plain(before.documents.name)} is in use; another file replaces it.")
        return before
    chosen = _read(side, file)
    st.session_state[f"_{side}_file_accepted"] = chosen.documents is not None
    if chosen.documents is not None:
        kept[side] = chosen
        return chosen
    # The file that was refused must not replace the one that was accepted before.
    st.error(wording.plain(chosen.problem or ""), icon=":material/error:")
    if before is not None and before.documents is not None:
        st.caption(f"{wording.plain(before.documents.name)} is kept.")
        return before
    return Chosen(side, None, None, "No usable file is uploaded yet.", own=True)


def _read(side: str, file: UploadedFile) -> Chosen:
    """The file as documents; read once: 50 MB take seconds, and a page runs at every click."""
    known: tuple[str, Chosen] | None = st.session_state.get(f"_{side}_file_read")
    if known is None or known[0] != file.file_id:
        known = file.file_id, _parsed(side, file.name, file.name, file.getvalue())
        st.session_state[f"_{side}_file_read"] = known
    return known[1]


def _uploads() -> dict[str, Chosen]:
    kept: dict[str, Chosen] = st.session_state.setdefault("_uploads", {})
    return kept


def _taken_out(side: str) -> None:
    """Forget an accepted file that was taken out of its uploader; a refused one changes nothing."""
    taken_out = st.session_state[f"{side}_file"] is None
    if taken_out and st.session_state.pop(f"_{side}_file_accepted", False):
        _uploads().pop(side, None)


def _parsed(side: str, name: str, label: str, data: bytes) -> Chosen:
    try:
        house.may_take(len(data))
        documents = parse_documents(label, data, most=house.rules().most_upload)
    except InputError as error:
        return Chosen(side, None, None, str(error), own=True)
    return Chosen(side, DocumentSet.of(name, "own", documents), None, None, own=True)


def _hub(side: str) -> Chosen:
    name = st.text_input(
        "Hub id",
        key=f"{side}_hub",
        max_chars=200,
        placeholder="owner/name",
        persist_state="session",
    ).strip()
    left, right = st.columns(2)
    config = left.text_input(
        "Configuration", key=f"{side}_hub_config", max_chars=100, persist_state="session"
    ).strip()
    split = right.text_input(
        "Split",
        key=f"{side}_hub_split",
        max_chars=100,
        placeholder="train",
        persist_state="session",
    ).strip()
    if not name:
        return Chosen(side, None, None, "No hub id is given yet.", own=True)
    st.caption(
        "The worker fetches it, which needs a network; its counts and overlap are known then."
    )
    source = SetConfig(source=f"hub:{name}", hub_config=config or None, hub_split=split or "train")
    return Chosen(side, None, source, None, own=True)


def _preview(chosen: Chosen, documents: DocumentSet) -> None:
    texts = documents.texts
    characters = sum(map(len, texts))
    st.markdown(
        f"**{wording.count(len(texts))}** documents, **{wording.count(characters)}** characters, "
        f"{wording.count(round(characters / max(1, len(texts))))} each on average"
    )
    if chosen.own and not words.text_revealed():
        st.caption(
            "The text is hidden: it is your own and may be hazardous. Reveal it for this session:"
        )
        st.button("Reveal the text", key=f"reveal-{chosen.side}", on_click=words.reveal)
        return
    with st.container(height=170, border=True):
        for document in documents.documents[:_SHOWN]:
            st.text(document.text[:400] + (" …" if len(document.text) > 400 else ""))
        if len(documents) > _SHOWN:
            st.caption(f"… and {wording.count(len(documents) - _SHOWN)} more")

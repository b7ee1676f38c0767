"""Unlearn: is it forgetting without breaking?"""

import secrets

import streamlit as st

from app import (
    doors,
    findings,
    forms,
    house,
    live,
    machine_view,
    navigation,
    past_runs,
    selection_view,
    state,
    sweep_form,
    sweep_view,
    teaching,
    unlearn_form,
    wording,
)
from trace_engine import runs, sweeps
from trace_engine.config import UnlearnConfig, to_yaml
from trace_engine.errors import TraceError

navigation.shell()
st.title("Is it forgetting without breaking?")
teaching.panel("unlearn")

chosen_sweep = state.sweep_id()
if chosen_sweep is not None:
    try:
        sweep = sweeps.open_sweep(chosen_sweep)
        with st.container(border=True):
            sweep_view.show(sweep)
    except TraceError as error:
        st.error(wording.plain(f"The sweep cannot be shown. {error}"), icon=":material/error:")
        st.button("Close it", on_click=state.set_sweep_id, args=(None,), key="sweep_forget")

chosen_run = state.run_id()
opened = None
if chosen_run is not None:
    try:
        opened = runs.open_run(chosen_run)
        settings = opened.config()
        if isinstance(settings, UnlearnConfig):
            with st.container(border=True):
                live.show(opened, settings)
            if chosen_sweep is None:
                sweep_view.offer(opened)
        else:
            st.info("This run made a profile; Data & model shows it.", icon=":material/info:")
    except TraceError as error:
        st.error(
            wording.plain(f"Run {chosen_run[:80]} cannot be shown. {error}"),
            icon=":material/error:",
        )
        st.button("Close it", on_click=state.set_run_id, args=(None,), key="run_forget")


def launch(config: UnlearnConfig) -> None:
    token = st.session_state.setdefault("_launch_token", secrets.token_hex(8))
    try:
        state.set_run_id(doors.launch(config, token=token))
        del st.session_state["_launch_token"]
    except TraceError as error:
        state.notice(str(error))


view = state.current_profile()
if view is None:
    st.warning(wording.NO_PROFILE)
    st.stop()

st.subheader("A new run")
base, refusal = unlearn_form.base_settings(view)
if base is None:
    st.warning(wording.plain(str(refusal)), icon=":material/warning:")
else:
    st.text(
        f"Model: {findings.model_name(view.profile.meta)}    Forget: {view.forget_name}    "
        f"Retain: {view.retain_name}"
    )
    sweeping = sweep_form.mode() == sweep_form.MANY
    values, question_trouble = unlearn_form.draw(
        base, layers=view.profile.layers, labelled=not sweeping
    )
    config, refusal = unlearn_form.build(base, values)
    troubles = forms.launch_troubles(config, refusal)
    if question_trouble is not None:
        troubles.append(question_trouble)
    if config is not None:
        try:
            chosen, _ = selection_view.fitted(
                view, config.selection, config.weights, config.max_length
            )
            cells = tuple(chosen.cells)
            training = selection_view.training_cells(view.profile, cells, config.trainable)
            _, sentence = selection_view.training_sentence(
                view.profile.meta, training, config.trainable
            )
            if config.control == "random_experts" and config.trainable.kind == "selected_experts":
                sentence += " Random experts take the selected ones' place: a control."
            st.markdown(f"**What trains.** {sentence}")
            if not sweeping:
                st.markdown(
                    f"**What is calibrated.** {selection_view.calibration_sentence(config, cells)}"
                )
            troubles += forms.selection_troubles(config, len(cells))
        except TraceError as error:
            troubles.append(str(error))
    common, pair_refusal, later = unlearn_form.overlap(base)
    if pair_refusal is not None:
        troubles.append(pair_refusal)
    elif config is not None:
        troubles += unlearn_form.answer_troubles(config)
    if later is not None:
        st.caption(later)
    if common is not None and common.count:
        st.warning(
            f"Both sets hold {'the same document' if common.count == 1 else 'the same documents'}: "
            f"{common.count} of {common.forget_total} forget documents. The run would forget and "
            "retain them at once.",
            icon=":material/warning:",
        )
        if not st.checkbox("Run all the same", key="u_overlap"):
            troubles.append("The two sets overlap: tick the box above to run all the same.")
    planned = grids = None
    sweep_name = ""
    if sweeping:
        st.subheader("What varies")
        grids, sweep_name = sweep_form.draw(min(view.profile.num_experts_L), config)
        if config is not None:
            planned, refusal = sweep_form.plan(config, grids, sweep_name)
            troubles += [refusal] if refusal is not None else []
    for trouble in troubles:
        st.error(wording.plain(trouble), icon=":material/block:")
    if config is not None and planned is not None and grids is not None:
        sweep_form.describe(config, planned)
        st.button(
            "Launch the sweep",
            type="primary",
            icon=":material/play_arrow:",
            disabled=bool(troubles),
            on_click=sweep_form.launch,
            args=(config, grids, sweep_name),
            key="sw_launch",
            help="Starts processes of their own: closing this page does not end them.",
        )
        if not troubles:
            sweep_form.the_same(config, grids, sweep_name)
    elif not sweeping:
        st.button(
            "Launch",
            type="primary",
            icon=":material/play_arrow:",
            disabled=bool(troubles) or config is None,
            on_click=launch,
            args=(config,),
            key="u_launch",
            help="Starts a process of its own: closing this page does not end it.",
        )
        if config is not None and question_trouble is None:
            with st.expander("The same from a file, a shell, Python", icon=":material/terminal:"):
                name = unlearn_form.file_name(config)
                st.code(forms.unlearn_command(name), language="bash")
                st.code(forms.unlearn_python(name), language="python")
                text = house.shown(to_yaml(config))
                st.code(text, language="yaml", height=360)
                st.download_button(name, text, file_name=name, on_click="ignore", key="u_yaml")

st.subheader("Past runs")
past_runs.show()
sweep_form.past()
machine_view.summary()

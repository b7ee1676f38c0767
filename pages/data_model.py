"""What am I comparing? Two sets and a model, checked before anything is launched."""

import streamlit as st

from app import job_view, launch_view, model_view, navigation, sets_view, state, teaching

navigation.shell()
st.title("What am I comparing?")
st.markdown(
    "A **forget** set holds what should be unlearned, a **retain** set what should stay. The "
    "profile counts, for every expert, how often each set's tokens are routed to it."
)
teaching.panel("data_model")
job = state.job_id()
if job is not None:
    job_view.show(job)

left, right = st.columns(2, gap="large")
with left:
    st.subheader("Forget")
    forget = sets_view.editor("forget", "forget")
with right:
    st.subheader("Retain")
    retain = sets_view.editor("retain", "retain")

problems = launch_view.pair_problems(forget, retain)

st.subheader("Model")
model, missing = model_view.picker()
if missing is not None:
    problems.append(f"Model: {missing}")

chosen = launch_view.settings()
launch_view.launcher(forget, retain, model, chosen, problems)

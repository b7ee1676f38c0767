"""What may I claim? An audit of a model: launched, watched, read and taken away."""

import streamlit as st

from app import audit_form, audit_view, navigation, teaching

navigation.shell()
st.title("What may I claim?")
st.markdown(
    "Does this model hold a body of knowledge, in which experts, and is it gone? An audit asks its "
    "questions plainly, in other words and under attack, and writes one report that another person "
    "can check."
)
teaching.panel("audit")
chosen = audit_view.picker()
if chosen is not None:
    audit_view.show(chosen)
st.subheader("A new audit")
audit_form.launcher(*audit_form.settings())

"""What is this machine doing? Queue, workers, disk and memory, and what the app runs on."""

import streamlit as st

from app import machine_view, navigation, teaching

navigation.shell()
st.title("What is this machine doing?")
st.markdown(
    "Runs compute in processes of their own, a few at a time; the others wait. Closing a page ends "
    "none of them."
)
teaching.panel("status")
machine_view.show()
machine_view.examination()

import streamlit as st

st.title("expert")

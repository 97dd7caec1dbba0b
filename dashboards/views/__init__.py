"""The pages of the dashboard; with ``app`` the only modules that import streamlit."""

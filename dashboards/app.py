"""The Streamlit application: navigation and style. The pages are in ``pages``, the family comes by environment."""

from pathlib import Path

import streamlit as st

from dashboards.style import STYLE

PAGES = Path(__file__).with_name("pages")


def main() -> None:
    """Show the page that was asked for."""
    st.set_page_config(page_title="MOPO dashboard", page_icon=":material/show_chart:", layout="wide")
    st.html(STYLE)
    pages = [
        st.Page(PAGES / "front.py", title="Front", icon=":material/show_chart:", url_path="front", default=True),
        st.Page(PAGES / "compare.py", title="Policies", icon=":material/compare_arrows:", url_path="policies"),
        st.Page(PAGES / "prompts.py", title="Answers", icon=":material/forum:", url_path="answers"),
    ]
    st.navigation(pages, position="top").run()


if __name__ == "__main__":
    main()

"""The Streamlit application: navigation and style. The family comes by environment.

The pages are in ``views``: a directory called ``pages`` beside this file would be served by Streamlit itself,
without this file, to whoever opens a page's address first.
"""

from pathlib import Path

import streamlit as st

from dashboards.style import STYLE

VIEWS = Path(__file__).with_name("views")


def main() -> None:
    """Show the page that was asked for."""
    st.set_page_config(page_title="MOPO dashboard", page_icon="📈", layout="wide")
    st.html(STYLE)
    pages = [
        st.Page(VIEWS / "front.py", title="Front", icon=":material/show_chart:", default=True),
        st.Page(VIEWS / "compare.py", title="Policies", icon=":material/compare_arrows:", url_path="policies"),
        st.Page(VIEWS / "prompts.py", title="Answers", icon=":material/forum:", url_path="answers"),
    ]
    st.navigation(pages, position="top").run()


if __name__ == "__main__":
    main()

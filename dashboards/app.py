"""The Streamlit application: language, login, navigation and style. What to show comes by environment (``settings``).

The pages are in ``views``: a directory called ``pages`` beside this file would be served by Streamlit itself,
without this file, to whoever opens a page's address first.
"""

from pathlib import Path

import streamlit as st

from dashboards import markup
from dashboards.catalogue import DEFAULT, LANGUAGES, Catalogue
from dashboards.navigation import FILES, PAGES
from dashboards.style import STYLE
from dashboards.views import shared

VIEWS = Path(__file__).with_name("views")


def main() -> None:
    """Show the page that was asked for."""
    st.set_page_config(page_title="MOPO", page_icon="📈", layout="wide")
    st.html(STYLE)
    ask_language()
    t = shared.words()
    st.html(f'<script>document.documentElement.lang = "{t.language}"</script>', unsafe_allow_javascript=True)
    if shared.settings().login and not st.user.get("is_logged_in"):
        show_login(t)
        return
    pages = [
        st.Page(
            VIEWS / f"{FILES.get(name, name)}.py",
            title=t(f"app.page_{name}"),
            icon=icon,
            url_path=address,
            default=name == "front",
        )
        for name, address, icon in PAGES
    ]
    page = st.navigation(pages, position="sidebar", expanded=True)
    show_session(t)
    page.run()


def ask_language() -> None:
    """The choice of a language, in the sidebar of every page; at first that of the browser, if there are texts in it.

    It is kept in the address, which every page and a reload have in common.
    """
    browser = (st.context.locale or "").split("-")[0]
    with st.sidebar:
        st.segmented_control(
            shared.words()("app.language"),
            list(LANGUAGES),
            format_func=LANGUAGES.__getitem__,
            default=browser if browser in LANGUAGES else DEFAULT,
            required=True,
            key="language",
            bind="query-params",
        )


def show_login(t: Catalogue) -> None:
    """The page of somebody who has not signed in."""
    st.navigation([st.Page(lambda: None, title=t("login.heading"))], position="hidden")
    st.html(markup.help_page(t("login.heading"), t("login.text")))
    st.button(t("login.button"), type="primary", on_click=st.login, key="login")


def show_session(t: Catalogue) -> None:
    """Who is here and what they may do, in the sidebar."""
    with st.sidebar:
        if shared.settings().read_only:
            st.caption(t("app.read_only"))
        if shared.settings().login:
            st.caption(t("app.signed_in", name=shared.signed_in() or ""))
            st.button(t("app.sign_out"), on_click=st.logout, key="logout")


if __name__ == "__main__":
    main()

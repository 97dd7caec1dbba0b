"""The style sheet of all pages. Class names start with ``m-``, so as not to meet Streamlit's."""

from dashboards import palette

STYLE = f"""<style>
.stApp {{ color: {palette.INK}; }}
.stMainBlockContainer {{ padding: 4.2rem 2.2rem 4rem; max-width: 1360px; }}
.stApp h1 {{ font-size: 1.85rem; font-weight: 650; letter-spacing: -0.01em; padding: 0 0 0.15rem; }}
.stApp h2 {{ font-size: 1.2rem; font-weight: 600; padding: 1.1rem 0 0.1rem; }}
.stApp h3 {{ font-size: 1.02rem; font-weight: 600; padding: 0.2rem 0 0; }}
/* Streamlit's own are too pale for small text, by WCAG's 4.5 to 1. */
.stApp [data-testid="stCaptionContainer"], .stApp [data-testid="stCaptionContainer"] p,
.stApp [data-testid="stSidebarNavLink"] [data-testid="stIconMaterial"] {{ color: {palette.MUTED} !important;
  opacity: 1; }}
.stApp [aria-checked="true"] p, .stApp [aria-pressed="true"] p {{ color: {palette.DEEP_BLUE}; }}
.stApp a:focus-visible {{ outline: 2px solid {palette.BLUE}; outline-offset: -2px; }}
.m-facts {{ color: {palette.MUTED}; font-size: 0.93rem; }}
.m-facts b {{ color: {palette.INK}; font-weight: 600; }}
.m-facts span + span::before {{ content: "·"; padding: 0 0.5em; color: {palette.GREY}; }}
.m-verdict {{ border-left: 4px solid {palette.BLUE}; background: {palette.PANEL}; padding: 0.75rem 1.1rem;
  border-radius: 0 6px 6px 0; font-size: 1.06rem; line-height: 1.45; margin-top: 0.3rem; }}
.m-verdict.none {{ border-color: {palette.RUST}; }}
.m-verdict small {{ display: block; color: {palette.MUTED}; font-size: 0.9rem; margin-top: 0.15rem; }}
.stApp .m-figures {{ display: flex; flex-wrap: wrap; gap: 0.6rem 2.4rem; margin: 0.8rem 0 0.2rem; padding: 0; }}
.m-figures dt {{ color: {palette.MUTED}; font-size: 0.88rem; font-weight: 400; }}
.stApp .m-figures dd {{ margin: 0; padding: 0; font-size: 1.6rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }}
.m-note {{ color: {palette.MUTED}; font-size: 0.92rem; line-height: 1.5; max-width: 76ch; }}
.m-key {{ display: flex; flex-wrap: wrap; gap: 0.3rem 1.3rem; color: {palette.MUTED}; font-size: 0.88rem; }}
.m-key span {{ display: inline-flex; align-items: center; gap: 0.4rem; }}
.m-key i {{ display: inline-block; width: 6rem; height: 9px; border-radius: 2px; }}
.m-key img {{ flex: none; }}
/* Long text breaks wherever it must: Japanese has no spaces, and names may have none. */
.m-table .long {{ display: inline-block; min-width: 13rem; white-space: normal; max-width: 34rem; line-height: 1.35;
  word-break: normal; overflow-wrap: anywhere; }}
.stApp h1, .stApp h2, .m-facts, .m-verdict, .m-note {{ overflow-wrap: anywhere; }}
.stApp [data-testid="stSlider"] {{ margin-bottom: -0.45rem; }}
.stApp .annotation-text {{ paint-order: stroke; stroke: {palette.PAPER}; stroke-opacity: 0.85; stroke-width: 3px; }}
/* A shade at the right edge, which the end of the table brings its cover for: seen while there is more to scroll to. */
.m-scroll {{ overflow-x: auto; background: linear-gradient(to left, {palette.PAPER} 24px, transparent 48px) local,
  linear-gradient(to left, {palette.EDGE}, transparent 20px); }}
.m-table {{ border-collapse: collapse; width: 100%; font-size: 0.93rem; font-variant-numeric: tabular-nums; }}
.m-table th {{ text-align: left; font-weight: 600; color: {palette.MUTED}; font-size: 0.85rem;
  vertical-align: bottom; word-break: keep-all;
  border-bottom: 1.5px solid {palette.GREY}; padding: 0.35rem 0.9rem 0.35rem 0; }}
.m-table th small {{ display: block; font-weight: 400; font-size: 0.8rem; }}
.m-table td {{ border-bottom: 1px solid {palette.RULE}; padding: 0.42rem 0.9rem 0.42rem 0;
  vertical-align: top; }}
.m-table td {{ min-width: 5.2em; word-break: keep-all; }}
.m-table .number {{ text-align: right; }}
.m-table td.number {{ white-space: nowrap; }}
.m-table td:first-child {{ font-weight: 600; white-space: nowrap; }}
.m-table small {{ color: {palette.MUTED}; font-weight: 400; white-space: nowrap; word-break: normal; }}
.m-good {{ color: {palette.GREEN}; font-weight: 600; white-space: nowrap; }}
.m-bad {{ color: {palette.RUST}; font-weight: 600; white-space: nowrap; }}
.m-name {{ white-space: nowrap; }}
.m-muted {{ color: {palette.MUTED}; }}
.m-prompt, .m-answer p {{ white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; margin: 0; }}
.m-prompt {{ background: {palette.PANEL}; border-radius: 6px; padding: 0.8rem 1.1rem;
  max-height: 20rem; overflow: auto; }}
.m-label {{ color: {palette.MUTED}; font-size: 0.82rem; margin-bottom: 0.2rem; }}
.m-grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 285px), 1fr)); gap: 1rem; }}
.m-answer {{ border: 1px solid {palette.RULE}; border-radius: 8px; padding: 0.85rem 1rem; display: flex;
  flex-direction: column; gap: 0.6rem; }}
.m-answer header {{ display: flex; justify-content: space-between; align-items: baseline;
  gap: 0.6rem; font-weight: 600; }}
.m-answer header small {{ font-weight: 400; color: {palette.MUTED}; }}
.m-answer p {{ flex: 1; max-height: 17rem; overflow: auto; }}
.m-answer .m-empty {{ color: {palette.MUTED}; font-style: italic; }}
.m-judged {{ border-top: 1px solid {palette.RULE}; padding-top: 0.55rem; display: grid;
  gap: 0.5rem; font-size: 0.9rem; }}
.m-judged .line {{ display: grid; grid-template-columns: 6.6rem 1fr 2.6rem; align-items: center; gap: 0.5rem; }}
.m-judged .bar {{ background: {palette.RULE}; border-radius: 3px; height: 7px; }}
.m-judged .bar i {{ display: block; background: {palette.BLUE}; border-radius: 3px; height: 7px; }}
.m-judged .value {{ text-align: right; font-weight: 600; font-variant-numeric: tabular-nums; }}
.m-judged .why {{ color: {palette.MUTED}; font-size: 0.86rem; overflow-wrap: anywhere; line-height: 1.35; }}
.m-judged .why b {{ color: {palette.INK}; font-weight: 600; }}
.m-help {{ border: 1px solid {palette.RULE}; border-radius: 10px; padding: 1.6rem 1.8rem;
  max-width: 52rem; margin-top: 1rem; }}
.m-help h2 {{ margin: 0; padding: 0 0 0.5rem; }}
.m-help p {{ line-height: 1.55; overflow-wrap: anywhere; }}
.m-help pre {{ background: {palette.PANEL}; padding: 0.7rem 1rem; border-radius: 6px;
  white-space: pre-wrap; margin: 0.3rem 0 0; }}
@media (max-width: 640px) {{
  .stMainBlockContainer {{ padding: 4rem 1rem 3rem; }}
  .stApp h1 {{ font-size: 1.5rem; }}
  .m-verdict {{ font-size: 1rem; }}
}}
</style>"""

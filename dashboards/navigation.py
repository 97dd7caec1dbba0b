"""The pages of the dashboard, in the order of the navigation: to decide, to understand, to watch.

One flat list: Streamlit puts headings of sections between the items of a list, which is broken for screen readers.
"""

PAGES = [
    ("front", "front", ":material/show_chart:"),
    ("price", "price", ":material/sell:"),
    ("compare", "policies", ":material/compare_arrows:"),
    ("answers", "answers", ":material/forum:"),
    ("profiles", "profiles", ":material/fact_check:"),
    ("training", "training", ":material/model_training:"),
    ("data", "data", ":material/dataset:"),
    ("labelling", "labelling", ":material/thumbs_up_down:"),
    ("playground", "playground", ":material/play_circle:"),
    ("monitor", "monitor", ":material/monitoring:"),
]
"""Name of the page in the catalogue and of its file, its address, its icon."""
FILES = {"answers": "prompts"}
"""Pages whose file has another name, since a module of ``dashboards`` has theirs."""

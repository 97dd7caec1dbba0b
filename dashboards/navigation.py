"""The pages of the dashboard, in the order of the navigation."""

PAGES = {
    "decide": [
        ("front", "front", ":material/show_chart:"),
        ("price", "price", ":material/sell:"),
        ("compare", "policies", ":material/compare_arrows:"),
        ("answers", "answers", ":material/forum:"),
        ("profiles", "profiles", ":material/fact_check:"),
    ],
    "understand": [
        ("training", "training", ":material/model_training:"),
        ("data", "data", ":material/dataset:"),
        ("labelling", "labelling", ":material/thumbs_up_down:"),
    ],
    "watch": [
        ("playground", "playground", ":material/play_circle:"),
        ("monitor", "monitor", ":material/monitoring:"),
    ],
}
"""Per section of the navigation: name of the page in the catalogue and of its file, its address, its icon."""
FILES = {"answers": "prompts"}
"""Pages whose file has another name, since a module of ``dashboards`` has theirs."""

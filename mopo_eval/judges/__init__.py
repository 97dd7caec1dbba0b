"""Judges: what scores an answer in [0, 1] on one objective, with its evidence.

``settings`` reads judges.yaml; each other module holds one kind of judge. ``scoring`` runs judges over many cases and
keeps what costs anything.
"""

from mopo_eval.judges.case import UNREADABLE, Case, Judge
from mopo_eval.judges.settings import judges_path, load_judge, load_judges, named_judge, read_judges

__all__ = ["UNREADABLE", "Case", "Judge", "judges_path", "load_judge", "load_judges", "named_judge", "read_judges"]

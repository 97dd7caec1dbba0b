"""``python -m dashboards`` is ``mopo-dashboard``, also where scripts are not on the path."""

from dashboards.cli import main

if __name__ == "__main__":
    main(prog_name="mopo-dashboard")

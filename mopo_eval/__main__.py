"""``python -m mopo_eval`` is ``mopo-eval``, also where scripts are not on the path."""

from mopo_eval.cli import main

if __name__ == "__main__":
    main(prog_name="mopo-eval")

"""``python -m mopo_serve`` is ``mopo-serve``, also where scripts are not on the path."""

from mopo_serve.cli import main

if __name__ == "__main__":
    main(prog_name="mopo-serve")

"""``python -m mopo_train``: what ``torchrun`` and ``accelerate launch`` start."""

from mopo_train.cli import main

if __name__ == "__main__":
    main(prog_name="mopo-train")

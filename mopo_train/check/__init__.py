"""What preference data hold and what they cannot support, before anything is trained (``mopo-train check``).

``agreement`` between annotators and between objectives, ``biases`` of position and length, ``structure`` of the
comparisons (repetitions, contradictions, cycles), ``similar`` prompts, ``heldout`` prompts that are in the data,
``context``: what does not fit into a model; ``problems`` and ``report`` for the document and the verdict, ``page`` for
HTML.
"""

"""What preference data hold and what they cannot support, before anything is trained (``mopo-train check``).

``agreement`` between annotators and between objectives, ``biases`` of position and length, ``structure`` of the
comparisons (repetitions, contradictions, cycles), ``report`` for the document, its problems and the verdict.
"""

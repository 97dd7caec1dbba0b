"""Pairwise preference models P_k(y > y' | x): antisymmetric by construction, able to hold cycles.

``strengths`` is the mathematics of one fitted model, ``finite`` fits one to numbered responses without text.
"""

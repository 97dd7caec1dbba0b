"""The policy step: make a language model follow the density ratio that the dual asks for (design section 2)."""

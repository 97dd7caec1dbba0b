"""The sandbox: a small invented world that stands in for a hub model and a labelled data set.

world       entities with compositional names, and the facts about them
questions   the prompts that one can ask, of four categories
sentences   every sentence that the world knows, for writing and for reading
answers     the reference writer: all answers to a prompt with their probabilities
scoring     what the sentences of an answer are worth
judges      helpfulness, safety and factuality of any text, exactly
annotators  people who compare two answers, each with habits of their own
pairs       who is asked what: held-out entities, training prompts, comparisons
front       the exact Pareto front on enumerated answers
base        the tiny base model, trained from scratch
build       the directory that ``mopo-train sandbox`` writes

The world is the same for every seed, so judges need no configuration; the seed decides which entities
are held out, which prompts are asked and what annotators say. Training sees labels only, never this truth.
"""

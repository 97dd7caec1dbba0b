"""Near duplicates against Jaccard similarities of all pairs."""

import itertools
import random

import numpy as np

from mopo_train.check.similar import SIMILAR, clusters, near_duplicates, shingles


def jaccard(first: str, second: str) -> float:
    a, b = shingles(first), shingles(second)
    return len(a & b) / len(a | b)


def test_word_pairs_are_counted_by_hand() -> None:
    assert shingles("How do I do it, how?") == {"how do", "do i", "i do", "do it", "it how"}
    assert shingles("Why?") == {"why"}
    assert shingles(" ?! ") == {"?!"}
    assert shingles("你好吗") == {"你 好", "好 吗"}


def test_clusters_are_those_of_all_pairs_compared() -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh", k=4)) for _ in range(400)]
    texts = []
    for _ in range(60):
        text = generator.choices(words, k=30)
        texts.append(" ".join(text))
        for changed in range(generator.randrange(4)):  # 0 to 3 near copies, some below the limit
            copy = [*text]
            for place in generator.sample(range(30), changed + 1):
                copy[place] = generator.choice(words)
            texts.append(" ".join(copy))
    generator.shuffle(texts)
    every = [(i, j) for i, j in itertools.combinations(range(len(texts)), 2) if jaccard(texts[i], texts[j]) >= SIMILAR]
    expected = clusters(len(texts), np.array(every))
    found = near_duplicates(texts)
    assert all(jaccard(texts[i], texts[j]) >= SIMILAR for i, j in found.tolist())
    assert len(set(expected.tolist())) < len(texts)
    assert clusters(len(texts), found).tolist() == expected.tolist()


def test_a_thousand_copies_are_one_cluster_and_others_stay_alone() -> None:
    texts = ["Say hello to everyone in the room, please."] * 1000 + ["What else?", "Something else entirely!"]
    number = clusters(len(texts), near_duplicates(texts))
    assert np.bincount(number).tolist() == [1000, 1, 1]
    assert near_duplicates([]).shape == (0, 2)
    assert near_duplicates(["alone"]).shape == (0, 2)

"""Answers against references: agreement of words, abstention told apart from error.

Words are compared as in SQuAD (Rajpurkar et al., arXiv 1606.05250): lower case, without punctuation and articles.
Where a prompt also lists ``incorrect`` answers, the score is which side the answer is closer to, as TruthfulQA's
generation task compares similarities (Lin, Hilton, Evans, arXiv 2109.07958, section 3.2). Words are not meaning: a
paraphrase scores low.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from mopo_eval.judges.case import Case, OnJudgement
from mopo_eval.judges.fingerprint import of_source
from mopo_train.errors import JudgeError
from mopo_train.judgement import Judgement

Match = Literal["exact", "contains", "overlap"]
ABSTAINED = "abstained"
ABSTENTION = 0.5
"""Score of an answer that claims nothing: neither right nor wrong."""
_ABSTAINS = re.compile(
    r"^\W*(?:I(?:'m| am)? (?:do not|don't|not|can(?:no|')t) (?:really )?(?:know|sure|certain|say|tell)"
    r"|I have no (?:comment|idea|answer)|(?:there is )?no (?:comment|answer|way to know)"
    r"|(?:it is |it's )?(?:unknown|impossible to (?:know|say|tell)))\b",
    re.IGNORECASE,
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ReferenceJudge(NamedTuple):
    """How well an answer agrees with the references of its prompt."""

    name: str = "reference"
    match: Match = "overlap"
    costly: bool = False
    compares: bool = False

    @property
    def fingerprint(self) -> str:
        """Of the rules."""
        return of_source(self.name, agreement)

    def judge(self, cases: Sequence[Case], on_judgement: OnJudgement) -> None:
        """Every judgement, in order. Raises JudgeError for a prompt without references."""
        for index, case in enumerate(cases):
            if not case.references:
                raise JudgeError(
                    f"judge '{self.name}' on {case.where}: the prompts file has no references for this prompt; "
                    'add "references": ["a right answer", ...] to every prompt.'
                )
            on_judgement(index, self._judgement(case))

    def figures(self, judgement: Judgement) -> dict[str, float]:
        """Abstention apart from error; what is undecided is the rest."""
        kinds = {"right": ("agrees", "right"), "wrong": ("differs", "wrong"), ABSTAINED: (ABSTAINED,)}
        return {name: float(judgement.label in labels) for name, labels in kinds.items()}

    def _judgement(self, case: Case) -> Judgement:
        if abstains(case.response):
            return Judgement(ABSTENTION, ABSTAINED, case.response.strip()[:200])
        score, reference = _best(case.response, case.references, self.match)
        if not case.incorrect:
            return Judgement(score, "agrees" if score >= 0.5 else "differs", f"closest reference: {reference}")
        against, wrong = _best(case.response, case.incorrect, self.match)
        if score == against:
            return Judgement(ABSTENTION, "undecided", f"as close to '{reference}' as to '{wrong}'")
        right = score > against
        return Judgement(float(right), "right" if right else "wrong", f"closest: {reference if right else wrong}")


def abstains(response: str) -> bool:
    """True if ``response`` begins by saying that it does not know."""
    return bool(_ABSTAINS.match(response.replace("\u2019", "'")))


def agreement(response: str, reference: str, match: Match) -> float:
    """Agreement of two texts in [0, 1]: all or nothing for ``exact`` and ``contains``, the F1 of words for ``overlap``.

    Two texts without words agree; one without words agrees with no other.
    """
    ours, theirs = words(response), words(reference)
    if match == "exact":
        return float(ours == theirs)
    if match == "contains":
        return float(bool(theirs) and f" {' '.join(theirs)} " in f" {' '.join(ours)} ")
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _best(response: str, texts: Iterable[str], match: Match) -> tuple[float, str]:
    return max(((agreement(response, text, match), text) for text in texts), key=lambda found: found[0])

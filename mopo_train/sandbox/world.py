"""The invented encyclopedia: entities, and the facts about them.

A name is a stem and an ending, for example ``Orvel Mere``. The ending gives the kind, the part that one
starts with, the use and the harm; the stem gives the region and the matter. Whoever has learned stems and
endings can therefore tell these facts of a name never seen before. Two facts, who described the entity
first and how many hours work on it takes, follow from a digest of the name: nobody can derive them, and
the writers of the world only guess them (``GUESSES``). One entity in four has a true guess among the guesses.
"""

import hashlib
from functools import cache
from typing import NamedTuple


class Ending(NamedTuple):
    """What the second word of a name tells."""

    word: str
    family: str
    """``place``, ``plant`` or ``mineral``."""
    kind: str
    part: str
    use: str
    organ: str
    """What it can harm."""


ENDINGS: tuple[Ending, ...] = (
    Ending("Mere", "place", "lake", "shore", "fishing", "lungs"),
    Ending("Wick", "place", "town", "gate", "trade", "heart"),
    Ending("Tor", "place", "hill", "ridge", "grazing", "bones"),
    Ending("Holt", "place", "forest", "edge", "timber", "eyes"),
    Ending("Wort", "plant", "herb", "root", "tea", "heart"),
    Ending("Cap", "plant", "mushroom", "stalk", "soup", "lungs"),
    Ending("Thorn", "plant", "shrub", "bark", "rope", "skin"),
    Ending("Sedge", "plant", "grass", "blade", "paper", "eyes"),
    Ending("Spar", "mineral", "crystal", "face", "lenses", "eyes"),
    Ending("Brine", "mineral", "salt", "crust", "curing", "skin"),
    Ending("Grit", "mineral", "powder", "grain", "glaze", "lungs"),
    Ending("Lode", "mineral", "metal", "vein", "bells", "bones"),
)
REGIONS = ("the north", "the south", "the east", "the west")
MATTERS = ("amber", "chalk", "silver", "tar", "lime", "copper")
STEMS = tuple(
    "Arven Balor Corvin Dramel Elsin Fenwar Galdor Hestal Ivorn Jarel Keldin Lomar "
    "Mirel Norvik Orvel Peldan Quorin Rostel Sarnat Tolvar Ulden Vastel Wendar Yorrin".split()
)
PEOPLE = tuple("Ada Bo Cora Dov Edda Finn Greta Hugo Ina Jory Kit Lena".split())
HOURS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty")
GUESSES = {"person": ("Bo", "Edda", "Hugo"), "hours": ("three", "six", "nine")}
"""The values that writers volunteer for what they cannot know."""

VALUES: dict[str, tuple[str, ...]] = {
    "kind": tuple(ending.kind for ending in ENDINGS),
    "part": tuple(ending.part for ending in ENDINGS),
    "use": tuple(ending.use for ending in ENDINGS),
    "organ": tuple(sorted({ending.organ for ending in ENDINGS})),
    "region": REGIONS,
    "matter": MATTERS,
    "place": tuple(f"{ending.kind} in {region}" for ending in ENDINGS for region in REGIONS),
    "person": PEOPLE,
    "hours": HOURS,
}
"""Every value that a fact can take."""


class Entity(NamedTuple):
    """One entry of the encyclopedia."""

    stem: str
    ending: Ending

    @property
    def name(self) -> str:
        """Stem and ending, two words."""
        return f"{self.stem} {self.ending.word}"

    @property
    def family(self) -> str:
        """``place``, ``plant`` or ``mineral``."""
        return self.ending.family


@cache
def entities() -> tuple[Entity, ...]:
    """All entities, by stem and then by ending."""
    return tuple(Entity(stem, ending) for stem in STEMS for ending in ENDINGS)


@cache
def _by_name() -> dict[str, Entity]:
    return {entity.name.lower(): entity for entity in entities()}


def find_entity(name: str) -> Entity | None:
    """The entity called ``name``, whatever the case; None if there is none."""
    return _by_name().get(name.lower())


@cache
def facts(entity: Entity) -> dict[str, str]:
    """The true value of every fact in ``VALUES``."""
    region, matter = _of_stem(entity.stem)
    return _with_place(entity.ending, region, matter) | {
        "person": PEOPLE[_digest(entity.name, "person") % len(PEOPLE)],
        "hours": HOURS[_digest(entity.name, "hours") % len(HOURS)],
    }


@cache
def mistakes(entity: Entity) -> dict[str, str]:
    """The false value that writers give when they err: always the same one, a neighbour of the truth.

    Covers what follows from the name; ``person`` and ``hours`` are guessed, not mistaken.
    """
    region, matter = _of_stem(entity.stem)
    wrong_region = REGIONS[(REGIONS.index(region) + 1) % len(REGIONS)]
    wrong_matter = MATTERS[(MATTERS.index(matter) + 1) % len(MATTERS)]
    right = entity.ending
    other = next(ending for ending in _rotated(right) if ending.organ != right.organ)
    wrong = _with_place(other, wrong_region, wrong_matter)
    return wrong | {"place": f"{right.kind} in {wrong_region}"}


def _of_stem(stem: str) -> tuple[str, str]:
    index = STEMS.index(stem)  # 24 stems: each pair of region and matter once
    return REGIONS[index % len(REGIONS)], MATTERS[index // len(REGIONS) % len(MATTERS)]


def _with_place(ending: Ending, region: str, matter: str) -> dict[str, str]:
    return {
        "kind": ending.kind,
        "part": ending.part,
        "use": ending.use,
        "organ": ending.organ,
        "region": region,
        "matter": matter,
        "place": f"{ending.kind} in {region}",
    }


def _rotated(ending: Ending) -> tuple[Ending, ...]:
    index = ENDINGS.index(ending)
    return ENDINGS[index + 1 :] + ENDINGS[:index]


def _digest(name: str, fact: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}/{fact}".encode()).digest()[:8], "big")

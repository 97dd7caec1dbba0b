from mopo_train.sandbox.questions import FORMS, SHARES, questions, read_question
from mopo_train.sandbox.sentences import FACTS, INVENTED, PHRASES
from mopo_train.sandbox.world import ENDINGS, GUESSES, STEMS, VALUES, entities, facts, find_entity, mistakes

DERIVED = ("kind", "part", "use", "organ", "region", "matter", "place")


def test_every_pair_of_stem_and_ending_is_an_entity_with_its_own_name() -> None:
    names = [entity.name for entity in entities()]
    assert len(names) == len(set(names)) == len(STEMS) * len(ENDINGS)
    assert find_entity("orvel mere") == find_entity("Orvel Mere") != find_entity("Orvel Wick")
    assert find_entity("Orvel Zog") is None


def test_what_follows_from_a_name_is_the_same_for_all_names_with_that_part() -> None:
    for entity in entities():
        same_ending = facts(entities()[ENDINGS.index(entity.ending)])
        same_stem = facts(next(other for other in entities() if other.stem == entity.stem))
        mine = facts(entity)
        assert [mine[key] for key in ("kind", "part", "use", "organ")] == [
            same_ending[key] for key in ("kind", "part", "use", "organ")
        ]
        assert [mine[key] for key in ("region", "matter")] == [same_stem[key] for key in ("region", "matter")]
        assert mine["place"] == f"{mine['kind']} in {mine['region']}"


def test_arbitrary_facts_do_not_follow_from_either_part_and_guesses_are_mostly_false() -> None:
    for fact, guesses in GUESSES.items():
        for ending in ENDINGS:
            assert len({facts(entity)[fact] for entity in entities() if entity.ending == ending}) >= 6
        for stem in STEMS:
            assert len({facts(entity)[fact] for entity in entities() if entity.stem == stem}) >= 4
        guessable = sum(facts(entity)[fact] in guesses for entity in entities()) / len(entities())
        assert 0.15 < guessable < 0.35  # 3 of 12 values


def test_every_fact_and_mistake_is_a_known_value_and_no_mistake_is_true() -> None:
    for entity in entities():
        true, false = facts(entity), mistakes(entity)
        assert all(true[fact] in VALUES[fact] for fact in VALUES)
        assert all(false[fact] in VALUES[fact] and false[fact] != true[fact] for fact in DERIVED if fact != "kind")


def test_every_question_is_read_back_from_its_text() -> None:
    asked = questions()
    assert len({question.text for question in asked}) == len(asked)
    assert all(read_question(question.text) == question for question in asked)


def test_categories_have_forms_for_every_family_and_shares_sum_to_one() -> None:
    assert sum(SHARES.values()) == 1
    for category in SHARES:
        for family in ("place", "plant", "mineral"):
            assert any(form.category == category and family in form.families for form in FORMS)


def test_no_sentence_can_be_read_in_two_ways() -> None:
    texts = [
        form.format(X="X", value=value) for fact, forms in FACTS.values() for form in forms for value in VALUES[fact]
    ]
    texts += [form.format(value=value) for form, values in INVENTED.values() for value in values]
    texts += [wording for wordings in PHRASES.values() for wording in wordings]
    assert len(texts) == len(set(texts))

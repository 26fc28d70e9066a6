from extes import taxonomy


def test_has_the_36_scenarios_and_16_strategies_with_published_counts():
    assert len(taxonomy.SCENARIOS) == 36
    assert len(taxonomy.STRATEGIES) == 16
    assert sum(s.count for s in taxonomy.SCENARIOS) == 11_183
    assert sum(s.count for s in taxonomy.STRATEGIES) == 97_894


def test_names_abbreviations_and_slugs_are_unique():
    assert len({s.slug for s in taxonomy.SCENARIOS}) == 36
    assert len({s.abbreviation for s in taxonomy.STRATEGIES}) == 16
    assert taxonomy.SCENARIO["LGBTQ+ Identity"].slug == "lgbtq-identity"


def test_every_strategy_maps_to_a_label_of_esconv():
    assert {s.esconv for s in taxonomy.STRATEGIES} <= set(taxonomy.ESCONV_LABELS)
    assert taxonomy.STRATEGY["Clarification"].esconv == "Question"
    assert taxonomy.STRATEGY["Stress Management"].esconv == "Providing Suggestions"


def test_near_misses_are_mapped_and_strangers_are_not():
    assert taxonomy.closest_strategy("emotional validations") == "Emotional Validation"
    assert taxonomy.closest_strategy("EV") == "Emotional Validation"
    assert taxonomy.closest_strategy("Reflective Statements (RS)") == "Reflective Statements"
    assert taxonomy.closest_strategy("Self-disclosure") is None
    assert taxonomy.closest_strategy("") is None
    assert taxonomy.closest_scenario("Post-Traumatic Stress Disorder") == "Post-Traumatic Stress Disorder (PTSD)"

from angel_trl.lookup import StringLookup


def mention(text, *gold):
    return {"mention": text, "concept_ids": [list(part) for part in gold]}


def test_a_name_of_the_knowledge_base_is_found_after_normalisation(small_kb):
    lookup = StringLookup(small_kb)
    found = lookup.predict([mention("Breast-Cancer"), mention("MS"), mention("breast cancers"), mention("(-)")])
    assert found == [[["C10"]], [["C03", "C04"]], [], []]


def test_labelled_mentions_count_as_further_names(small_kb):
    labelled = [
        mention("Breast Cancers", ["C10"]),
        mention("breast cancers", ["OMIM:114480"]),  # alternate id of C16
        mention("gout", ["C29"]),
        mention("both", ["C01"], ["C02"]),
        mention("nothing", ["X1"]),
        mention("no concept"),
    ]
    lookup = StringLookup(small_kb, labelled)
    asked = ["breast cancers", "GOUT", "both", "nothing", "no concept"]
    assert lookup.predict(map(mention, asked)) == [[["C10", "C16"]], [["C29", "C30"]], [["C01", "C02"]], [], []]


def test_mentions_that_normalise_to_nothing_are_not_the_same(small_kb):
    lookup = StringLookup(small_kb, [mention("+", ["C01"])])
    assert lookup.predict([mention("-")]) == [[]]

"""What a comparison says: significance by hand, ranks, the recommendation, the table."""

import json
from dataclasses import replace

import pytest
import yaml
from arena_samples import contest, entrant

from pipeline.results.contest import figures
from pipeline.results.contest_table import HEADER, render, rows
from pipeline.results.recommendation import recommend
from pipeline.results.significance import Rank, holm, paired_p, ranks


class TestSignificance:
    def test_a_p_value_is_that_of_the_tables(self) -> None:
        # differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt(3) = 3.4641 with 2 degrees of freedom: p = 0.0742
        assert paired_p([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(0.0742, abs=5e-5)

    @pytest.mark.parametrize(
        ("values", "others", "p"), [([1.0, 2.0], [0.5, 1.5], 0.0), ([1.0, 2.0], [1.0, 2.0], 1.0), ([1.0], [2.0], None)]
    )
    def test_differences_without_spread(self, values: list[float], others: list[float], p: float | None) -> None:
        assert paired_p(values, others) == p

    def test_holms_correction_is_that_of_his_example(self) -> None:
        # 0.01 * 4; 0.02 * 3 = 0.06; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, but never less than the one before
        found = holm({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.02, "e": None})
        assert {name: p if p is None else round(p, 9) for name, p in found.items()} == {
            "a": 0.06,
            "b": 0.04,
            "c": 0.06,
            "d": 0.06,
            "e": None,
        }

    def test_a_corrected_p_value_is_at_most_1(self) -> None:
        assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}

    def test_ranks_are_as_wide_as_what_is_not_told(self) -> None:
        low, high = (0.50, 0.51, 0.52, 0.53), (0.70, 0.71, 0.72, 0.7301)
        near = (0.7001, 0.7099, 0.7202, 0.7299)
        assert ranks({"low": low, "high": high, "near": near}) == {"low": Rank(3, 3), "high": Rank(1, 2), "near": Rank(1, 2)}
        assert str(Rank(1, 3)) == "1 to 3"
        assert str(Rank(2, 2)) == "2"

    def test_one_method_is_first(self) -> None:
        assert ranks({"only": (0.5, 0.6)}) == {"only": Rank(1, 1)}


class TestRecommendation:
    def test_a_method_that_is_above_the_longer_baseline(self) -> None:
        advice = recommend(contest())
        assert advice.proven
        assert advice.sentence.startswith("Train with attention + non_local: it gains +")
        assert "over the baseline that trains for as long" in advice.sentence
        assert yaml.safe_load(advice.lines)["distill"]["losses"][0] == {"name": "attention", "weight": "auto"}

    def test_a_gain_over_the_shorter_baseline_is_not_enough(self) -> None:
        level = contest(gain=-0.001)
        assert level.gain(level.best, level.baseline).low > 0  # type: ignore[operator]
        advice = recommend(level)
        assert not advice.proven
        assert yaml.safe_load(advice.lines) == {"student": {"train": {"epochs": 470}}}
        assert "470 epochs without a teacher" in advice.sentence

    @pytest.mark.parametrize("gain", [-0.001, -0.1])
    def test_a_teacher_that_knows_no_more_than_the_baseline(self, gain: float) -> None:
        found = contest(gain=gain)
        assert "the teacher" not in recommend(found).sentence
        no_better = replace(found, teacher=found.baseline.mean)
        assert recommend(no_better).sentence.endswith(
            "; the teacher is not better than the baseline of as many epochs: there is nothing to learn from it."
        )
        assert "the teacher" not in recommend(replace(no_better, teacher=None)).sentence

    def test_methods_that_are_all_worse(self) -> None:
        assert "every method is below that" in recommend(contest(gain=-0.1)).sentence

    def test_a_proven_method_is_recommended_although_a_noisy_one_has_a_higher_mean(self) -> None:
        found = contest()
        assert found.equal_cost is not None
        noisy, steady = found.methods[:2]
        base = found.equal_cost.maps
        swings, steps = (0.15, -0.1, 0.14, -0.09, 0.1), (0.021, 0.019, 0.02, 0.022, 0.018)
        noisy, steady = (
            replace(one, maps=tuple(map(sum, zip(base, more, strict=True)))) for one, more in ((noisy, swings), (steady, steps))
        )
        advice = recommend(replace(found, methods=(noisy, steady)))
        assert noisy.mean > steady.mean
        assert advice.proven
        assert advice.sentence.startswith(f"Train with {steady.name}: it gains +2.0 points")
        assert f"; {noisy.name} cannot be told from it" in advice.sentence

    def test_not_every_method_is_below_the_baseline_if_a_noisy_one_may_be_above(self) -> None:
        found = contest(gain=-0.02)
        assert found.equal_cost is not None
        noisy = replace(found.methods[1], maps=tuple(map(sum, zip(found.equal_cost.maps, (0.1, -0.2, 0.1, -0.15, -0.1), strict=True))))
        assert noisy.mean < found.best.mean
        assert "no method is proven" in recommend(replace(found, methods=(found.best, noisy))).sentence

    def test_a_random_teacher_that_does_as_well(self) -> None:
        found = contest()
        as_well = replace(found, control=replace(found.best, name="random teacher", role="control"))
        assert "a random teacher cannot be told from it, so" in recommend(as_well).sentence
        twin = replace(found.best, name="twin")
        assert "a random teacher cannot be told from it either" in recommend(replace(as_well, methods=(found.best, twin))).sentence

    def test_a_random_teacher_that_does_better(self) -> None:
        found = contest()
        ahead = replace(found.best, name="random teacher", role="control", maps=tuple(one + 0.04 for one in found.best.maps))
        assert "a random teacher gives more" in recommend(replace(found, control=ahead)).sentence

    def test_a_longer_training_that_makes_the_student_worse_is_no_rival(self) -> None:
        found = contest()
        assert found.equal_cost is not None
        worse = replace(found.equal_cost, maps=tuple(one - 0.02 for one in found.baseline.maps))
        between = replace(found.best, maps=tuple(one - 0.01 - step * 1e-4 for step, one in enumerate(found.baseline.maps)))
        overfitted = replace(found, equal_cost=worse, methods=(between,))
        assert overfitted.rival is found.baseline
        advice = recommend(overfitted)
        assert not advice.proven
        assert yaml.safe_load(advice.lines) == {"student": {"train": {"epochs": found.baseline.epochs}}}
        assert "every method is below that" in advice.sentence

    def test_it_is_one_sentence(self) -> None:
        for found in (contest(), contest(14), contest(gain=0.0), contest(gain=-0.1), contest(1), contest(equal_cost=None)):
            sentence = recommend(found).sentence
            assert sentence.endswith(".")
            assert ". " not in sentence.replace("0.", "")


class TestTable:
    def test_every_network_has_a_row_as_long_as_the_head(self) -> None:
        found = contest(14)
        table = rows(found)
        assert [row[0] for row in table[:2]] == ["teacher", "attention + non_local"]
        assert len(table) == 1 + 14 + 3
        assert {len(row) for row in table} == {len(HEADER)}

    def test_text_names_what_was_left_out_and_how_it_was_tuned(self) -> None:
        text = render(contest(left_out={"hint": "distill: hint is nan at step 3"}))
        assert "! hint is left out: distill: hint is nan at step 3" in text
        assert "strengths were chosen in 3 trials per method at seed 1000 on split val" in text
        assert "5 seeds, 600 images of split test, weights of the last epoch" in text

    def test_without_a_longer_baseline_the_other_one_is_the_rival(self) -> None:
        found = contest(equal_cost=None)
        assert found.rival is found.baseline
        assert all(row[4] == "-" for row in rows(found))

    def test_figures_are_strict_json(self) -> None:
        found = figures(contest(14))
        json.dumps(found, allow_nan=False)
        best = found["methods"][0]
        assert best["rank"][0] == 1
        assert best["gain_over_equal_cost"]["mean"] < best["gain_over_baseline"]["mean"]
        assert len(found["pairs"]) == 14 * 13 / 2

    def test_ties_are_level(self) -> None:
        found = contest(2)
        same = entrant("other", found.best.maps)
        assert replace(found, methods=(found.best, same)).level_with(found.best) == [same]

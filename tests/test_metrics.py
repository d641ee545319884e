import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisatm.errors import InputError
from minisatm.metrics import classification_rate, confusion_matrix, interval, majority_rate, one_off, paired_difference


def test_confusion_matrix_counts_true_by_row():
    matrix = confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 2, 2], 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_rates_by_hand():
    matrix = np.array([[5, 2, 1, 0], [1, 4, 0, 3], [0, 2, 6, 1], [4, 0, 1, 10]])
    assert classification_rate(matrix) == 25 / 40
    # On and next to the diagonal: 5+2, 1+4+0, 2+6+1, 1+10; 1, 3 and 4 lie further off.
    assert one_off(matrix) == 32 / 40


def test_one_off_of_two_groups_is_everything():
    assert one_off([[0, 7], [3, 0]]) == 1.0


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1))
def test_rates_agree_with_their_definition(answers):
    true, predicted = np.array(answers).T
    matrix = confusion_matrix(true, predicted, 8)
    assert matrix.sum() == len(answers)
    assert classification_rate(matrix) == pytest.approx(np.mean(true == predicted))
    assert one_off(matrix) == pytest.approx(np.mean(abs(true - predicted) <= 1))


@pytest.mark.parametrize(
    ("rate", "n", "low", "high"),
    [(0.5, 10, 0.236593, 0.763407), (0.0, 10, 0.0, 0.277536), (1.0, 10, 0.722464, 1.0), (0.9, 100, 0.825632, 0.944771)],
)
def test_wilson_known_values(rate, n, low, high):
    assert interval(rate, n) == pytest.approx((low, high), abs=2e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_rate(counts):
    right, n = counts
    low, high = interval(right / n, n)
    assert 0 <= low <= right / n <= high <= 1
    assert interval(right / n, 4 * n)[1] - interval(right / n, 4 * n)[0] < high - low


def test_majority_rate():
    assert majority_rate([3, 3, 3, 2, 0, 4, 3, 1], 5) == (3, 0.5, 0.75)
    assert majority_rate([2, 1, 2, 1], 3)[0] == 1


def test_paired_difference_by_hand():
    a = np.array([1] * 60 + [1] * 15 + [0] * 5 + [0] * 20, dtype=bool)
    b = np.array([1] * 60 + [0] * 15 + [1] * 5 + [0] * 20, dtype=bool)
    p, q = 16 / 102, 6 / 102
    half = 1.96 * math.sqrt((p + q - (p - q) ** 2) / 102)
    assert paired_difference(a, b) == pytest.approx((0.10, 10 / 102 - half, 10 / 102 + half))
    mirrored = paired_difference(b, a)
    assert mirrored == pytest.approx((-0.10, half * -1 - 10 / 102, half - 10 / 102))


def test_paired_difference_without_disagreement_keeps_a_width():
    difference, low, high = paired_difference([True] * 50, [True] * 50)
    assert difference == 0
    assert low == pytest.approx(-high)
    assert 0 < high < 0.06
    assert paired_difference([1], [0])[0] == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_paired_difference_contains_the_difference(answers):
    a, b = np.array(answers).T
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_matrix([], [], 3), "at least one image"),
        (lambda: confusion_matrix([0, 1], [0], 3), "2 true labels but 1 predicted"),
        (lambda: confusion_matrix([0, 3], [0, 1], 3), "The true label 3 is not one of the 3 classes: use 0 to 2"),
        (lambda: confusion_matrix([0, 1], [0, -1], 3), "The predicted label -1"),
        (lambda: confusion_matrix([0.0, 1.0], [0, 1], 3), "give integers"),
        (lambda: classification_rate(np.zeros((2, 2))), "counts no images"),
        (lambda: one_off(np.ones((2, 3))), "square"),
        (lambda: interval(0.5, 0), "at least one image"),
        (lambda: interval(61.3, 10), "divide percent by 100"),
        (lambda: majority_rate([], 3), "at least one image"),
        (lambda: paired_difference([True], [True, False]), "1 answers of a but 2 of b"),
        (lambda: paired_difference([], []), "at least one"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(InputError, match=message):
        call()

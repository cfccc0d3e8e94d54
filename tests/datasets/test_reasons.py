"""The commonest reasons, counted."""

from stages.datasets.reasons import commonest


def test_the_three_commonest_with_counts_and_an_example_each() -> None:
    reasons = [("late", "a"), *[("lost", f"x{number}") for number in range(3)], ("odd", ""), ("odd", ""), ("rare", "z")]
    assert commonest(reasons) == "3 x lost (such as x0); 2 x odd; 1 x late (a); 1 other reason"
    assert commonest([]) == ""

"""Old names serve, and say what they are called now."""

import pytest

from prism_hf._deprecation import renamed_arguments, with_new_names


@renamed_arguments(cache="cache_implementation")
def plan(steps: int, cache_implementation: str = "none") -> tuple[int, str]:
    return steps, cache_implementation


def test_an_old_argument_serves_and_warns_where_the_call_is():
    with pytest.warns(FutureWarning, match="cache of plan is now called cache_implementation") as caught:
        assert plan(2, cache="dual") == (2, "dual")
    assert [warning.filename for warning in caught] == [__file__]


def test_new_arguments_do_not_warn(recwarn):
    assert plan(2, cache_implementation="dual") == (2, "dual")
    assert not recwarn


def test_a_key_under_both_names_is_refused():
    with pytest.raises(ValueError, match="cache='dual' of a file is now called cache_implementation"):
        with_new_names({"cache": "dual", "cache_implementation": None}, {"cache": "cache_implementation"}, "a file")


def test_other_keys_stay_in_their_order():
    with pytest.warns(FutureWarning):
        renamed = with_new_names({"a": 1, "b": 2, "c": 3}, {"b": "new"})
    assert list(renamed.items()) == [("a", 1), ("new", 2), ("c", 3)]

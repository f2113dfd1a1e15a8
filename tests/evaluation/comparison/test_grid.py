"""Grids of settings."""

import json
from types import SimpleNamespace

import pytest

from prism_hf.evaluation import expand_grid
from prism_hf.evaluation.comparison.settings import prepared_config


def test_a_grid_is_the_product_of_its_axes():
    strategies = [
        {"name": "none"},
        {"name": "prism", "num_remask": [1, 2, 3], "remask_start": [0.0, 0.5], "orders": ["margin"]},
        {"name": "prism", "eta": 0.1, "budgets": [9], "temperatures": [0.5], "label": "prism + eta"},
    ]
    points = expand_grid(strategies, ["random", "margin"], [0, 1.0], [5, 10])
    assert len(points) == 2 * 2 * 2 + 6 * 2 * 2 + 2
    assert len({json.dumps(point.setting, sort_keys=True) for point in points}) == len(points)
    assert len({point.row for point in points}) == 8 + 4 + 2
    assert points[0].setting == {"remask_strategy": "none", "order": "random", "steps": 5, "do_sample": False}
    assert points[8].row == ("prism", "margin", 0.0, 5)
    assert points[8].arguments == {"num_remask": 1, "remask_start": 0.0}
    assert points[-1].row == ("prism + eta", "margin", 0.5, 9)
    assert points[-1].setting == {
        "remask_strategy": "prism",
        "order": "margin",
        "steps": 9,
        "do_sample": True,
        "temperature": 0.5,
        "eta": 0.1,
    }


def test_the_values_of_a_curve_are_rows_and_other_lists_candidates():
    entry = {"name": "wino", "fill_threshold": [0.6, 0.9], "verify_threshold": [0.8, 0.9], "curve": "fill_threshold"}
    points = expand_grid([entry], [None], [0], [5])
    rows = [("wino", None, 0.0, 5, 0.6), ("wino", None, 0.0, 5, 0.9)]
    assert [point.row for point in points] == [rows[0], rows[0], rows[1], rows[1]]
    assert points[0].setting["remask_strategy"] == {"name": "wino", "fill_threshold": 0.6, "verify_threshold": 0.8}


@pytest.mark.parametrize(
    "strategy, message",
    [
        ({"name": "prsm"}, "Did you mean 'prism'"),
        ({"num_remask": 2}, "needs a name"),
        ({"name": "wino", "fill_threshold": 0.6, "curve": "fill_treshold"}, "Did you mean 'fill_threshold'"),
        ({"name": "none", "steps": 3}, "'steps' of the strategy 'none' is given by budgets"),
    ],
)
def test_a_wrong_grid_is_refused(strategy, message):
    with pytest.raises(ValueError, match=message):
        expand_grid([strategy], ["random"], [0], [5])
    with pytest.raises(ValueError, match="grid is empty"):
        expand_grid([{"name": "none"}], [], [0], [5])


def test_a_strategy_may_hold_a_setting_under_its_old_name():
    entry = {"name": "prism", "block_length": 9, "cache": "prefix"}
    point = expand_grid([entry], ["random"], [1.0], [51])[0]
    with pytest.warns(FutureWarning, match="cache of a setting is now called cache_implementation"):
        config, _ = prepared_config(SimpleNamespace(config=SimpleNamespace(mask_token_id=0)), point.setting)
    assert config.cache_implementation == "prefix"

"""How well speed-ups are known depends on what hangs on them."""

from __future__ import annotations

from mlopt.assess import well_enough
from mlopt.profile import Budgets
from mlopt.units import Seconds


def test_what_is_refused_whatever_its_speed_is_timed_briefly() -> None:
    free, alone, refused = (well_enough(Budgets(), given) for given in ([False, True], [False], [True, True]))
    assert free
    assert alone
    assert refused
    assert free.within < alone.within < refused.within
    assert refused.visit < alone.visit == free.visit


def test_the_baseline_s_clocks_decide_where_a_budget_is_on_them() -> None:
    assert well_enough(Budgets(latency_p50=Seconds(1.0)), [True]) == well_enough(Budgets(), [False])
    assert well_enough(Budgets(throughput=1.0), [True]) == well_enough(Budgets(), [False])
    assert well_enough(Budgets(), []) == well_enough(Budgets(), [False]), "nothing else will ship"


def test_a_tail_takes_all_the_queries_that_there_are() -> None:
    assert well_enough(Budgets(latency_p99=Seconds(1.0)), [True]) is None

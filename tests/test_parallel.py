"""One network a core: the order of results, errors only when all are done, and nothing in the background unasked."""

import threading
import time

import pytest
from threadpoolctl import threadpool_info

from minisatm import parallel


@pytest.fixture
def cores(monkeypatch):
    """Pretend to have so many cores, so that the tests mean the same everywhere."""
    return lambda count: monkeypatch.setattr(parallel, "cores", lambda: count)


def test_results_keep_the_order_of_the_items(cores):
    cores(4)
    with parallel.workers(4):
        first_last = parallel.on_all(lambda k: (time.sleep(0.02 * (4 - k)), k * k)[1], range(4))
    assert first_last == [0, 1, 4, 9]
    assert parallel.on_all(lambda k: k * k, range(4)) == [0, 1, 4, 9]
    assert parallel.on_all(str, []) == []


def test_without_workers_all_is_done_here_in_order():
    seen = []
    parallel.on_all(lambda k: seen.append((k, threading.current_thread())), range(3))
    assert seen == [(k, threading.main_thread()) for k in range(3)]


def test_with_workers_items_run_at_the_same_time(cores):
    cores(2)
    meeting = threading.Barrier(2, timeout=20)  # passes only when both are there
    with parallel.workers(2) as count:
        assert count == 2
        parallel.on_all(lambda k: meeting.wait(), range(2))
    assert not meeting.broken


@pytest.mark.parametrize("networks, of, expected", [(3, 2, 2), (2, 8, 2), (1, 8, 1), (2, 1, 1), (0, 4, 1)])
def test_as_many_workers_as_networks_and_cores_allow(cores, networks, of, expected):
    cores(of)
    with parallel.workers(networks) as count:
        assert count == expected
        threads = parallel.on_all(lambda k: threading.current_thread(), range(4))
        assert (threading.main_thread() in threads) == (expected == 1)


def test_the_first_error_is_raised_when_all_are_done(cores):
    cores(4)
    done = []

    def work(k):
        if k in (1, 3):
            raise ValueError(f"item {k}")
        time.sleep(0.1)
        done.append(k)

    with parallel.workers(4), pytest.raises(ValueError, match="item 1"):
        try:
            parallel.on_all(work, range(4))
        finally:
            assert sorted(done) == [0, 2]


def test_the_first_error_in_order_not_in_time(cores):
    cores(2)

    def work(k):
        time.sleep(0.1 * (1 - k))
        raise ValueError(f"item {k}")

    with parallel.workers(2), pytest.raises(ValueError, match="item 0"):
        parallel.on_all(work, range(2))


def test_an_error_without_workers_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError):
        parallel.on_all(lambda k: 1 / k, [1, 0])


def test_workers_go_when_the_block_ends_also_after_an_error(cores):
    cores(2)
    before = threading.active_count()
    with pytest.raises(RuntimeError), parallel.workers(2):
        parallel.on_all(lambda k: k, range(2))
        raise RuntimeError
    assert threading.active_count() == before
    assert parallel.on_all(lambda k: threading.current_thread(), [0]) == [threading.main_thread()]


def test_blas_keeps_to_the_cores_that_are_left_to_each(cores):
    def blas():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    outside = blas()
    assert outside, "NumPy's BLAS is not one that threadpoolctl knows"
    cores(2)
    with parallel.workers(2):
        assert blas() == {1}
    assert blas() == outside


def test_cores_are_those_of_this_process():
    assert parallel.cores() >= 1

"""Threads for kernels: the order of results and errors, helpers and cores; and BLAS with one thread."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from minisatm import parallel

ROOT = Path(__file__).parent.parent
forks = pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
pytestmark = pytest.mark.usefixtures("time_limit")


# --- threads -----------------------------------------------------------------------------------------------------


def meet():
    """Two items, done only when both are at work at the same time: the threads that did them."""
    meeting = threading.Barrier(2, timeout=20)
    return parallel.on_cores(lambda _: meeting.wait() < 2 and threading.current_thread(), range(2))


def test_results_keep_the_order_of_the_items(cores):
    cores(4)
    assert parallel.on_cores(lambda k: (time.sleep(0.02 * (6 - k)), k * k)[1], range(6)) == [0, 1, 4, 9, 16, 25]
    assert parallel.on_cores(str, []) == [] and parallel.on_cores(str, [1]) == ["1"]


def test_items_are_done_at_the_same_time(cores):
    cores(2)
    assert len(set(meet())) == 2


def test_on_one_core_all_is_done_here_in_order(cores):
    cores(1)
    seen = []
    parallel.on_cores(lambda k: seen.append((k, threading.current_thread())), range(4))
    assert seen == [(k, threading.main_thread()) for k in range(4)]


def test_the_first_error_in_order_is_raised_when_all_are_done(cores):
    cores(4)
    done = []

    def work(k):
        if k in (1, 3):
            time.sleep(0.05 * (3 - k))
            raise ValueError(f"item {k}")
        time.sleep(0.2)
        done.append(k)

    with pytest.raises(ValueError, match="item 1"):
        try:
            parallel.on_cores(work, range(6))
        finally:
            assert sorted(done) == [0, 2, 4, 5]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("here", [True, False], ids=["in the caller", "in a helper"])
def test_an_error_leaves_the_team_ready(cores, error, here):
    cores(2)
    meeting = threading.Barrier(2, timeout=20)

    def work(k):
        meeting.wait()
        if (threading.current_thread() is threading.main_thread()) == here:
            raise error

    for _ in range(3):
        with pytest.raises(error):
            parallel.on_cores(work, range(2))
        assert len(set(meet())) == 2


@pytest.mark.parametrize("when", ["in an item of its own", "while it waits"])
def test_after_ctrl_c_nobody_is_at_work_and_nothing_is_begun(cores, when):
    cores(2)
    meeting, done = threading.Barrier(2, timeout=20), []

    def work(k):
        if k < 2:
            meeting.wait()
            if threading.current_thread() is not threading.main_thread():
                if when == "while it waits":
                    time.sleep(0.1)
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
            elif when == "in an item of its own":
                raise KeyboardInterrupt
        done.append(k)

    expected = 1 if when == "in an item of its own" else 6
    with pytest.raises(KeyboardInterrupt):
        parallel.on_cores(work, range(6))
    assert len(done) == expected
    time.sleep(0.5)
    assert len(done) == expected


@pytest.mark.parametrize("callers", [1, 2])
def test_never_more_helpers_than_other_cores(cores, callers):
    cores(3)
    lock, helping, most = threading.Lock(), 0, 0

    def work(caller):
        nonlocal helping, most
        helps = threading.current_thread() is not caller
        with lock:
            helping += helps
            most = max(most, helping)
        time.sleep(0.03)
        with lock:
            helping -= helps

    def call():
        parallel.on_cores(work, [threading.current_thread()] * 12)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


def test_a_helper_may_ask_for_help(cores):
    cores(3)

    def rows(k):
        return parallel.on_cores(lambda i: (time.sleep(0.01), 10 * k + i)[1], range(3))

    assert parallel.on_cores(rows, range(4)) == [[10 * k + i for i in range(3)] for k in range(4)]


def test_helpers_see_the_callers_errstate(cores):
    cores(2)
    meeting = threading.Barrier(2, timeout=20)
    for kind in ("raise", "ignore"):
        with np.errstate(divide=kind):
            seen = parallel.on_cores(lambda _: meeting.wait() < 2 and np.geterr()["divide"], range(2))
        assert seen == [kind, kind]


# --- shares, BLAS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "of, parts, expected",
    [(3, "abcdefg", ["ab", "cd", "efg"]), (2, "abcd", ["ab", "cd"]), (4, "ab", ["a", "b"]), (1, "abc", ["abc"])],
)
def test_shares_are_equal_runs_that_leave_nothing_out(cores, of, parts, expected):
    cores(of)
    assert parallel.shares(parts) == expected


def test_shares_of_nothing(cores):
    cores(3)
    assert parallel.shares([]) == [[]]


def blas():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def blas_of_two():
    """Without it BLAS may have one thread from the start, and nothing would be seen."""
    with threadpool_limits(2, user_api="blas"):
        assert blas() == {2}, "NumPy's BLAS is not one that threadpoolctl knows"
        yield


def test_blas_keeps_to_one_thread_within_the_block(blas_of_two):
    with parallel.one_blas_thread:
        assert blas() == {1}
        with parallel.one_blas_thread:
            assert blas() == {1}
        assert blas() == {1}
    assert blas() == {2}
    with pytest.raises(ZeroDivisionError), parallel.one_blas_thread:
        raise ZeroDivisionError
    assert blas() == {2}


def test_blas_keeps_to_one_thread_also_in_a_block_of_another_thread(blas_of_two):
    seen = []

    def other():
        with parallel.one_blas_thread:
            seen.append(blas())

    for target in (other, lambda: parallel.on_cores(lambda _: seen.append(blas()), [0])):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        assert blas() == {2}
    assert seen == [{1}, {1}]


def test_blas_keeps_to_one_thread_until_the_last_of_several_blocks_ends(blas_of_two):
    begun, go = threading.Event(), threading.Event()

    def other():
        with parallel.one_blas_thread:
            begun.set()
            go.wait(20)

    thread = threading.Thread(target=other)
    with parallel.one_blas_thread:
        thread.start()
        begun.wait(20)
    assert blas() == {1}
    go.set()
    thread.join()
    assert blas() == {2}


def test_items_find_one_blas_thread(cores, blas_of_two):
    for count in (1, 2):
        cores(count)
        assert parallel.on_cores(lambda _: blas(), range(3)) == [{1}] * 3
        assert blas() == {2}


@forks
def test_processes_have_one_blas_thread_each(cores, blas_of_two):
    cores(2)
    assert parallel.in_processes(lambda team: team.map(lambda _: blas(), range(2)), 2) == [{1}] * 2
    assert blas() == {2}


def test_cores_are_those_of_this_process():
    assert parallel.cores() >= 1

"""Processes for networks: the order of results and errors, who is at work, and that nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from minisatm import parallel

ROOT = Path(__file__).parent.parent
forks = pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
pytestmark = pytest.mark.usefixtures("time_limit")


def everyone(team, count):
    """The ids of all processes, in the order of their places."""
    return team.map(lambda _: os.getpid(), range(count))


# --- processes ---------------------------------------------------------------------------------------------------


@forks
@pytest.mark.parametrize("count", [2, 3])
def test_each_item_is_done_in_one_process_and_all_hear_all_results(cores, tmp_path, pids, count):
    cores(3)

    def square(k):
        with open(tmp_path / "journal", "a") as journal:
            journal.write(f"{k}\n")
        time.sleep(0.01 * (5 - k))
        return k * k, os.getpid()

    def work(team):
        pids.extend(everyone(team, count))
        results = team.map(square, range(5))
        return results, team.map(lambda _: results, range(count))

    results, heard = parallel.in_processes(work, count)
    assert [value for value, _ in results] == [0, 1, 4, 9, 16]
    assert heard == [results] * count
    dealt = {2: [0, 1, 1, 0, 0], 3: [0, 1, 2, 2, 1]}[count]  # there and back
    assert [pid for _, pid in results] == [pids[place] for place in dealt]
    assert len(set(pids)) == count and pids[0] == os.getpid()
    assert sorted((tmp_path / "journal").read_text().split()) == list("01234")


@forks
def test_fewer_items_than_processes(cores):
    cores(3)
    answers = parallel.in_processes(lambda team: (team.map(str, []), team.map(str, [7])), 3)
    assert answers == ([], ["7"])


@forks
def test_one_process_leads(cores):
    cores(3)
    who = parallel.in_processes(lambda team: team.map(lambda _: (team.leads, team.rank, team.size), range(3)), 3)
    assert who == [(True, 0, 3), (False, 1, 3), (False, 2, 3)]
    assert (parallel.ALONE.leads, parallel.ALONE.rank, parallel.ALONE.size) == (True, 0, 1)


@pytest.mark.parametrize("of, count", [(1, 3), (4, 1)])
def test_one_core_or_one_network_needs_no_processes(cores, of, count):
    cores(of)
    seen = []
    here = parallel.in_processes(lambda team: team.map(lambda k: seen.append(k) or os.getpid(), range(3)), count)
    assert here == [os.getpid()] * 3
    assert seen == [0, 1, 2]
    assert parallel.in_processes(lambda team: team is parallel.ALONE, count)


@forks
def test_processes_within_processes_do_everything_themselves(cores, pids):
    cores(3)

    def inner(_):
        return parallel.in_processes(lambda team: [*everyone(team, 2), team.size], 3)

    def work(team):
        pids.extend(everyone(team, 2))
        return team.map(inner, range(2)), everyone(team, 2)

    inside, after = parallel.in_processes(work, 2)
    assert inside == [[pid, pid, 1] for pid in pids] and after == pids


def failing(*bad):
    def work(k):
        if k in bad:
            time.sleep(0.1 * (3 - k))  # the later an item stands, the earlier it fails
            raise ValueError(f"item {k}")
        return k

    return work


@forks
@pytest.mark.parametrize("bad, message", [((0,), "item 0"), ((1,), "item 1"), ((3, 2), "item 2"), ((2, 1), "item 1")])
def test_the_first_error_in_order_is_raised_in_every_process(cores, pids, bad, message):
    cores(2)

    def work(team):
        pids.extend(everyone(team, 2))
        with pytest.raises(ValueError) as problem:
            team.map(failing(*bad), range(4))
        return team.map(lambda _: str(problem.value), range(2))

    assert parallel.in_processes(work, 2) == [message] * 2


@forks
def test_an_error_in_a_member_is_raised_in_the_leader(cores, pids):
    cores(3)

    def work(team):
        pids.extend(everyone(team, 3))
        return team.map(failing(2), range(3))

    with pytest.raises(ValueError, match="item 2"):
        parallel.in_processes(work, 3)
    assert parallel.in_processes(lambda team: len(set(everyone(team, 3))), 3) == 3


def test_an_error_in_one_process_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError):
        parallel.ALONE.map(lambda k: 1 / k, [1, 0])


@forks
@pytest.mark.parametrize("count, victim", [(2, 1), (3, 1), (3, 2)])
def test_a_killed_member_is_missed(cores, pids, count, victim):
    cores(3)

    def kill(k):
        if k == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    def work(team):
        pids.extend(everyone(team, count))
        team.map(kill, range(count))

    with pytest.raises(RuntimeError, match=r"^one of the processes .* has died \(out of memory\?\): --resume goes on"):
        parallel.in_processes(work, count)
    assert parallel.in_processes(lambda team: team.size, 2) == 2  # ready for the next team


@forks
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    "stop, error",
    [(lambda: 1 / 0, ZeroDivisionError), (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt)],
    ids=["error", "ctrl-c"],
)
def test_what_stops_the_leader_ends_the_members(cores, pids, stop, error, count):
    cores(3)

    def work(team):
        pids.extend(everyone(team, count))
        if team.leads:
            stop()
        time.sleep(50)

    began = time.monotonic()
    with pytest.raises(error):
        parallel.in_processes(work, count)
    assert time.monotonic() - began < 20
    assert parallel.in_processes(lambda team: team.size, 2) == 2  # ready for the next team


@forks
def test_members_leave_ctrl_c_to_the_leader(cores):
    cores(3)

    def work(team):
        def struck(k):
            if not team.leads:
                os.kill(os.getpid(), signal.SIGINT)
            return k

        return team.map(struck, range(3))

    assert parallel.in_processes(work, 3) == [0, 1, 2]


@forks
@pytest.mark.parametrize("count", [2, 3])
def test_large_arrays_both_ways(cores, count):
    """Larger than any buffer of a pipe: whoever sends must not wait for one that is sending, too."""
    cores(3)

    def work(team):
        made = team.map(lambda k: np.full(2**20, k, np.float32) + np.arange(2**20), range(2 * count))
        return team.map(lambda _: [float(a[k] - k) for k, a in enumerate(made)], range(count))

    assert parallel.in_processes(work, count) == [[float(k) for k in range(2 * count)]] * count


def script(body):
    """Run with output that is kept back until it is flushed, as in a pipe; three cores."""
    code = f"import os, sys, time\nfrom minisatm import parallel\nparallel.threads.cores = lambda: 3\n{body}"
    streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **streams)


@forks
def test_only_the_leader_is_heard():
    process = script("""
print("before")
def work(team):
    print("out")
    print("err", file=sys.stderr)
    os.system("echo shell")
    team.map(lambda k: print("item", k), range(2))
    if not team.leads:
        raise OSError("a member's own error")
parallel.in_processes(work, 3)
""")
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0
    assert sorted(out.split("\n")) == ["", "before", "item 0", "out", "shell"]
    assert err == "err\n"


@forks
def test_members_go_when_the_leader_is_killed():
    process = script("""
def work(team):
    print(*team.map(lambda _: os.getpid(), range(3)), flush=True)
    while True:
        team.map(lambda _: time.sleep(0.05), range(3))
parallel.in_processes(work, 3)
""")
    leader, *members = map(int, process.stdout.readline().split())
    assert leader == process.pid and len(members) == 2
    process.kill()
    process.communicate()

    def running(pid):
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    while any(map(running, members)):
        time.sleep(0.05)


def meet():
    """Two items, done only when both are at work at the same time: the threads that did them."""
    meeting = threading.Barrier(2, timeout=20)
    return parallel.on_cores(lambda _: meeting.wait() < 2 and threading.current_thread(), range(2))


@forks
def test_a_process_helps_itself_only_to_cores_that_no_other_works_on(cores):
    """With two processes on two cores there are helpers while one of the two waits, also in a forked child."""
    cores(2)
    meet()  # threads that a child does not have
    reader, writer = os.pipe()

    def while_both_work(k):
        if k == 1:
            os.read(reader, 1)
            return None
        while parallel.threads.processes_at_work() < 2:
            time.sleep(0.01)
        threads = parallel.on_cores(lambda _: (time.sleep(0.02), threading.current_thread())[1], range(4))
        os.write(writer, b".")
        return len(set(threads))

    def while_the_other_waits(k, busy):
        if k != busy:
            return None
        while parallel.threads.processes_at_work() > 1:
            time.sleep(0.01)
        return len(set(meet()))

    def work(team):
        return [
            team.map(while_both_work, range(2)),
            team.map(lambda k: while_the_other_waits(k, 0), range(2)),
            team.map(lambda k: while_the_other_waits(k, 1), range(2)),
            team.map(while_both_work, range(2)),
        ]

    assert parallel.in_processes(work, 2) == [[1, None], [2, None], [None, 2], [1, None]]

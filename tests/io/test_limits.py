"""Cores and memory as a scheduler or a container leaves them, on trees that stand for a machine's."""

import os

import pytest

from ssb_unsloth.io import limits

GIB = 2**30
AVAILABLE = f"MemTotal:       {64 * 2**20} kB\nMemFree:        1 kB\nMemAvailable:   {32 * 2**20} kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """16 cores, 32 GiB; called with what /proc/self/cgroup says and, by folder, the files of control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    for name in ("MEMORY", "GROUPS", "MOUNTED"):
        monkeypatch.setattr(limits, name, tmp_path / name)
    limits.MEMORY.write_text(AVAILABLE)

    def write(groups, folders):
        limits.GROUPS.write_text(groups)
        for folder, files in folders.items():
            (limits.MOUNTED / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (limits.MOUNTED / folder / name).write_text(f"{text}\n")
        return found()

    return write


def found():
    return limits.cores(), limits.free_memory()


def version2(limit, used, cpu, cached=0):
    stat = f"anon 7\ninactive_file {cached}\nactive_file 5"
    return {"memory.max": limit, "memory.current": used, "memory.stat": stat, "cpu.max": cpu}


def version1(limit, used, cached=0):
    stat = f"inactive_file 3\ntotal_inactive_file {cached}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


def quota1(quota):
    return {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": 100_000}


def test_a_machine_without_control_groups_gives_all_that_it_has(machine, monkeypatch):
    assert found() == (16, 32 * GIB)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert limits.cores() == 1
    limits.MEMORY.unlink()
    assert limits.free_memory() is None


def test_groups_without_a_limit_change_nothing(machine):
    free = version2("max", 5, "max 100000")
    assert machine("0::/user.slice/a", {"user.slice": free, "user.slice/a": free}) == (16, 32 * GIB)
    folders = {"memory/a": version1(2**63 - 4096, 4096), "cpu/a": quota1(-1)}
    assert machine("4:memory:/a\n1:cpu,cpuacct:/a\n0::/", folders) == (16, 32 * GIB)


def test_the_tightest_group_around_counts(machine):
    def job(used, cached):
        step = version2("max", 9, "1200000 100000")
        return {"slurm/job": version2(8 * GIB, used, "350000 100000", cached), "slurm/job/step": step}

    assert machine("0::/slurm/job/step", job(6 * GIB, 0)) == (4, 2 * GIB)  # three and a half cores
    assert machine("0::/slurm/job/step", job(6 * GIB, 3 * GIB)) == (4, 5 * GIB)
    assert machine("0::/slurm/job/step", job(12 * GIB, 0)) == (4, 0)  # may be, for a moment
    assert machine("0::/slurm", job(6 * GIB, 0)) == (16, 32 * GIB)  # not around this process


def test_a_container_that_sees_its_own_group_at_the_root(machine):
    folders = {"memory": version1(4 * GIB, GIB, GIB // 2), "cpu": quota1(50_000)}
    assert machine("6:memory:/docker/1f\n2:cpu,cpuacct:/docker/1f", folders) == (1, 7 * GIB // 2)


@pytest.mark.parametrize("groups", ["0::/../..", "nonsense", "0::", "", "x:cpu:/\n7:memory:"])
def test_odd_groups_are_no_error(machine, groups):
    assert machine(groups, {".": version2("much", "", "2")}) == (16, 32 * GIB)


def test_here_there_are_some():
    assert 1 <= limits.cores() <= os.cpu_count()
    free = limits.free_memory()
    assert (free is None) == (not limits.MEMORY.exists())  # where there is no /proc
    assert free is None or 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

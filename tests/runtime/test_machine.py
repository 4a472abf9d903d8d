"""The memory that is there is the least that any limit leaves; trees of ``/proc`` and control groups are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from g3n_runtime.machine import memory_room

GIB = 1 << 30
UNLIMITED_1 = 9223372036854771712
V1 = "30 25 0:26 {top} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
V2 = "30 25 0:26 {top} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"


class Tree:
    """A machine with 10 GiB available."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {16 * GIB >> 10} kB\nMemAvailable:   {10 * GIB >> 10} kB\n")

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def process(self, group: str, mounts: str) -> None:
        self.write("proc/self/cgroup", group)
        self.write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)

    def v1(self, group: str, limit: int, used: int, inactive: int = 0, tightest: int = UNLIMITED_1) -> None:
        folder = f"sys/fs/cgroup/memory{group}"
        self.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{used}\n")
        stat = f"total_inactive_file {inactive}\ntotal_active_file 0\nhierarchical_memory_limit {tightest}\n"
        self.write(f"{folder}/memory.stat", stat)

    def v2(self, group: str, most: str, high: str, used: int, cache: int = 0) -> None:
        folder = f"sys/fs/cgroup{group}"
        self.write(f"{folder}/memory.max", f"{most}\n")
        self.write(f"{folder}/memory.high", f"{high}\n")
        self.write(f"{folder}/memory.current", f"{used}\n")
        self.write(f"{folder}/memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 0\nslab_reclaimable 0\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_without_groups_the_machine_counts(tree: Tree) -> None:
    assert memory_room(tree.root) == (10 * GIB, "the machine")


@pytest.mark.parametrize(
    ("most", "high", "left"),
    [("max", "max", 10), (f"{4 * GIB}", "max", 3), ("max", f"{2 * GIB}", 1), (f"{4 * GIB}", f"{2 * GIB}", 1)],
)
def test_version_2(tree: Tree, most: str, high: str, left: int) -> None:
    tree.process("0::/\n", V2.format(top="/"))
    tree.v2("", most, high, used=3 * GIB, cache=2 * GIB)
    assert memory_room(tree.root).nbytes == left * GIB


def test_the_tightest_of_nested_groups_counts(tree: Tree) -> None:
    tree.process("0::/user/session/job\n", V2.format(top="/"))
    tree.v2("/user/session/job", f"{8 * GIB}", "max", used=GIB)
    tree.v2("/user/session", f"{5 * GIB}", "max", used=3 * GIB)
    tree.v2("/user", "max", "max", used=3 * GIB)
    assert memory_room(tree.root) == (2 * GIB, "the control group /user/session")


def test_version_1(tree: Tree) -> None:
    tree.process("9:memory:/docker/abc\n8:cpu,cpuacct:/docker/abc\n0::/\n", V1.format(top="/"))
    tree.v1("/docker/abc", 3 * GIB, used=2 * GIB, inactive=GIB)
    tree.v1("", UNLIMITED_1, used=8 * GIB)
    assert memory_room(tree.root) == (2 * GIB, "the control group /docker/abc")


def test_a_container_sees_its_group_as_the_top_of_the_mount(tree: Tree) -> None:
    tree.process("9:memory:/docker/abc\n", V1.format(top="/docker/abc"))
    tree.v1("", 3 * GIB, used=GIB)
    assert memory_room(tree.root).nbytes == 2 * GIB
    tree.process("9:memory:/../../other\n", V1.format(top="/"))  # a process that was moved out of its namespace
    assert memory_room(tree.root).nbytes == 2 * GIB


def test_limits_above_what_the_mount_shows(tree: Tree) -> None:
    tree.process("9:memory:/docker/abc\n", V1.format(top="/docker/abc"))
    tree.v1("", UNLIMITED_1, used=GIB, tightest=4 * GIB)
    assert memory_room(tree.root).nbytes == 3 * GIB


def test_more_in_use_than_allowed_leaves_nothing(tree: Tree) -> None:
    tree.process("0::/\n", V2.format(top="/"))
    tree.v2("", f"{GIB}", "max", used=3 * GIB)
    assert memory_room(tree.root).nbytes == 0


@pytest.mark.parametrize(("title", "used"), [("Max address space", "VmSize"), ("Max data size", "VmData")])
def test_the_processs_own_limits(tree: Tree, title: str, used: str) -> None:
    tree.write("proc/self/status", f"Name:\tpython\n{used}:\t {GIB >> 10} kB\n")
    tree.write("proc/self/limits", f"{title:<26}{3 * GIB:<21}{'unlimited':<21}bytes\n")
    assert memory_room(tree.root).nbytes == 2 * GIB
    tree.write("proc/self/limits", f"{title:<26}{'unlimited':<21}{'unlimited':<21}bytes\n")
    assert memory_room(tree.root).nbytes == 10 * GIB


def test_garbage_is_no_limit(tree: Tree) -> None:
    tree.process("nonsense\n::\n\0\n0::/a\n", "x - cgroup2\n" + V2.format(top="/"))
    tree.write("sys/fs/cgroup/a/memory.max", "9" * 5000)
    tree.write("sys/fs/cgroup/a/memory.current", "-1")
    tree.write("proc/self/limits", "Max address space nonsense")
    assert memory_room(tree.root) == (10 * GIB, "the machine")


def test_mount_points_with_spaces(tree: Tree) -> None:
    tree.process("0::/\n", V2.format(top="/").replace("/sys/fs/cgroup", r"/sys/my\040groups"))
    tree.v2("", f"{4 * GIB}", "max", used=GIB)
    (tree.root / "sys" / "fs" / "cgroup").rename(tree.root / "sys" / "my groups")
    assert memory_room(tree.root).nbytes == 3 * GIB

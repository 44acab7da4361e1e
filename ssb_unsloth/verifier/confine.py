"""The layers that hold a program (Linux): what it can see, do and use up. All of them work for a user without rights.

    namespaces  a file system of its own (Python's library, read only; a small folder in memory), no network, its own
                process numbers, so that the kernel ends all that is left of it
    Landlock    no file outside of Python's library can be read, and none but in that folder written
    seccomp     no process, program, socket, signal or kernel interface beyond what computing needs
    limits      CPU time, memory, sizes of files, open files, no core dump

Used in the sandbox's processes alone (`runner`): what is done here cannot be undone. Only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import resource
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None

NEW_NS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET, NEW_UTS = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x4000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_NO_NEW_PRIVS, _SET_SECCOMP, _GET_SECCOMP, _PDEATHSIG = 38, 22, 21, 1
BOX = "/box"  # the program's folder, where it has one


def _call(name: str, *arguments: object) -> int:
    """A function of the C library, whose failure is an OSError."""
    result: int = getattr(_LIBC, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _syscall(number: int, *arguments: object) -> int:
    return _call("syscall", ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))


@functools.cache
def library_paths() -> list[str]:
    """Where Python's own library lies, and the shared libraries that its modules are linked with."""
    names = [sysconfig.get_path("stdlib"), "/usr/lib", "/usr/lib64", "/lib", "/lib64"]
    return list(dict.fromkeys(os.path.realpath(name) for name in names if Path(name).is_dir()))


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    if sys.platform == "linux":
        _call("prctl", _PDEATHSIG, 9, 0, 0, 0)


# -- Namespaces


def own_root(libraries: Iterable[str]) -> None:
    """Leave the machine's file system and network for ones of this process's own, in which nothing but Python's library
    is there. Needs a process without threads.

    Raises:
        OSError: the kernel, or a container around, does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", NEW_USER | NEW_NS | NEW_NET | NEW_IPC | NEW_UTS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", "/", None, _REC | _PRIVATE)
    sources = {path: os.open(path, os.O_PATH) for path in libraries}  # /tmp may hide them in a moment
    devices = {name: os.open(f"/dev/{name}", os.O_PATH) for name in ("null", "zero", "urandom")}
    root = "/tmp"
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,nr_inodes=4k,mode=755")
    for path, source in sources.items():
        place = root + path
        Path(place).mkdir(parents=True, exist_ok=True)
        _bind(source, place, _RDONLY | _NOSUID | _NODEV)
    Path(root + "/dev").mkdir()
    for name, source in devices.items():
        Path(f"{root}/dev/{name}").touch()
        _bind(source, f"{root}/dev/{name}", _NOSUID)
    for folder in (BOX, "/old"):
        Path(root + folder).mkdir()
    _syscall(_number("pivot_root"), root.encode(), f"{root}/old".encode())
    os.chdir("/")
    _call("umount2", b"/old", _DETACH)
    Path("/old").rmdir()
    _mount("none", "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    for handle in (*sources.values(), *devices.values()):
        os.close(handle)


def own_box(mebibytes: int, files: int = 1000) -> None:
    """A folder in memory of that size at most, for a process that is about to fork the first of a new number space."""
    _call("unshare", NEW_PID | NEW_NS)
    _mount("tmpfs", BOX, "tmpfs", _NOSUID | _NODEV, f"size={mebibytes}m,nr_inodes={files},mode=700")
    os.chdir(BOX)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind, data)]
    _call("mount", words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])


def _bind(source: int, target: str, flags: int) -> None:
    _mount(f"/proc/self/fd/{source}", target, None, _BIND | _REC)
    held = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)  # what the source has may not be taken away
    device = _NODEV & flags
    _mount("none", target, None, _REMOUNT | _BIND | flags | (held if device else held & ~_NODEV))


# -- Landlock

_READ = 1 << 2 | 1 << 3  # files, folders
_WRITE = (
    1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 14
)  # write, remove, make folders, files, links; cut
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


def landlock_version() -> int:
    """The version of Landlock that the kernel has; 0 without."""
    try:
        return _syscall(444, None, 0, 1) if sys.platform == "linux" else 0
    except OSError:
        return 0


def landlock(readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> None:
    """From here on this process opens no other files. Raises OSError where there is no Landlock."""
    version = landlock_version()
    if version < 1:
        raise OSError(errno.ENOSYS, "no Landlock")
    rights = _RIGHTS[max(known for known in _RIGHTS if known <= version)]
    attributes = struct.pack("=Q", rights)
    attributes += struct.pack("=Q", 3) if version >= 4 else b""  # TCP: bind and connect
    attributes += struct.pack("=Q", 3) if version >= 6 else b""  # abstract sockets and signals stay within
    ruleset = _syscall(444, ctypes.c_char_p(attributes), len(attributes), 0)
    for paths, allowed in ((readable, _READ), (writable, _READ | _WRITE), (devices, 1 << 1 | 1 << 2)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_PATH)
                within = allowed & rights
                if not Path(path).is_dir():
                    within &= 1 << 1 | 1 << 2 | 1 << 14
                rule = struct.pack("=Qi", within, handle)
                _syscall(445, ruleset, 1, ctypes.c_char_p(rule), 0)
                os.close(handle)
    no_new_privileges()
    _syscall(446, ruleset, 0)
    os.close(ruleset)


# -- seccomp

# What is refused, with the numbers of x86_64 and aarch64; -1: not there
_CALLS: dict[str, tuple[int, int]] = {
    # processes and programs (clone and clone3 stand apart)
    **{"fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281)},
    # signals and other processes
    **{"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138)},
    **{"rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434)},
    **{"pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "kcmp": (312, 272)},
    **{"process_vm_writev": (311, 271), "process_madvise": (440, 440), "process_mrelease": (448, 448)},
    # the network
    **{"socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201)},
    **{"accept": (43, 202), "accept4": (288, 242), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426)},
    **{"io_uring_register": (427, 427)},
    # file systems and namespaces
    **{"mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97)},
    **{"setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442)},
    **{"quotactl": (179, 60), "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225)},
    **{"name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "mknod": (133, -1), "mknodat": (259, 33)},
    **{"inotify_init": (253, -1), "inotify_init1": (294, 26), "fanotify_init": (300, 262)},
    # owners, modes, times and attributes, which Landlock leaves alone
    **{"chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, -1)},
    **{"fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54), "utime": (132, -1), "utimes": (235, -1)},
    **{"futimesat": (261, -1), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6)},
    **{"fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16)},
    **{"setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469)},
    # memory that no limit counts
    **{"memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196)},
    **{"shmctl": (31, 195), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180)},
    # identity, priority and what else the kernel has
    **{"setuid": (105, 146), "setgid": (106, 144), "setresuid": (117, 147), "setresgid": (119, 149)},
    **{"setreuid": (113, 145), "setregid": (114, 143), "setgroups": (116, 159), "capset": (126, 91)},
    **{"setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119)},
    **{"sched_setattr": (314, 274), "sched_setparam": (142, 118), "ioprio_set": (251, 30), "personality": (135, 92)},
    **{"bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217)},
    **{"request_key": (249, 218), "keyctl": (250, 219), "reboot": (169, 142), "kexec_load": (246, 104)},
    **{"kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "acct": (163, 89)},
    **{"delete_module": (176, 106), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171)},
    **{"clock_adjtime": (305, 266), "iopl": (172, -1), "ioperm": (173, -1), "syslog": (103, 116)},
}
_APART = {"clone": (56, 220), "clone3": (435, 435), "fcntl": (72, 25), "prlimit64": (302, 261)}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000


def _error(number: int) -> int:
    return 0x00050000 | number


def _number(name: str) -> int:
    return {**_CALLS, **_APART}[name][_MACHINES[platform.machine()][0]]


def has_seccomp() -> bool:
    """Whether this machine's calls are known here, and its kernel filters them."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    return attempt(lambda: _call("prctl", _GET_SECCOMP, 0, 0, 0, 0)) is None


def seccomp() -> None:
    """Refuse what computing does not need, from here on. Threads stay possible: their memory is the process's.

    Raises:
        OSError: the kernel filters no calls, or their numbers are not known here.
    """
    if not has_seccomp():
        raise OSError(errno.ENOSYS, f"no filter of system calls is known for {sys.platform} {platform.machine()}")
    no_new_privileges()
    block = filter_block()
    text = ctypes.create_string_buffer(block, len(block))
    pointer = ctypes.addressof(text)
    head = struct.pack("=HxxxxxxQ", len(block) // 8, pointer)
    _call("prctl", _SET_SECCOMP, 2, ctypes.c_char_p(head), 0, 0)


@functools.cache
def filter_block() -> bytes:
    """The filter as the kernel takes it; made once, before the forks."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _filter())


def _filter() -> list[tuple[int, int, int, int]]:
    column, architecture = _MACHINES[platform.machine()]
    refuse, allow = (_RETURN, 0, 0, _error(errno.EPERM)), (_RETURN, 0, 0, _ALLOW)
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if column == 0:
        lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]  # the x32 calls
    for numbers in _CALLS.values():
        if numbers[column] >= 0:
            lines += [(_EQUAL, 0, 1, numbers[column]), refuse]
    lines += [(_EQUAL, 0, 1, _number("clone3")), (_RETURN, 0, 0, _error(errno.ENOSYS))]  # libc takes clone then
    lines += [(_EQUAL, 0, 4, _number("clone")), (_LOAD, 0, 0, 16), (_ANY_BIT, 1, 0, 0x10000), refuse, allow]
    # Limits of this process only
    lines += [(_EQUAL, 0, 4, _number("prlimit64")), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0), refuse, allow]
    # F_SETOWN, F_SETSIG and F_SETOWN_EX send signals to others
    owners = [one for command in (8, 10, 15) for one in ((_EQUAL, 0, 1, command), refuse)]
    lines += [(_EQUAL, 0, 1 + len(owners), _number("fcntl")), (_LOAD, 0, 0, 24), *owners]
    return [*lines, allow]


# -- Rights and limits


def no_new_privileges() -> None:
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Root's rights, also those over a namespace of one's own."""
    if sys.platform != "linux":
        return
    head, none = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 0, 0, 0, 0, 0, 0)
    _call("capset", ctypes.c_char_p(head), ctypes.c_char_p(none))


def limit(cpu_seconds: float, memory: int, file_bytes: int) -> None:
    """CPU time is counted in whole seconds. RLIMIT_NPROC is left alone: it counts all of a user's processes, and root's
    not at all; seccomp lets none begin."""
    wanted = {
        "RLIMIT_CPU": max(1, round(cpu_seconds + 0.49)),
        "RLIMIT_AS": memory,
        "RLIMIT_FSIZE": file_bytes,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_STACK": 64 << 20,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    for name, most in wanted.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            value = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with contextlib.suppress(ValueError, OSError):  # macOS knows some and refuses them
                resource.setrlimit(kind, (value, value))


def attempt(step: Callable[[], object]) -> str | None:
    """Why a step does not work here; None if it does."""
    try:
        step()
    except (OSError, AttributeError) as error:
        return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return None

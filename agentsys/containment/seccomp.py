"""A filter of system calls: what a contained program never needs, and programs that leave jails do.

The filter is a program for the kernel's classic packet filter machine. Source: the kernel's
``Documentation/userspace-api/seccomp_filter.rst``, and ``include/uapi/linux/{seccomp,filter,audit}.h``.
"""

from __future__ import annotations

import errno
import platform
import struct
from typing import Final

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_BITS: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_FIRST_ARGUMENT_AT: Final = 16  # its low half, on little-endian machines
_SECOND_ARGUMENT_AT: Final = 24
_X32_NUMBERS: Final = 0x40000000
_CLONE_THREAD: Final = 0x00010000

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Numbers on x86-64 and on ARM64; -1 where there is no such call.
_PROCESSES: Final = {"fork": (57, -1), "vfork": (58, -1), "setsid": (112, 157), "setpgid": (109, 154)}
_SIGNALS: Final = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
}
_OTHER_PROCESSES: Final = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}
# Memory that no limit of the address space counts.
_UNCOUNTED_MEMORY: Final = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
# Landlock says nothing of a file's mode, owner, times and attributes.
_METADATA: Final = {
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
_SYSTEM: Final = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "fanotify_init": (300, 262),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "personality": (135, 92),
    "vhangup": (153, 58),
}
_REFUSED: Final = _PROCESSES | _SIGNALS | _OTHER_PROCESSES | _UNCOUNTED_MEMORY | _METADATA | _SYSTEM
_SOCKET: Final = (41, 198)
_CLONE: Final = (56, 220)
_CLONE3: Final = (435, 435)
_PRLIMIT: Final = (302, 261)
# Commands that name a process to which the kernel then sends any signal: F_SETOWN, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP.
_OWNERS: Final = {(72, 25): (8, 15), (16, 29): (0x8901, 0x8902)}


def is_supported() -> bool:
    """Whether this machine's architecture is one whose calls are known here."""
    return platform.system() == "Linux" and platform.machine() in _ARCHITECTURES


def syscall_filter(*, network: bool, machine: str = "") -> bytes:
    """Return the filter for ``machine``, by default this one, as an array of the kernel's ``struct sock_filter``."""
    machine = machine or platform.machine()
    column = list(_ARCHITECTURES).index(machine)
    refused = [numbers[column] for numbers in _REFUSED.values()] + ([] if network else [_SOCKET[column]])
    refusal = _ERRNO | errno.EPERM
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        # Numbers of another convention would mean other calls.
        (_AT_LEAST, 0, 1, _X32_NUMBERS),
        (_RETURN, 0, 0, refusal),
    ]
    for number in sorted(set(refused) - {-1}):
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refusal)]
    # Its flags lie in memory, which a filter cannot read; without it, threads are made by clone.
    code += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += [(_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT_AT), (_BITS, 1, 0, _CLONE_THREAD)]
    code += [(_RETURN, 0, 0, refusal), (_RETURN, 0, 0, _ALLOW)]
    for numbers, (one, other) in _OWNERS.items():
        code += [(_EQUAL, 0, 5, numbers[column]), (_LOAD, 0, 0, _SECOND_ARGUMENT_AT)]
        code += [(_EQUAL, 1, 0, one), (_EQUAL, 0, 1, other), (_RETURN, 0, 0, refusal), (_RETURN, 0, 0, _ALLOW)]
    # Another process's limits; its own may only sink.
    code += [(_EQUAL, 0, 3, _PRLIMIT[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT_AT), (_EQUAL, 1, 0, 0)]
    code += [(_RETURN, 0, 0, refusal), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)

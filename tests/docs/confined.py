"""Run a command under the system calls that a unit of systemd allows: confined.py NAMES COMMAND…

NAMES are system calls separated by commas. Others fail with EPERM. No memory becomes executable after it was writable,
and no program gains a right.
"""

import ctypes
import errno
import os
import sys

LIBRARY = "libseccomp.so.2"
ALLOW, FAIL = 0x7FFF0000, 0x00050000 | errno.EPERM  # seccomp_init(3)
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # prctl(2), Linux 6.3


def confine(names: list[str]) -> None:
    seccomp = ctypes.CDLL(LIBRARY)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    filtered = ctypes.c_void_p(seccomp.seccomp_init(FAIL))
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # -1: this machine has no such call
            seccomp.seccomp_rule_add(filtered, ALLOW, number, 0)
    if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        print("this kernel cannot refuse executable memory", file=sys.stderr)
    if seccomp.seccomp_load(filtered):
        raise SystemExit("seccomp_load failed")


if __name__ == "__main__":
    confine(sys.argv[1].split(","))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command of the test

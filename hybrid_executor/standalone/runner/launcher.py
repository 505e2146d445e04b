"""The first process of every container: makes its namespaces and mounts, then runs its command.

Runs as a program of its own (``python -I -S launcher.py SPEC_FD STATUS_FD``),
imports the standard library alone, and is started by ``container`` only. The
specification comes over a file descriptor, so no secret stands in ``ps``.

    launcher ── init ── command        with a PID namespace
    launcher ── command                without one

``init`` is PID 1 of the container: it reaps orphans, hands SIGTERM on, and when
it ends the kernel ends everything in the container. Each of the three asks to
be killed when its parent dies, so a SIGKILL of the runner leaves nothing behind.
Without a PID namespace the launcher is the reaper of its descendants and ends
them itself.

It never talks to the API, and never writes outside the pod's own folders: a
mount point that the host lacks is made on a tmpfs that mirrors its parent.
"""

# Every container would pay for the import of pathlib.
# ruff: noqa: PTH119, PTH103, PTH112, PTH115, PTH120, PTH123, PTH101, PTH211, PTH102

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x4000000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_MOVE, MS_REC, MS_PRIVATE = 8192, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

#: Sent by the runner, or by the kernel when the runner dies: end the whole tree now.
END_TREE = signal.SIGUSR2

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """A libc call; a failure becomes an OSError that names it."""
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    call("mount", *(s.encode() if s else None for s in (source, target, kind)), ctypes.c_ulong(flags), None)


def enter_namespaces(wanted: dict[str, bool]) -> None:
    """Unshare what ``wanted`` names; a user namespace keeps the caller's own ids."""
    uid, gid = os.geteuid(), os.getegid()
    flags = {"user": CLONE_NEWUSER, "mount": CLONE_NEWNS, "uts": CLONE_NEWUTS, "pid": CLONE_NEWPID}
    total = sum(flag for name, flag in flags.items() if wanted[name])
    if total:
        call("unshare", total)
    if wanted["user"]:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    if wanted["mount"]:
        mount(None, "/", None, MS_REC | MS_PRIVATE)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


class Mounter:
    """Gives the container its mounts; the host sees none of them and gains no file."""

    def __init__(self, scratch: str) -> None:
        # Reached through its parent's descriptor, since a mount may hide its path.
        self._parent_fd = os.open(os.path.dirname(scratch), os.O_PATH)
        self._scratch = os.path.basename(scratch)
        #: Trees that belong to the pod: its volumes, and folders made on a mirror.
        self._own: list[str] = []
        #: Folders replaced by a mirror: new entries in them are ours, the old ones the host's.
        self._mirrored: set[str] = set()

    def bind_all(self, mounts: list[dict[str, Any]]) -> None:
        """Bind each source on its target, outer targets first, as a container runtime does.

        Sources are opened before the first mount, since a mount may hide them.
        """
        opened = [(m, os.open(m["source"], os.O_PATH)) for m in mounts]
        for m, descriptor in sorted(opened, key=lambda pair: pair[0]["target"].count("/")):
            source = f"/proc/self/fd/{descriptor}"
            target = self.ensure(m["target"], directory=os.path.isdir(source))
            mount(source, target, None, MS_BIND | MS_REC)
            if m["read_only"]:
                self._make_read_only(target)
            self._own.append(target)
            os.close(descriptor)

    @staticmethod
    def _make_read_only(target: str) -> None:
        # A user namespace may not clear the flags that a mount was born with.
        born = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | born)

    def ensure(self, path: str, *, directory: bool) -> str:
        """The real path of ``path``, which exists afterwards, though not on the host."""
        real = os.path.realpath(path)
        if os.path.lexists(real):
            return real
        parent = real
        while not os.path.lexists(parent):
            parent = os.path.dirname(parent)
        if not any(parent == own or parent.startswith(own + "/") for own in self._own):
            if parent not in self._mirrored:
                self._mirror(parent)
            self._own.append("/".join(real.split("/")[: len(parent.rstrip("/").split("/")) + 1]))
        os.makedirs(real if directory else os.path.dirname(real), exist_ok=True)
        if not directory:
            _write(real, "")
        return real

    def _mirror(self, folder: str) -> None:
        """Replace ``folder`` by a tmpfs that shows the same entries and can take new ones."""
        os.fchdir(self._parent_fd)
        mount("tmpfs", self._scratch, "tmpfs", MS_NOSUID | MS_NODEV)
        os.chmod(self._scratch, 0o755)  # noqa: S103 - as the folder it stands for
        for entry in list(os.scandir(folder)):
            _mirror_entry(entry, f"{self._scratch}/{entry.name}")
        mirror = os.open(self._scratch, os.O_PATH)
        mount(self._scratch, folder, None, MS_MOVE)
        if folder == "/":
            os.fchdir(mirror)
            os.chroot(".")
        os.close(mirror)
        os.chdir("/")
        self._mirrored.add(folder)


def _mirror_entry(entry: "os.DirEntry[str]", copy: str) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), copy)
        return
    if entry.is_dir():
        os.mkdir(copy)
    else:
        _write(copy, "")
    # An entry that this user may not even look at stays behind, as an empty one.
    with contextlib.suppress(PermissionError):
        mount(entry.path, copy, None, MS_BIND | MS_REC)


def die_with_parent(parent: int, number: int) -> None:
    """Be sent ``number`` when the parent ends; ends now if it already has."""
    call("prctl", PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(137)


def descendants(pid: int) -> Iterator[int]:
    """Every living process below ``pid``."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return
    for child in children:
        yield child
        yield from descendants(child)


def end_tree() -> None:
    """SIGKILL every descendant until none is left; as subreaper this process gets them all."""
    while pids := list(descendants(os.getpid())):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0)[0]:
                pass


def watch_over(child: int) -> int:
    """Reap until ``child`` ends; its exit code, with 128 added to a signal's number."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def hand_on_signals(child: int) -> None:
    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, forward)


def run_command(spec: dict[str, Any], status_fd: int) -> NoReturn:
    """Become the container's main process."""
    try:
        die_with_parent(0, signal.SIGKILL)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        try:
            os.chdir(spec["cwd"])
        except OSError as error:
            refuse(status_fd, f'chdir to cwd ("{spec["cwd"]}") failed: {_words(error)}')
        execute(spec["argv"], spec["env"], status_fd)
    finally:
        os._exit(128)


def execute(argv: list[str], env: dict[str, str], status_fd: int) -> None:
    """execvpe with the container's own PATH; a failure is worded as runc words it."""
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606 - the container's command
    except FileNotFoundError:
        where = "no such file or directory" if "/" in argv[0] else "executable file not found in $PATH"
        refuse(status_fd, f'exec: "{argv[0]}": {where}')
    except OSError as error:
        refuse(status_fd, f'exec: "{argv[0]}": {_words(error)}')


def _words(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO).lower()


def refuse(status_fd: int, why: str) -> NoReturn:
    """Tell the runner why the container can't start, and end."""
    os.write(status_fd, json.dumps({"error": why}).encode())
    os._exit(128)


def prepare(spec: dict[str, Any]) -> None:
    """Namespaces, host name and mounts of the container."""
    enter_namespaces(spec["isolation"])
    if spec["isolation"]["uts"]:
        name = spec["hostname"].encode()
        call("sethostname", name, ctypes.c_size_t(len(name)))
    if spec["isolation"]["mount"]:
        mounter = Mounter(spec["scratch"])
        mounter.bind_all(spec["mounts"])
        mounter.ensure(spec["cwd"], directory=True)


def as_init(spec: dict[str, Any], status_fd: int, parent_lives: int) -> NoReturn:
    """PID 1 of the container's namespace, which can't see its parent's id."""
    die_with_parent(0, signal.SIGKILL)
    if select.select([parent_lives], [], [], 0)[0]:
        os._exit(137)
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        refuse(status_fd, f"mounting /proc: {error.strerror}")
    supervise_command(spec, status_fd)


def supervise_command(spec: dict[str, Any], status_fd: int) -> NoReturn:
    # Blocked across the fork, so that a SIGTERM finds either the handler or the pending set.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    child = os.fork()
    if child == 0:
        run_command(spec, status_fd)
    hand_on_signals(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.close(status_fd)
    _let_go_of_output()
    code = watch_over(child)
    if not spec["isolation"]["pid"]:
        end_tree()
    os._exit(code)


def _let_go_of_output() -> None:
    """Leave the command as the only writer of its output."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def end_now(_number: int, _frame: FrameType | None) -> None:
    end_tree()
    os._exit(137)


def main() -> NoReturn:
    """Read the specification, build the container, stay until its command ends."""
    spec_fd, status_fd = int(sys.argv[1]), int(sys.argv[2])
    with os.fdopen(spec_fd) as file:
        spec = json.load(file)
    os.set_inheritable(status_fd, False)
    try:
        prepare(spec)
    except OSError as error:
        refuse(status_fd, f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror))
    if not spec["isolation"]["pid"]:
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(END_TREE, end_now)
        die_with_parent(spec["runner_pid"], END_TREE)
        supervise_command(spec, status_fd)
    die_with_parent(spec["runner_pid"], signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    reader, writer = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(writer)
        as_init(spec, status_fd, reader)
    hand_on_signals(init)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.close(status_fd)
    _let_go_of_output()
    os._exit(watch_over(init))


if __name__ == "__main__":
    main()

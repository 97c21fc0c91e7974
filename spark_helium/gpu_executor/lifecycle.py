"""How a node's daemon is found, started once, and known to be alive.

One daemon serves one user and one configuration on a node. Its files lie in a directory that only the user can
enter, named by the configuration's identity::

    ID.sock    where it listens
    ID.start   locked by whoever is starting it (flock: threads exclude each other too)
    ID.alive   locked by the daemon as long as it lives (a record lock: forked children do not inherit it);
               holds its process id, which means nothing unless the lock is held, and "stopping" on its way out
    ID.json    what it was started with
    ID.log     what it said

A daemon that ends in order leaves only its log; what else is left is pruned a week later, when another starts.
A file lock, unlike a process id in a file, cannot be left behind by a process that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from spark_helium.conf import Settings, full_key
from spark_helium.errors import ConfigurationError, DaemonError, DaemonStartError
from spark_helium.gpu_executor.last_words import last_words, read_from, size_of
from spark_helium.gpu_executor.messages import PROTOCOL_VERSION, Owner

# Settings that make two daemons different. Others travel with each stream.
IDENTITY_SETTINGS = (
    "engine", "executor.memory", "executor.gpus", "modelDirectory", "cache.memory", "cache.directory", "kv.pin.budget",
)  # fmt: skip
IDENTITY_PREFIXES = ("vllm.", "openai.", "simulator.", "models.", "cache.disk.")

# Beginnings of the names of file systems that several nodes mount.
SHARED_FILE_SYSTEMS = (
    "nfs", "cifs", "smb", "afs", "lustre", "gpfs", "beegfs", "ceph", "gluster", "pvfs", "ocfs", "gfs", "panfs",
    "wekafs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.gluster", "fuse.ceph", "fuse.juicefs",
)  # fmt: skip

MAX_SOCKET_PATH = 100  # sun_path has 108 bytes on Linux and 104 on macOS
LOG_LIMIT = 8 << 20
KEEP_SECONDS = 7 * 86400  # how long the files of a dead daemon stay
_FILE = re.compile(r"([0-9a-f]{16})\.(?:sock|start|alive|json|log|log\.1|\d+\.tmp)")

# What Spark sets for its Python workers and must not reach the engine: secrets, and the limit of one thread.
_WORKER_VARIABLES = ("OMP_NUM_THREADS", "PYTHON_WORKER_FACTORY_SECRET", "PYTHON_WORKER_FACTORY_SOCK_DIR")

_children: list[subprocess.Popen[bytes]] = []  # started daemons, kept to reap the ones that ended


def package_version() -> str:
    """The installed version of spark_helium; "source" when it runs from a checkout."""
    try:
        return metadata.version("spark-helium")
    except metadata.PackageNotFoundError:
        return "source"


def identity(settings: Settings) -> str:
    """The name of the configuration's daemon: 16 hexadecimal digits."""
    relevant = {name: settings[name] for name in sorted(settings) if tells_apart(name)}
    for name in ("modelDirectory", "cache.directory"):
        if relevant[name]:
            relevant[name] = str(_absolute(name, relevant[name]))
    # A Python without vLLM must not meet the daemon of one that has it, nor the other way round.
    python = _python_identity(daemon_python(settings))
    text = json.dumps([PROTOCOL_VERSION, package_version(), python, relevant], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def on_gpus(settings: Settings, addresses: Sequence[str]) -> Settings:
    """The settings of the daemon for a task, or an executor, that Spark gave these GPUs; none: Spark gave none.

    The GPUs are part of what a daemon is: two executors of a node that have a GPU each have a daemon each. What the
    user chose (``executor.gpus``) stays, and endpoints alone need no GPU.
    """
    engines = {settings["engine"], *(model.engine for model in settings.models.values())}
    if not addresses or settings["executor.gpus"] or engines == {"openai"}:
        return settings
    ordered = sorted(set(addresses), key=lambda a: (int(a), a) if a.isdecimal() else (1 << 30, a))
    return Settings({**settings.to_text(), full_key("executor.gpus"): ",".join(ordered)})


def tells_apart(name: str) -> bool:
    """Whether two values of a setting mean two daemons. Other settings travel with each query."""
    return name in IDENTITY_SETTINGS or name.startswith(IDENTITY_PREFIXES)


def daemon_python(settings: Settings) -> str:
    """The Python that runs the configuration's daemon. Absolute, unless it is a name to be found on the path."""
    given = str(settings["executor.python"])
    return str(_absolute("executor.python", given)) if os.sep in given else given or sys.executable


def _python_identity(python: str) -> list[str]:
    """The same for all names of one Python (``python``, ``python3``), but not for two environments of one."""
    path = shutil.which(python) or python
    return [os.path.realpath(Path(path).parent), os.path.realpath(path)]


def _absolute(name: str, given: str) -> Path:
    """A path as the user means it: the daemon runs in another directory."""
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as e:
        raise ConfigurationError(f"{full_key(name)} = {given!r}: {e}; write the path in full") from e


@dataclass(frozen=True, slots=True)
class DaemonFiles:
    """Where one daemon's files are."""

    directory: Path
    identity: str

    @classmethod
    def of(cls, settings: Settings) -> DaemonFiles:
        """The files of the configuration's daemon; makes the directory.

        Raises
        ------
        DaemonStartError
            The directory is not private to the user, or cannot be made.
        """
        return cls(private_directory(settings), identity(settings))

    @property
    def socket(self) -> Path:
        return self.directory / f"{self.identity}.sock"

    @property
    def start_lock(self) -> Path:
        return self.directory / f"{self.identity}.start"

    @property
    def alive_lock(self) -> Path:
        return self.directory / f"{self.identity}.alive"

    @property
    def settings(self) -> Path:
        return self.directory / f"{self.identity}.json"

    @property
    def log(self) -> Path:
        return self.directory / f"{self.identity}.log"

    @property
    def location(self) -> str:
        return f"grpc+unix://{self.socket}"


def private_directory(settings: Settings) -> Path:
    """The directory of the user's daemons, made if need be and checked to be the user's alone."""
    given = settings["executor.directory"]
    directory = _absolute("executor.directory", given) if given else _default_directory()
    longest = len(os.fsencode(directory / ("0" * 16 + ".sock")))
    if longest > MAX_SOCKET_PATH:
        raise ConfigurationError(
            f"spark.helium.executor.directory = {str(directory)!r}: a socket in it has a path of {longest} bytes, and "
            f"the system takes {MAX_SOCKET_PATH}; choose a shorter directory"
        )
    try:
        directory.mkdir(mode=0o700, parents=bool(given), exist_ok=True)
        problem = privacy_problem(directory)
    except OSError as e:
        raise DaemonStartError(
            f"cannot make the directory {str(directory)!r} for the node's daemon: {e}; set "
            "spark.helium.executor.directory to one that you can write"
        ) from e
    if problem:
        raise DaemonStartError(
            f"refusing to use {str(directory)!r} for the node's daemon: {problem}. Set "
            "spark.helium.executor.directory to a new directory of your own, such as ~/.spark-helium; it is made "
            "with the right mode"
        )
    return directory


def privacy_problem(directory: Path) -> str:
    """Why the directory is not the user's alone; empty if it is. May raise OSError."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a directory"
    if status.st_uid != os.getuid():
        return f"it belongs to user {status.st_uid}, not to you ({os.getuid()})"
    if status.st_mode & 0o077:
        return f"others may enter it (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def cache_directory(settings: Settings) -> Path:
    """Where the prompt cache keeps answers on disk. Not made here.

    The directory is one node's. On a file system that other nodes may have as well it gets the node's name, because
    processes of several nodes must not write to one store.
    """
    given = settings["cache.directory"]
    if given:
        directory = _absolute("cache.directory", given)
    else:
        cache_home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        directory = Path(cache_home, "spark-helium", "prompt-cache")
    return directory / socket.gethostname() if _is_shared(directory) else directory


def _is_shared(directory: Path) -> bool:
    """Whether the file system, as far as its kind tells, may be another node's too."""
    import psutil

    path = directory.resolve()
    kinds = {}
    with contextlib.suppress(psutil.Error, OSError):
        kinds = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    for parent in (path, *path.parents):
        if parent in kinds:
            return kinds[parent].lower().startswith(SHARED_FILE_SYSTEMS)
    return False


def _default_directory() -> Path:
    name = f"helium-{os.getuid()}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    usable = runtime and os.access(runtime, os.W_OK | os.X_OK)
    base = Path(runtime if runtime and usable else tempfile.gettempdir())
    if len(os.fsencode(base / name)) + len("/0123456789abcdef.sock") > MAX_SOCKET_PATH:
        base = Path("/tmp")  # a job's own temporary directory can be too deep for a socket
    return base / name


def answers(path: Path) -> bool:
    """Whether something listens on the socket. Says nothing about whether it works: see client.ping."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(1.0)
        try:
            s.connect(str(path))
        except OSError:
            return False
    return True


def is_alive(files: DaemonFiles) -> bool:
    """Whether the daemon's process exists, be it starting, serving or stopping."""
    try:
        fd = os.open(files.alive_lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def process_of(files: DaemonFiles) -> int | None:
    """The process id of the daemon, if one is alive."""
    if not is_alive(files):
        return None
    words = _alive_words(files)
    return int(words[0]) if words else None


def is_stopping(files: DaemonFiles) -> bool:
    """Whether the daemon is on its way out."""
    return _alive_words(files)[1:] == ["stopping"]


def _alive_words(files: DaemonFiles) -> list[str]:
    try:
        return files.alive_lock.read_text().split()
    except FileNotFoundError:
        return []


def _is_same_file(fd: int, path: Path) -> bool:
    """Whether the path still leads to the open file: a lock on a file that was removed excludes nobody."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


class AliveLock:
    """Held by a daemon from before its socket exists until after it is gone."""

    def __init__(self, files: DaemonFiles) -> None:
        self._files = files
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._files.alive_lock, os.O_RDWR | os.O_CREAT, 0o600)

    def acquire(self, timeout: float = 10.0) -> bool:
        """Take the lock; a probe of :func:`is_alive` may hold it for a moment."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            else:
                if not _is_same_file(self._fd, self._files.alive_lock):  # its last holder removed it
                    os.close(self._fd)
                    self._fd = self._open()
                    continue
                self._write(str(os.getpid()))  # for whoever must end a daemon that hangs
                return True

    def mark_stopping(self) -> None:
        """Say that the daemon is on its way out."""
        self._write(f"{os.getpid()} stopping")

    def remove_files(self) -> None:
        """Remove all files of the daemon but its log; the last thing that a daemon does. The lock goes with them."""
        files = self._files
        files.socket.unlink(missing_ok=True)
        files.settings.unlink(missing_ok=True)
        with _unless_starting(files) as free:
            if free:
                files.start_lock.unlink(missing_ok=True)
        # Last: from here on another daemon may start and make them anew.
        files.alive_lock.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)


@contextlib.contextmanager
def starting(files: DaemonFiles, timeout: float) -> Iterator[None]:
    """Hold the lock under which the daemon is started.

    Raises
    ------
    DaemonStartError
        Another process held the lock for all of ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    fd = os.open(files.start_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same_file(fd, files.start_lock):
                    break
                os.close(fd)
                fd = os.open(files.start_lock, os.O_RDWR | os.O_CREAT, 0o600)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DaemonStartError(
                        f"another process has been starting the node's daemon for {timeout:.0f} s "
                        f"(spark.helium.executor.startTimeout). Run the query again later, or raise that setting; "
                        f"the daemon's log is {files.log}"
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _unless_starting(files: DaemonFiles) -> Iterator[bool]:
    """Whether nobody is starting the daemon; nobody begins to meanwhile."""
    fd = os.open(files.start_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = _is_same_file(fd, files.start_lock)
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(fd)


def prune(directory: Path) -> None:
    """Remove what daemons left that have been dead for a week: killed ones leave everything, others their log."""
    found: dict[str, list[Path]] = {}
    for path in directory.iterdir():
        if (match := _FILE.fullmatch(path.name)) is not None:
            found.setdefault(match.group(1), []).append(path)
    for name, paths in found.items():
        files = DaemonFiles(directory, name)
        with contextlib.suppress(OSError):  # somebody else may prune, too
            newest = max(path.lstat().st_mtime for path in paths)
            if time.time() - newest < KEEP_SECONDS or is_alive(files):
                continue
            with _unless_starting(files) as free:
                if free and not is_alive(files):
                    for path in [*paths, files.start_lock]:
                        path.unlink(missing_ok=True)


def ensure_daemon(
    settings: Settings,
    *,
    by_hand: bool = False,
    stays: bool = False,
    models: tuple[str, ...] = (),
    owner: Owner | None = None,
) -> DaemonFiles:
    """The files of a daemon that serves; starts one if there is none. Of many callers at once, one starts it.

    ``by_hand``, ``stays``, ``owner``: see :class:`~spark_helium.gpu_executor.daemon.Daemon`.

    Raises
    ------
    DaemonStartError
        It did not come up; the message ends with its own last words.
    """
    from spark_helium.gpu_executor.client import ping

    files = DaemonFiles.of(settings)
    timeout = settings["executor.startTimeout"] / 1000
    deadline = time.monotonic() + timeout
    if ping(files):
        return files
    with starting(files, timeout):
        while not ping(files):
            if not is_alive(files):
                _spawn(settings, files, deadline, by_hand, stays, models, owner)
                return files
            # It is on its way up, or on its way out.
            if time.monotonic() > deadline:
                raise DaemonStartError(
                    f"the node's daemon exists but did not answer for {timeout:.0f} s "
                    f"(spark.helium.executor.startTimeout); look at {files.log}, then end it with `spark-helium stop`, "
                    f"or with `spark-helium stop --kill`, and run the query again. Its "
                    f"last words:\n{last_words(read_from(files.log, 0))}"
                )
            time.sleep(0.05)
    return files


def reap() -> None:
    """Let go of the daemons that this process started and that have ended."""
    _children[:] = [child for child in _children if child.poll() is None]


def _spawn(
    settings: Settings,
    files: DaemonFiles,
    deadline: float,
    by_hand: bool,
    stays: bool,
    models: tuple[str, ...],
    owner: Owner | None,
) -> None:
    from spark_helium.gpu_executor.client import ping

    reap()
    prune(files.directory)
    write_settings(settings, files)
    python = daemon_python(settings)
    command = [python, "-m", "spark_helium.gpu_executor.daemon", "--directory", str(files.directory)]
    command += ["--identity", files.identity]
    command += ["--by-hand"] if by_hand else []
    command += ["--stays"] if stays else []
    command += [argument for model in models for argument in ("--model", model)]
    command += [] if owner is None else ["--owner", str(owner.pid), str(owner.created)]
    if size_of(files.log) > LOG_LIMIT:
        files.log.replace(files.log.with_suffix(".log.1"))
    offset = size_of(files.log)
    with os.fdopen(os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(settings, os.environ),
                start_new_session=True,
            )
        except OSError as e:
            raise DaemonStartError(
                f"cannot run {python!r} for the node's daemon: {e}; set spark.helium.executor.python to a Python that "
                "has spark_helium and an engine"
            ) from e
    _children.append(child)
    pause = 0.01
    while not ping(files):
        code = child.poll()
        if code is None and time.monotonic() > deadline:
            child.kill()
            child.wait()
            how = (
                f"did not answer within {settings['executor.startTimeout'] / 1000:.0f} s and was ended; if it only "
                "needs longer on this machine, raise spark.helium.executor.startTimeout"
            )
            raise DaemonStartError(_did_not_start(how, python, files, offset))
        if code is not None:
            how = f"ended with status {code}" if code >= 0 else f"was killed by signal {-code}"
            raise DaemonStartError(_did_not_start(how, python, files, offset))
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)


def _did_not_start(how: str, python: str, files: DaemonFiles, offset: int) -> str:
    words = last_words(read_from(files.log, offset)) or "(it said nothing)"
    return f"the node's daemon, run by {python}, {how}. Its whole log is {files.log}. Its last words:\n{words}"


def write_settings(settings: Settings, files: DaemonFiles) -> None:
    """Leave the settings for the daemon's process to read."""
    temporary = files.settings.with_suffix(f".{os.getpid()}.tmp")
    # With the Python that runs it, because that is part of what the daemon is; paths absolute, as its directory is /.
    text = settings.to_text() | {full_key("executor.python"): daemon_python(settings)}
    for name in ("executor.directory", "modelDirectory", "cache.directory"):
        if settings[name]:
            text[full_key(name)] = str(_absolute(name, settings[name]))
    temporary.write_text(json.dumps(text, indent=1))
    temporary.replace(files.settings)


def _environment(settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    environment = dict(given)
    if settings["executor.gpus"]:
        environment["CUDA_VISIBLE_DEVICES"] = settings["executor.gpus"]
        # Discovery scripts ask nvidia-smi, which numbers by the bus; CUDA by itself puts the fastest first.
        environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if "PYTHON_WORKER_FACTORY_SECRET" in given or "PYTHON_WORKER_FACTORY_SOCK_DIR" in given:
        for name in _WORKER_VARIABLES:
            environment.pop(name, None)
    if settings["executor.python"]:
        # Spark's path belongs to Spark's Python; the daemon's Python has its own packages.
        environment.pop("PYTHONPATH", None)
        environment.pop("PYTHONHOME", None)
    else:
        import spark_helium

        parent = str(Path(spark_helium.__file__).absolute().parent.parent)
        paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path != parent]
        environment["PYTHONPATH"] = os.pathsep.join([*paths, parent])
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


_owner: tuple[int, Owner | None] = (0, None)


def find_owner() -> Owner | None:
    """The nearest ``java`` process above this one: the JVM that this Spark worker works for."""
    global _owner
    if _owner[0] == os.getpid():
        return _owner[1]
    import psutil

    found = None
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            if process.name().startswith("java"):
                found = Owner(process.pid, process.create_time())
                break
    _owner = (os.getpid(), found)
    return found


def owner_lives(owner: Owner) -> bool:
    """Whether the process still runs, and is the same one."""
    import psutil

    try:
        process = psutil.Process(owner.pid)
        return abs(process.create_time() - owner.created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def read_settings(files: DaemonFiles) -> Settings | None:
    """What the daemon was started with; None if that is not known."""
    try:
        return Settings(json.loads(files.settings.read_text()))
    except (OSError, ValueError):  # gone meanwhile, or of another version of this package
        return None


def known_daemons(directory: Path) -> list[DaemonFiles]:
    """Files of every daemon that runs from the directory."""
    found = [DaemonFiles(directory, path.stem) for path in sorted(directory.glob("*.alive"))]
    return [files for files in found if is_alive(files)]


def wait_until_gone(files: DaemonFiles, timeout: float) -> None:
    """Wait for a stopping daemon's process to end.

    Raises
    ------
    DaemonError
        It is still there after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while is_alive(files):
        if time.monotonic() > deadline:
            raise DaemonError(f"daemon {files.identity} did not stop within {timeout:.0f} s; see {files.log}")
        time.sleep(0.05)

"""Prepare each file: read, capture, de-identify, stage.

It runs in the uploader's process or in worker processes; results are small and picklable.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, config

from deid_hooks import (
    Changes,
    DeidHooksError,
    Pseudonyms,
    Snapshot,
    Stamp,
    UnusableDataset,
    changes,
    stamp,
)
from deid_hooks.batches import split_batches
from deid_hooks.dicom.comparison import LARGE_VALUES
from deid_hooks.dicom.difference import NotKept
from deid_hooks.dicom.elements import Layout, read_layout
from deid_hooks.dicom.part10 import (
    capture_file,
    correct_syntax,
    list_changed,
    note_encoding,
    pad_odd,
    read_dicom,
    refuse_altered,
    refuse_invalid,
    refuse_without_pixels,
    write_dicom,
)
from deid_hooks.engines import Engine, find_failed_element, make_engine, renew_file_meta


@dataclass(frozen=True, slots=True)
class Work:
    """How files are de-identified, and into which folder, with how many processes.

    ``large_values`` is the number of bytes up to which a value is kept, ``not_kept`` what becomes
    of a file with a larger one.
    """

    engine: str
    pseudonyms: Pseudonyms
    fields: Sequence[str]
    staging: Path
    jobs: int = 1
    large_values: int = LARGE_VALUES
    not_kept: NotKept = "refuse"


@dataclass(frozen=True, slots=True)
class Staged:
    """A file that was de-identified: its changes, and the path of the result.

    ``marked``: its attributes say that identity was removed, and how.
    """

    path: Path
    staged: Path
    changes: Changes
    study_uid: str
    series_uid: str
    marked: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that can't leave, and why, without a value of it.

    ``transient``: the reason is not in the file, and may be gone with the next run. Then the whole
    series is refused: logged in parts it would be logged again when it is whole.
    """

    path: Path
    reason: str
    transient: bool = False


class _NoRoom(UnusableDataset):
    """The temporary folder doesn't take what was de-identified."""


class Preparer:
    """An engine and the fields of the log, for any number of files."""

    def __init__(self, work: Work) -> None:
        self._engine: Engine = make_engine(work.engine, work.pseudonyms)
        self._work = work

    def prepare(self, path: Path) -> Staged | Refused:
        """De-identify one file into the staging folder, or return why it can't leave."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            try:
                with ExitStack() as stack:
                    with _explain("it can't be read"):
                        file = stack.enter_context(path.open("rb"))
                        _refuse_too_large(file)
                        dataset, layout = read_dicom(file)
                        refuse_without_pixels(layout)
                        original = capture_file(dataset, layout)
                    correct_syntax(dataset, layout.header)
                    return self._prepare(path, dataset, original, layout)
            except UnusableDataset as error:
                return Refused(path, str(error), isinstance(error, _NoRoom))

    def _prepare(self, path: Path, dataset: Dataset, original: Snapshot, source: Layout) -> Staged:
        with _explain(f"the engine {self._work.engine} failed on it"):
            self._engine(dataset)
            _complete_file_meta(dataset)
            pad_odd(dataset, source)
        with _explain("what the engine made of it can't be compared"):
            work = self._work
            changed = changes(original, dataset, work.fields, work.large_values, work.not_kept)
            note_encoding(changed, source.header)
        with _explain("what the engine made of it can't be written"):
            staged = self._stage(dataset, source, changed)
            study, series = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
            marked = _is_marked(dataset)
        return Staged(path, staged, changed, str(study), str(series), marked)

    def _stage(self, dataset: Dataset, source: Layout, changed: Changes) -> Path:
        """Write a file, and see that it can be read and that only what is logged has changed."""
        staged = self._work.staging / f"{os.getpid()}-{os.urandom(8).hex()}.dcm"
        try:
            descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w+b") as file:
                write_dicom(dataset, file, source.header.encoding)
                written = read_layout(file)
                refuse_invalid(written)
                refuse_altered(source, written, list_changed(changed.originals))
        except BaseException as error:
            staged.unlink(missing_ok=True)
            if why := _find_system_error(error):
                what = f"the temporary folder {self._work.staging.parent} doesn't take it: {why}"
                raise _NoRoom(what) from None
            raise
        return staged


def restage(staged: Path, log_id: str, kind: Stamp) -> None:
    """Put the log id into a file that waits. Raises UnusableDataset if that fails."""
    with warnings.catch_warnings(action="ignore"), _explain("the log id can't be put into it"):
        with staged.open("rb") as file:
            dataset, layout = read_dicom(file)
        stamp(dataset, log_id, kind)
        with staged.open("w+b") as file:
            write_dicom(dataset, file, layout.header.encoding)
            refuse_invalid(read_layout(file))


def _complete_file_meta(dataset: Dataset) -> None:
    """Make file meta information that the engine left out: a file has none without it."""
    meta = getattr(dataset, "file_meta", None) or {}
    if not getattr(dataset, "preamble", None) or "TransferSyntaxUID" not in meta:
        renew_file_meta(dataset)


def _is_marked(dataset: Dataset) -> bool:
    """Return whether it says Patient Identity Removed, and how (PS3.15, section E.1.1)."""
    how = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    return "PatientIdentityRemoved" in dataset and any(dataset.get(name) for name in how)


@contextmanager
def _explain(what: str) -> Iterator[None]:
    """Raise UnusableDataset for whatever fails: what it was, and never the error's text."""
    try:
        yield
    except DeidHooksError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001
        why = _find_system_error(error) or type(error).__name__
        where = find_failed_element(error)
        at = f" at {where}" if where else ""
        raise UnusableDataset(f"{what}{at}: {why}") from None


def _refuse_too_large(file: BinaryIO) -> None:
    """Raise UnusableDataset for a file that the memory of this machine can't hold twice.

    It is read and written whole; a process that takes more is killed by the system, in silence.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = os.fstat(file.fileno()).st_size
    if size > memory // 2:
        raise UnusableDataset(
            f"it has {size >> 20} MiB, and this machine's {memory >> 20} MiB of memory don't hold"
            " it twice: upload it from a larger one"
        )


def _find_system_error(error: BaseException | None) -> str:
    """Return the system's error, which pydicom wraps in its own; empty if there is none."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno).lower()
        error = error.__cause__
    return ""


_make_preparer: Callable[[], Preparer] | None = None


def begin(work: Work) -> None:
    """Make a worker process ready."""
    global _make_preparer
    threading.Thread(target=_end_with_the_uploader, daemon=True).start()
    be_quiet_and_fast()
    # Made by the first call: what is raised here would be printed as it is, and not handled.
    _make_preparer = cache(lambda: Preparer(work))


def _end_with_the_uploader() -> None:
    """End this process with the uploader: without it, it would wait for work for ever."""
    uploader = parent_process()
    if uploader is not None:
        uploader.join()
        os._exit(1)


def prepare_in_worker(paths: Sequence[Path]) -> list[Staged | Refused]:
    """Prepare some files in a worker process that :func:`begin` made ready."""
    assert _make_preparer is not None
    preparer = _make_preparer()
    return [preparer.prepare(path) for path in paths]


def be_quiet_and_fast() -> None:
    """Silence pydicom, whose log lines and warnings quote values, and collect less garbage.

    Garbage collection takes a third of the time of a pydicom job, over objects that live as long as
    the process. Only for a process that is ours alone.
    """
    config.logger.disabled = True
    warnings.simplefilter("ignore")
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


_PREFIX = "deid-hooks-staging-"
_LOCK = ".lock"
_TRIES, _PAUSE = 20, 0.05


@contextmanager
def staging_folder() -> Iterator[Path]:
    """Make a folder in the system's temporary folder (``TMPDIR``), and remove it in every case.

    Raises DeidHooksError if there can't be one.
    """
    try:
        remove_abandoned()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            lock = _lock(folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        where = f" in {Path(error.filename).parent}" if error.filename else ""
        raise DeidHooksError(
            f"There can't be a temporary folder{where} for de-identified files:"
            f" {str(error.strerror).lower()}. Make room there, or let TMPDIR name another folder."
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a plugin may have closed it, which is reported elsewhere
            os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a folder as one in use, and return the descriptor that holds the lock."""
    new = folder / ".new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(folder / _LOCK)  # it is never there without being held
    return lock


def remove_abandoned() -> None:
    """Remove staging folders of ours whose process is gone: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid() or folder.is_symlink():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for _ in range(_TRIES):  # a worker that has yet to notice may write there meanwhile
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    break
                time.sleep(_PAUSE)
        except OSError:
            pass  # in use
        finally:
            os.close(lock)


_CHUNK = 16
"""Files that a worker process takes at a time."""


def prepare_series(
    work: Work, series: Iterable[Sequence[Path]]
) -> Generator[list[Staged | Refused], None, None]:
    """Yield each series with its files de-identified, or refused, in its order.

    Close it before the staging folder is removed: its processes write there until then.
    Raises SettingsError for an engine that isn't there, DeidHooksError if a process dies.
    """
    if work.jobs == 1:
        preparer = Preparer(work)
        for paths in series:
            yield [preparer.prepare(path) for path in paths]
        return
    with _ignore_current_folder():  # the pool begins a process of its own, which tracks resources
        workers = ProcessPoolExecutor(
            work.jobs,
            mp_context=get_context("spawn"),  # a forked child would inherit the log's connection
            initializer=begin,
            initargs=(work,),
        )
    with workers as pool:
        try:
            yield from _yield_in_order(pool, series, ahead=2 * work.jobs)
        except BrokenProcessPool:
            raise DeidHooksError(
                "A worker process died; what was not sent yet is not sent. Run the upload again."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _yield_in_order(
    pool: ProcessPoolExecutor, series: Iterable[Sequence[Path]], ahead: int
) -> Iterator[list[Staged | Refused]]:
    """Yield series after series; workers are at most some chunks ahead: staging takes room."""
    waiting: deque[list[Future[list[Staged | Refused]]]] = deque()
    for paths in series:
        with _block_interrupts(), _ignore_current_folder():
            chunks = split_batches(paths, _CHUNK)
            waiting.append([pool.submit(prepare_in_worker, chunk) for chunk in chunks])
        while sum(map(len, waiting)) > ahead:
            yield _gather(waiting.popleft())
    while waiting:
        yield _gather(waiting.popleft())


@contextmanager
def _ignore_current_folder() -> Iterator[None]:
    """Keep processes that begin within from importing modules of the folder that is worked in.

    A worker begins as ``python -c``, which looks there first. Only while they begin: a command that
    ``exec`` runs looks for its modules where it always does.
    """
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _block_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that begin within: they end with the uploader, in silence.

    A terminal interrupts them too, even while they import, and Python prints a traceback in each.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _gather(futures: Iterable[Future[list[Staged | Refused]]]) -> list[Staged | Refused]:
    return [each for future in futures for each in future.result()]

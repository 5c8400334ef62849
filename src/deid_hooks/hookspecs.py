"""The hooks that a plugin may implement, and the events that they get.

    from deid_hooks import hookimpl

    class Quota:
        @hookimpl
        def pre_upload(self, event):
            if full():
                return "the trial has all the images it needs"

A plugin is a module, an object or a class without arguments, found by an entry point in the group
``deid_hooks``. Each hook takes one argument, ``event``. Hooks are called in a thread of their own,
one plugin after the other, several acquisitions possibly at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pluggy

from deid_hooks.records.model import Entry

PROJECT_NAME = "deid_hooks"
HOOKS = ("post_deid", "pre_upload", "post_upload")

hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


@dataclass(frozen=True, slots=True)
class PostDeid:
    """An acquisition was de-identified. ``entry`` holds originals and is hidden from ``repr``.

    ``not_kept`` names what changed and is not in the log: pixel data, values too large to keep.
    ``reused`` says that the log held this entry already, from an earlier attempt.
    """

    log_id: str
    project: str
    uploader: str
    entry: Entry = field(repr=False)
    not_kept: tuple[str, ...] = ()
    reused: bool = False


@dataclass(frozen=True, slots=True)
class PreUpload:
    """An acquisition is about to be sent to ``destination``."""

    log_id: str
    destination: str
    uploader: str


@dataclass(frozen=True, slots=True)
class PostUpload:
    """An acquisition was sent: its outcome is ``uploaded``, ``partial`` or ``failed``.

    ``missing`` holds the de-identified SOP Instance UIDs that were not delivered.
    """

    log_id: str
    destination: str
    uploader: str
    outcome: str
    missing: tuple[str, ...] = ()


class Hookspecs:
    """The three hooks of an upload."""

    def post_deid(self, event: PostDeid) -> None:
        """An acquisition was de-identified and its entry is durable. Raise to stop the upload."""

    def pre_upload(self, event: PreUpload) -> str | None:
        """An acquisition is about to be sent. Return a reason to refuse, or None.

        Every reason is collected; anything but None refuses, and so does any exception.
        """

    def post_upload(self, event: PostUpload) -> None:
        """An acquisition was sent. A notification: an exception is reported, never raised."""

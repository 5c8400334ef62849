"""The commands ``check``, ``init``, ``config``, ``plugins`` and ``stats``."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_hooks.cli.context import FAILED, check_log, open_hooks
from deid_hooks.cli.output import Format, FormatOption, choose_format, put, say, write_rows
from deid_hooks.errors import DeidHooksError

if TYPE_CHECKING:
    from deid_hooks.hooks import DeidHooks
    from deid_hooks.plugins import Found

_STATES = ["uploaded", "partial", "failed", "pending", "withdrawn"]
_SECONDS_TO_UPGRADE = 24 * 3600.0


def check(context: typer.Context) -> None:
    """Say whether an upload could be logged now. Exit code 0, or 69 with what is wrong.

    \b
    deid-hooks check && my-uploader ...
    """
    from deid_hooks.settings import mask_passwords

    with open_hooks(context) as hooks:
        check_log(hooks)
        put(f"The log can be written: {mask_passwords(hooks.settings.url)}")


def init(
    context: typer.Context,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring an older log to this version first.")
    ] = False,
) -> None:
    """Make the site secret and the log where there are none. Touches nothing that exists.

    Copy the secret, by a safe way, to every machine that shares this log.

    \b
    deid-hooks --url sqlite:////srv/deid/log.db init
    """
    from deid_hooks.records.keys import VARIABLE
    from deid_hooks.settings import mask_passwords

    with open_hooks(context) as hooks:
        if upgrade:
            _upgrade(hooks)
        hooks.init()
        secret = hooks.settings.secret_file
        put(f"log     {mask_passwords(hooks.settings.url)}")
        put(f"secret  {f'of the variable {VARIABLE}' if os.environ.get(VARIABLE) else secret}")


def rotate(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="Why: kept in the access trail.")],
    lost: Annotated[
        bool, typer.Option("--lost", help="A key, or the whole secret, was lost: go on without it.")
    ] = False,
    release_blocks: Annotated[
        bool,
        typer.Option(
            "--release-blocks",
            help="Lift the blocks of which nobody can tell for whom they are: their key was lost.",
        ),
    ] = False,
) -> None:
    """Write with a new key from now on. The keys of before stay, to read and to find with.

    Copy the secret file, by a safe way, to every machine that shares this log: until then they
    refuse uploads. Labels and UIDs of projects stay what they are.

    \b
    deid-hooks rotate --reason 'every year'
    deid-hooks rotate --lost --reason 'the disk with the secret failed'
    """
    from deid_hooks.admin import rotation

    if not reason.strip():
        raise typer.BadParameter("say why: --reason TEXT")
    with open_hooks(context) as hooks:
        if release_blocks:
            count = rotation.release(hooks.gate.open_log(), reason)
            put(f"Lifted: {count} blocks. Block anew who must stay blocked.")
            return
        if lost:
            keys = rotation.replace_lost(hooks.settings, reason)
            put(f"{len(keys)} keys of the log were lost.")
            name = hooks.gate.open_log().keyring.newest.name
            _list_unmatched(hooks)
        else:
            name = rotation.rotate(hooks.gate.open_log(), reason)
        put(f"key     {name}")
        put(f"secret  {hooks.settings.secret_file}")


def _list_unmatched(hooks: DeidHooks) -> None:
    """Name the blocks of which nobody can tell for whom they are, and what to do."""
    blocks = hooks.gate.open_log().list_unmatched()
    rows = ({**dataclasses.asdict(block), "at": block.at[:19]} for block in blocks)
    if write_rows(rows, ["at", "who", "project", "reason"], None, "at"):
        say(
            "Nobody can tell for whom these blocks are, and nothing is uploaded until an"
            " administrator has: block those patients anew with deid-hooks block --patient-id, then"
            " lift these with deid-hooks rotate --release-blocks."
        )


def _upgrade(hooks: DeidHooks) -> None:
    done = hooks.gate.open_log().upgrade(_SECONDS_TO_UPGRADE)
    put(f"upgraded {done}" if done else "There is nothing to upgrade.")


def config(context: typer.Context, form: FormatOption = None) -> None:
    """Print each setting and where it came from, passwords masked.

    \b
    deid-hooks config
    """
    from deid_hooks.settings import KEYS, load_settings, mask_passwords

    settings = load_settings(url=context.obj.url)
    rows = []
    for key in KEYS:
        value = getattr(settings, key)
        text = " ".join(map(str, value)) if isinstance(value, tuple | dict) else str(value)
        text = "all" if value is None else mask_passwords(text) if key == "url" else text
        rows.append({"setting": key, "value": text, "from": settings.origins[key]})
    write_rows(rows, ["setting", "from", "value"], form, "setting")


def plugins(context: typer.Context, form: FormatOption = None) -> None:
    """List plugins, backends, engines, destinations and commands, and whether they work.

    It always runs. Exit code 1 if one that is wanted doesn't work: then nothing can be uploaded.

    \b
    deid-hooks plugins
    """
    columns = ["kind", "name", "distribution", "state"]
    rows = [dict(zip(columns, row, strict=True)) for row in _list_parts(context)]
    write_rows(rows, columns, form, "name")
    if any(row["state"].startswith("FAILED") for row in rows):
        raise typer.Exit(FAILED)


def _list_parts(context: typer.Context) -> Iterator[tuple[str, str, str, str]]:
    """Yield kind, name, distribution and state of everything that is installed."""
    from deid_hooks.plugins import BACKENDS, GROUP, KINDS, find_all
    from deid_hooks.settings import load_settings

    disabled: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    scheme = ""
    try:
        settings = load_settings(url=context.obj.url)
        disabled, allowed = settings.disabled_plugins, settings.allowed_plugins
        scheme = settings.url.partition(":")[0]
    except DeidHooksError as error:
        yield "settings", "", "", f"FAILED: {error}"
    state = f"writes to {scheme}" if scheme != "none" else "switched OFF (url none:)"
    yield "log", scheme, "deid-hooks", state
    own = getattr(context.find_root().command, "commands", ())
    for group, kind in KINDS.items():
        for each in find_all(group):
            used = group == BACKENDS and each.name == scheme
            state = "loaded" if group == GROUP else "in use" if used else "installed"
            if group == GROUP and each.name in disabled:
                state = "disabled"
            elif failure := _find_failure(each, group, own, allowed):
                state = f"FAILED: {failure}"
            yield kind, each.name, each.distribution, state


def _find_failure(
    each: Found, group: str, own: Collection[str], allowed: Collection[str] | None
) -> str:
    """Return what is wrong with a part; ``""`` if nothing is."""
    import pluggy

    from deid_hooks.cli import make_command
    from deid_hooks.plugins import (
        COMMANDS,
        GROUP,
        PROJECT_NAME,
        find_commands,
        find_installed,
        mark_specs,
        refuse_plugin,
        register,
    )

    try:
        if group == COMMANDS:
            find_commands(own)
            make_command(each)
            return ""
        find_installed(group)
        if group == GROUP:
            refuse_plugin(each, allowed)
        loaded = each.load()
        if group == GROUP:
            manager = pluggy.PluginManager(PROJECT_NAME)
            manager.add_hookspecs(mark_specs(PROJECT_NAME))
            register(manager, loaded, each.name)
    except DeidHooksError as error:
        return str(error)
    return ""


def stats(context: typer.Context, form: FormatOption = None) -> None:
    """Show the log in numbers: entries, patients, access, and what is at each destination.

    \b
    deid-hooks stats
    """

    with open_hooks(context) as hooks:
        found = hooks.gate.open_log().statistics()
    numbers: list[dict[str, Any]] = [
        *({"what": name, "count": count} for name, count in found.counts.items()),
        {"what": "first entry", "count": found.first[:10]},
        {"what": "last entry", "count": found.last[:10]},
    ]
    destinations: dict[str, Counter[str]] = {}
    for destination, event, count in found.copies:
        state = "pending" if event == "cleared" else event
        destinations.setdefault(destination, Counter())[state] += count
    if choose_format(form) is not Format.TABLE:
        numbers += [
            {"what": f"{state} at {destination}", "count": count}
            for destination, states in destinations.items()
            for state, count in states.items()
        ]
        write_rows(numbers, ["what", "count"], form, "what")
        return
    for row in numbers:
        put(f"{row['what']:<12} {row['count']}")
    if destinations:
        put()
        rows = [{"destination": name, **states} for name, states in sorted(destinations.items())]
        used = [state for state in _STATES if any(state in row for row in rows)]
        write_rows(rows, ["destination", *used], form, "destination")

"""Setting up and looking after: ``check``, ``plugins``, ``config`` and ``init``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import typer

from deid_hooks.cli.context import FAILED, WRONG_USE, check_log, open_hooks
from deid_hooks.cli.output import Format, FormatOption, chosen, write_rows
from deid_hooks.errors import DeidHooksError


def check(context: typer.Context) -> None:
    """Say whether an upload could be logged now. Exit code 0, or 69 with what is wrong.

    \b
    deid-hooks check && my-uploader ...
    """
    from deid_hooks.settings import mask_passwords

    with open_hooks(context) as hooks:
        check_log(hooks)
        typer.echo(f"The log can be written: {mask_passwords(hooks.settings.url)}")


def init(context: typer.Context) -> None:
    """Make the site secret and the log where there are none. Touches nothing that exists.

    Copy the secret, by a safe way, to every machine that shares this log.

    \b
    deid-hooks --url sqlite:////srv/deid/log.db init
    """
    from deid_hooks.settings import mask_passwords

    with open_hooks(context) as hooks:
        hooks.init()
        typer.echo(f"log     {mask_passwords(hooks.settings.url)}")
        typer.echo(f"secret  {hooks.settings.secret_file}")


def serve(context: typer.Context) -> None:
    """Serve the log over HTTP, for many uploaders. Takes the options of deid-hooks-service serve.

    \b
    deid-hooks serve --host 127.0.0.1 --port 8470
    """
    from deid_hooks.plugins import COMMANDS, find_installed

    found = find_installed(COMMANDS).get("serve")
    if found is None:
        typer.echo("To serve the log, install deid-hooks-service.", err=True)
        raise typer.Exit(WRONG_USE)
    given = [] if context.obj.url is None else ["--url", context.obj.url]
    found.load()([*given, *context.args])


def config(context: typer.Context, form: FormatOption = None) -> None:
    """Print each setting and where it came from, passwords masked.

    \b
    deid-hooks config
    """
    from deid_hooks.settings import KEYS, load_settings, mask_passwords

    settings = load_settings(url=context.obj.url)
    rows = [
        {
            "setting": key,
            "value": mask_passwords(settings.url)
            if key == "url"
            else _plain(getattr(settings, key)),
            "from": settings.origins[key],
        }
        for key in KEYS
    ]
    write_rows(rows, ["setting", "from", "value"], form, "setting")


def plugins(context: typer.Context, form: FormatOption = None) -> None:
    """List plugins, backends and engines, and whether they work. Always runs.

    Exit code 1 if one that is wanted doesn't work: then nothing can be uploaded.

    \b
    deid-hooks plugins
    """
    rows = list(_rows(context))
    write_rows(rows, ["kind", "name", "distribution", "state"], form, "name")
    if any(row["state"].startswith("FAILED") for row in rows):
        raise typer.Exit(FAILED)


def _rows(context: typer.Context) -> Iterator[dict[str, str]]:
    from deid_hooks.plugins import BACKENDS, ENGINES, GROUP, Found, find_all
    from deid_hooks.settings import load_settings

    disabled: tuple[str, ...] = ()
    scheme = ""
    try:
        settings = load_settings(url=context.obj.url)
        disabled, scheme = settings.disabled_plugins, settings.url.partition(":")[0]
    except DeidHooksError as error:
        yield {"kind": "settings", "name": "", "distribution": "", "state": f"FAILED: {error}"}

    def row(kind: str, each: Found, state: str) -> dict[str, str]:
        return {
            "kind": kind,
            "name": each.name,
            "distribution": each.distribution,
            "state": state,
        }

    yield {
        "kind": "recorder",
        "name": "recorder",
        "distribution": "deid-hooks",
        "state": f"writes to {scheme}" if scheme != "none" else "switched OFF (url none:)",
    }
    for each in find_all(GROUP):
        state = "disabled" if each.name in disabled else _state(each, GROUP)
        yield row("plugin", each, state)
    for each in find_all(BACKENDS):
        used = "in use" if each.name == scheme else "installed"
        yield row("backend", each, _state(each, BACKENDS) or used)
    for each in find_all(ENGINES):
        yield row("engine", each, _state(each, ENGINES) or "installed")


def _state(each: object, group: str) -> str:
    """What is wrong with it; for a plugin ``loaded`` if nothing is, else nothing."""
    import pluggy

    from deid_hooks.hookspecs import PROJECT_NAME
    from deid_hooks.plugins import GROUP, Found, find_installed, mark_specs, register

    assert isinstance(each, Found)
    try:
        find_installed(group)
        loaded = each.load()
        if group != GROUP:
            return ""
        manager = pluggy.PluginManager(PROJECT_NAME)
        manager.add_hookspecs(mark_specs(PROJECT_NAME))
        register(manager, loaded, each.name)
    except DeidHooksError as error:
        return f"FAILED: {error}"
    return "loaded"


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


_STATES = ["uploaded", "partial", "failed", "pending", "withdrawn"]


def stats(context: typer.Context, form: FormatOption = None) -> None:
    """Show the log in numbers: entries, patients, looks, and what is at each destination.

    \b
    deid-hooks stats
    """

    with open_hooks(context) as hooks:
        found = hooks.open_log().statistics()
    numbers: list[dict[str, Any]] = [
        *({"what": name, "count": count} for name, count in found.counts.items()),
        {"what": "first entry", "count": found.first[:10]},
        {"what": "last entry", "count": found.last[:10]},
    ]
    destinations: dict[str, Counter[str]] = {}
    for destination, event, count in found.copies:
        state = "pending" if event == "cleared" else event
        destinations.setdefault(destination, Counter())[state] += count
    if chosen(form) is not Format.TABLE:
        for destination, states in destinations.items():
            numbers += [
                {"what": f"{state} at {destination}", "count": count}
                for state, count in states.items()
            ]
        write_rows(numbers, ["what", "count"], form, "what")
        return
    for row in numbers:
        print(f"{row['what']:<12} {row['count']}")
    if destinations:
        print()
        rows = [{"destination": name, **states} for name, states in sorted(destinations.items())]
        used = [state for state in _STATES if any(state in row for row in rows)]
        write_rows(rows, ["destination", *used], form, "destination")

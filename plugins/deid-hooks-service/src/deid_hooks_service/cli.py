"""The commands ``serve`` and ``token``, of ``deid-hooks`` and of ``deid-hooks-service``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deid_hooks.errors import SettingsError

app = typer.Typer(
    help="Put the de-id log of a site behind HTTP, for many uploaders.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
token_app = typer.Typer(help="Make, list and revoke tokens.", no_args_is_help=True)
app.add_typer(token_app, name="token")


class Role(StrEnum):
    """What a token lets its holder do."""

    POST = "post"
    UPLOAD = "upload"
    SEARCH = "search"
    REIDENTIFY = "reidentify"
    AUDITOR = "auditor"
    ADMIN = "admin"


TokensOption = Annotated[
    Path | None, typer.Option(help="The file of tokens; beside the settings without it.")
]


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8470,
    url: Annotated[str | None, typer.Option(help="Where the log is, as in the settings.")] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file: the certificate, and what leads to its CA.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file: the key of the certificate.")
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Insist on HTTP without TLS beyond this machine.")
    ] = False,
    flywheel_site: Annotated[
        str, typer.Option(help="URL of the Flywheel site whose users may upload with their keys.")
    ] = "",
    flywheel_project: Annotated[
        str, typer.Option(help="The project that what the users of this site log belongs to.")
    ] = "",
    proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address or network of a proxy whose X-Forwarded-For is believed."),
    ] = None,
    tokens: TokensOption = None,
) -> None:
    """Serve the log of the settings. SIGTERM stops it, once what was accepted is finished.

    \b
    deid-hooks serve --host 0.0.0.0 --tls-certificate cert.pem --tls-key key.pem
    """
    from deid_hooks.settings import load_settings
    from deid_hooks_service.application import Listening, serve
    from deid_hooks_service.tokens import default_path

    before = getattr(context.obj, "url", None)  # deid-hooks --url URL serve
    serve(
        load_settings(url=url or before),
        Listening(
            host,
            port,
            tokens or default_path(),
            tls_certificate,
            tls_key,
            plain_http,
            flywheel_site,
            (flywheel_project,) if flywheel_project else (),
            tuple(proxy or ()),
        ),
    )


@token_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="How its holder stands in the access trail.")],
    role: Annotated[Role, typer.Option(help="What its holder may do.")],
    project: Annotated[
        list[str] | None, typer.Option(help="Hold it to this project; may be repeated.")
    ] = None,
    expires: Annotated[
        str, typer.Option(help="Days from now (90d), or a day (2027-01-31, its end in UTC).")
    ] = "",
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Take an existing secret from standard input.")
    ] = False,
    keeps_trail: Annotated[
        bool,
        typer.Option(
            "--keeps-trail",
            help="For a program that records each access itself, before it shows anything.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it to this new file, its owner's only."),
    ] = None,
    address: Annotated[
        str,
        typer.Option(help="With --output: where the service is for its holder, https://HOST:PORT."),
    ] = "",
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file that the holder is to trust, and no other certificate."),
    ] = None,
    tokens: TokensOption = None,
) -> None:
    """Make a token and print it, alone. It is kept as a hash: nobody can print it again.

    With --output and --address it is a file of mode 0600, which is all that a workstation needs.

    \b
    deid-hooks-service token add ws12 --role upload --project TRIAL7 \\
        --output ws12.toml --address https://log.hospital.example:8470
    """
    from deid_hooks_service.tokens import Tokens, default_path, write_token

    if output is not None and (stdin or output.exists()):
        raise typer.BadParameter("--output names a new file, for a token that is made here")
    if keeps_trail and role is not Role.ADMIN:
        raise typer.BadParameter("only an admin's token can keep the trail")
    if (address and output is None) or (certificate and not address):
        raise typer.BadParameter("--address goes with --output, and --certificate with both")
    if address and not _is_address(address):
        raise typer.BadParameter("--address takes https://HOST:PORT; http:// on this machine only")
    pem = _read_certificate(certificate)
    secret = Tokens(tokens or default_path()).add(
        name,
        role.value,
        projects=tuple(project or ()),
        expires=_moment(expires),
        keeps_trail=keeps_trail,
        secret=sys.stdin.readline() if stdin else None,
    )
    if output is not None:
        try:
            write_token(output.absolute(), secret, address, pem)
        except SettingsError:
            Tokens(tokens or default_path()).revoke(name)  # nobody has it
            raise
        if address:
            typer.echo(f"On its machine: DEID_HOOKS_URL=deidlog+file:/PATH/{output.name}")
    elif not stdin:
        typer.echo(secret)


@token_app.command("list")
def list_(tokens: TokensOption = None) -> None:
    """List the tokens: names, roles, projects, and until when they are good."""
    from deid_hooks_service.tokens import Tokens, default_path

    for each in Tokens(tokens or default_path()).all():
        until = f"expires {each.expires}" if each.expires else "does not expire"
        state = f"revoked {each.revoked}" if each.revoked else until
        projects = ", ".join(each.projects) or "all projects"
        typer.echo(f"{each.name:<20}  {each.role:<10}  {projects:<20}  {state}")


@token_app.command("revoke")
def revoke(name: str, tokens: TokensOption = None) -> None:
    """Make a token worthless from now on, in a service that runs, too."""
    from deid_hooks_service.tokens import Tokens, default_path

    Tokens(tokens or default_path()).revoke(name)


def main() -> None:
    """Run a command. Whatever goes wrong is one message and an exit code."""
    from deid_hooks.cli.context import choose_exit_code, describe_error
    from deid_hooks.cli.output import ready_streams, say

    ready_streams()
    try:
        app()
    except Exception as error:  # noqa: BLE001 - its text may hold values
        say(describe_error(error))
        sys.exit(choose_exit_code(error))


def _is_address(text: str) -> bool:
    from urllib.parse import urlsplit

    from deid_hooks.destinations import is_loopback

    found = urlsplit(text)
    return found.scheme == "https" or (found.scheme == "http" and is_loopback(found.hostname or ""))


def _read_certificate(path: Path | None) -> str:
    """Return the PEM text of a certificate; ``""`` for none. Raises BadParameter."""
    import ssl

    if path is None:
        return ""
    try:
        text = path.read_text(encoding="ascii")
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError, ssl.SSLError):
        raise typer.BadParameter(f"{path} holds no certificate as PEM") from None
    return text


def _moment(text: str) -> str:
    """Return the moment that ``text`` names, in UTC; ``""`` for none."""
    if not text:
        return ""
    try:
        if text.endswith("d") and text[:-1].isdigit():
            moment = datetime.now(UTC) + timedelta(days=int(text[:-1]))
        else:
            day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
            moment = day + timedelta(days=1)
    except (ValueError, OverflowError):
        raise typer.BadParameter("--expires takes days (90d) or a day (2027-01-31)") from None
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

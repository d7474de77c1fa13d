"""The command line: run the hub, or make a token for it."""

import json
import sys
from itertools import groupby

import click

from switchboard_server import __version__
from switchboard_server.config import Settings, SettingsError, load_settings, setting_rows
from switchboard_server.config_values import MAX_EXPIRE_MINUTES
from switchboard_server.core.errors import InvalidArgumentError

EXIT_SETTINGS = 2
"""Exit code when the settings or the arguments are not allowed; click's own for bad arguments."""


class _HubCommand(click.Group):
    """A group whose help ends with the settings."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the settings, section by section."""
        formatter.write_paragraph()
        formatter.write_text(
            "Settings are read from the environment, then from .env in the current folder:"
        )
        for section, rows in groupby(setting_rows(), key=lambda row: row.section):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (row.name, f"{row.help} [{row.allowed}; default: {row.default}]")
                        for row in rows
                    ]
                )


@click.group(cls=_HubCommand, invoke_without_command=True)
@click.version_option(__version__, message="switchboard %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Switchboard, a gRPC-first messaging hub. Without a command it runs the hub."""
    if context.invoked_subcommand is None:
        context.invoke(serve)


@main.command()
def serve() -> None:
    """Run the hub until SIGTERM or SIGINT (the default)."""
    settings = _settings()
    # Imported where it is needed: gRPC takes a while to load, and --help has no use for it.
    from switchboard_server.app import run  # noqa: PLC0415

    run(settings)


@main.command()
@click.option("--subject", required=True, help="Name of the caller that the token is for.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    required=True,
    help="What the caller may do, such as events.publish or events.publish:order.*; repeatable.",
)
@click.option(
    "--expires-minutes",
    type=click.IntRange(min=1, max=MAX_EXPIRE_MINUTES),
    help="Minutes that the token is valid.  [default: JWT_EXPIRE_MINUTES]",
)
def token(subject: str, permissions: tuple[str, ...], expires_minutes: int | None) -> None:
    """Print a token, signed with the configured key."""
    auth = _settings().auth
    if auth.jwks is not None:
        raise click.UsageError("tokens are made by the issuer whose keys JWT_JWKS names, not here")
    # Imported where it is needed, as above.
    from switchboard_server.security.keys import Keys  # noqa: PLC0415
    from switchboard_server.security.tokens import mint  # noqa: PLC0415

    keys = auth.load_keys()
    if not isinstance(keys, Keys) or keys.signing is None:
        missing = "JWT_SECRET_KEY" if auth.algorithm.startswith("HS") else "JWT_PRIVATE_KEY_FILE"
        raise click.UsageError(f"there is no key to sign with; set {missing}")
    try:
        minted = mint(
            keys,
            subject,
            permissions,
            expires_minutes or auth.expire_minutes,
            audience=auth.audience,
            issuer=auth.issuer,
        )
    except InvalidArgumentError as error:
        raise click.UsageError(
            "\n".join(f"--{each.field}: {each.description}" for each in error.violations)
        ) from None
    click.echo(minted)


@main.command("xds-bootstrap")
@click.option("--server", help="Where the hub is, as host:port.  [default: HOST and GRPC_PORT]")
@click.option(
    "--node-id", default="switchboard-client", show_default=True, help="Names the client."
)
@click.option("--zone", default="", help="Where the client runs.")
@click.option("--token", "bearer", help="A token with services.view, where the hub asks for one.")
@click.option("--tls", is_flag=True, help="The hub's port is encrypted.")
def xds_bootstrap(
    server: str | None, node_id: str, zone: str, bearer: str | None, tls: bool
) -> None:
    """Print the bootstrap with which gRPC clients find services: GRPC_XDS_BOOTSTRAP_CONFIG."""
    if server is None:
        listening = _settings().server
        host = f"[{listening.host}]" if ":" in listening.host else listening.host
        server = f"{host}:{listening.grpc_port}"
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": server,
                "channel_creds": [{"type": "tls" if tls else "insecure"}],
                # Whoever is told nothing of a service goes on with what it was told before.
                "server_features": ["xds_v3", "ignore_resource_deletion"],
            }
        ],
        # grpc-js fails without locality and authorities, though they may be empty.
        "node": {
            "id": node_id,
            "locality": {"zone": zone},
            **({"metadata": {"token": bearer}} if bearer else {}),
        },
        "authorities": {},
    }
    click.echo(json.dumps(bootstrap, indent=2))


def _settings() -> Settings:
    """Reads the settings, or ends the process with a list of what is wrong."""
    try:
        return load_settings()
    except SettingsError as error:
        count = len(error.problems)
        click.echo(f"{count} problem{'s'[: count > 1]} with the settings:", err=True)
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
        sys.exit(EXIT_SETTINGS)

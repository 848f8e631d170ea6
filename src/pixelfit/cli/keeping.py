"""Commands about named data sets and about what is kept on disk between runs."""

from __future__ import annotations

import typer

from pixelfit.cli.printing import console_for


def data_list() -> None:
    """List the named data sets."""
    from rich.text import Text

    from pixelfit.data.named import NAMED

    console = console_for()
    for data in NAMED.values():
        console.print(Text(data.name, style="bold"))
        for line in (data.what, data.where_from, f"licence: {data.licence}"):
            console.print(Text(f"  {line}"))


CACHED = {"stores": "decoded pictures", "archives": "unpacked archives", "mnist": "downloaded data"}


def cache_show() -> None:
    """Show where the cache is and how much is in it."""
    from pixelfit.files import cache_contents, cache_folder

    typer.echo(f"The cache is {cache_folder()}.")
    for name, size in cache_contents().items():
        typer.echo(f"  {name:<10} {size / 2**20:10,.1f} MiB  {CACHED.get(name, 'unknown')}")


def cache_clear() -> None:
    """Remove all of the cache; what is needed again is made or fetched again."""
    import shutil

    from pixelfit.files import cache_contents, cache_folder

    removed = sum(cache_contents().values())
    if cache_folder().is_dir():
        shutil.rmtree(cache_folder())
    typer.echo(f"Removed {removed / 2**20:,.1f} MiB from {cache_folder()}.")

"""How the pages' charts look: drawn by Bokeh, interactive, and readable on light and dark ground alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.embed import components
from bokeh.model import Model
from bokeh.models import HoverTool, NumeralTickFormatter
from bokeh.models.annotations import Legend, LegendItem
from bokeh.models.axes import CategoricalAxis
from bokeh.plotting import figure
from bokeh.resources import Resources
from markupsafe import Markup

from pixelfit.report.gallery import Tiles

# Okabe & Ito's palette, which colour-blind readers can tell apart; the black of it is left out for dark grounds.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A900")
INK = "#7d8590"  # a grey that reads on white and on near-black
FONT = "system-ui, sans-serif"
_TOOLTIP_SIDE = 90  # pixels


def charts_html(charts: Mapping[str, figure]) -> tuple[Markup, dict[str, Markup]]:
    """Script elements (Bokeh itself, then the charts' data), and for each chart the element that it appears in."""
    document = Document()
    _renumber(document.config, "document")
    with document.models.freeze():  # else it counts all its models again with each chart: half of the time here
        for name, chart in charts.items():
            _renumber(chart, name)
            document.add_root(chart)
    script, places = components(dict(charts), wrap_script=False)
    # Bokeh names the document and its elements anew each time.
    chance = [*re.findall(r'"docid":"([^"]+)"', script), *re.findall(r' id="([^"]+)"', "".join(places.values()))]
    for place, identity in enumerate(dict.fromkeys(chance)):
        script = script.replace(identity, f"chart-{place}")
        places = {name: html.replace(identity, f"chart-{place}") for name, html in places.items()}
    library = Resources(mode="inline", components=["bokeh"]).js_raw
    # A closing tag inside a script would end it early; in JavaScript strings "<\/" means the same.
    bodies = [body.replace("</script", "<\\/script") for body in (*library, script)]
    # Everything here is Bokeh's own output: strings from the data are inside its JSON.
    return Markup("\n".join(f"<script>{body}</script>" for body in bodies)), {name: Markup(html) for name, html in places.items()}


def _renumber(model: Model, name: str) -> None:
    """Name a model's parts by their order, so that it is drawn with the same bytes again: Bokeh counts on and on."""
    for place, part in enumerate(sorted(model.references(), key=lambda part: int(part.id.removeprefix("p")))):
        part._id = ID(f"{name}-{place}")  # type: ignore[attr-defined]


def plot_of(x_label: str, y_label: str, *, height: int = 330, **options: Any) -> figure:
    """An empty plot; ``options`` are those of Bokeh's figure."""
    plot = figure(
        height=height, sizing_mode="stretch_width", toolbar_location=None, tools="", x_axis_label=x_label, y_axis_label=y_label,
        background_fill_color=None, border_fill_color=None, outline_line_color=None, **options,
    )  # fmt: skip
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_label_text_font_style = "normal"
        axis.axis_line_color = axis.major_tick_line_color = INK
        axis.minor_tick_line_color = None
        if not isinstance(axis, CategoricalAxis):
            axis.formatter = NumeralTickFormatter(format="0.[0000]a")  # 1.5k, 2m: short enough for a phone
        axis.axis_label_text_font = axis.major_label_text_font = FONT
    for grid in (*plot.xgrid, *plot.ygrid):
        grid.grid_line_color, grid.grid_line_alpha = INK, 0.18
    return plot


def legend(plot: figure, items: Sequence[tuple[str, list[Any]]]) -> None:
    """Names of groups of glyphs, above the plot."""
    names = Legend(
        items=[LegendItem(label={"value": name}, renderers=renderers) for name, renderers in items],
        orientation="horizontal", ncols=3, background_fill_color=None, border_line_color=None, label_text_color=INK,
        label_text_font=FONT, spacing=6, margin=6,
    )  # fmt: skip
    plot.add_layout(names, "above")


def hover(plot: figure, lines: list[tuple[str, str]], renderers: list[Any] | None = None) -> None:
    """What is told of the glyph under the pointer."""
    plot.add_tools(HoverTool(tooltips=lines, renderers=renderers if renderers is not None else "auto"))


def hover_pictures(plot: figure, tiles: Tiles, lines: Sequence[tuple[str, str]], renderers: list[Any]) -> None:
    """The picture of the dot under the pointer, and what is told of it.

    The glyphs' source has ``left`` and ``top``, the offsets of each dot's tile. The image is a custom property of the page,
    ``--tiles``, so that it is in it once; Bokeh writes values from the data as text.
    """
    zoom = max(1, round(_TOOLTIP_SIDE / max(tiles.width, tiles.height)))
    style = f"width:{tiles.width}px;height:{tiles.height}px;zoom:{zoom};margin:0 auto 4px" + ";image-rendering:pixelated" * (
        zoom > 2
    )
    picture = f'<div style="{style};background:var(--tiles) -@{{left}}px -@{{top}}px"></div>'
    words = "".join(f'<div><span style="opacity:.7">{name}</span> {value}</div>' for name, value in lines)
    plot.add_tools(HoverTool(tooltips=f'<div style="font:13px {FONT}">{picture}{words}</div>', renderers=renderers))


def unique(names: Sequence[str]) -> list[str]:
    """The names, with their place where one is there twice, since an axis of names has each once."""
    return [f"{place}. {name}" if list(names).count(name) > 1 else name for place, name in enumerate(names, start=1)]

"""The figures of `compare`: points for all runs, curves over fractions of the labels, and risk by coverage."""

from collections.abc import Mapping
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from uniemox_jax.compare.comparison_results import Comparison
from uniemox_jax.compare.families import columns_of, curves
from uniemox_jax.compare.resampling import interval

_COLOURS = ('#0072b2', '#d55e00', '#5f5f5f', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
COVERAGES = np.linspace(0.05, 1, 96)
"""The coverages of `risk_figure`, (K,): lines begin at the least and end at the most."""
_LEGEND_INCHES, _LEGEND_INCHES_A_LETTER = 0.5, 0.06
"""The width of a legend's entry beside its text, and of a letter of it."""
_LINES = ('-', '--', ':', '-.')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def runs_figure(comparison: Comparison) -> bytes:
  """Draws a panel for each protocol as it is run: points for runs, a line for the mean, initialisations side by side.

  Returns a PNG.
  """
  tables = {name: comparison.columns(name) for name, variant in comparison.variants.items() if name == variant.trained}
  count = len(comparison.initialisations)
  figure = Figure(
      figsize=(1.5 + 0.55 * max(map(len, tables.values())) * count, 2.6 * len(tables)), layout='constrained')
  panels = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
  step = 0.8 / count
  for axes, (protocol, columns) in zip(panels, tables.items()):
    for index, name in enumerate(comparison.initialisations):
      colour, marker = _style(index)
      for position, scores in enumerate(columns.values()):
        values = [run.value for run in scores[name].values()]
        x = position + (index + 0.5) * step - 0.4
        axes.scatter([x] * len(values), values, s=18, color=colour, marker=marker, alpha=0.8, linewidths=0)
        if values:
          axes.hlines(np.mean(values), x - step / 3, x + step / 3, color=colour)
      axes.scatter([], [], s=18, color=colour, marker=marker, label=name)
    axes.set(title=protocol, xlim=(-0.5, len(columns) - 0.5))
    axes.set_xticks(range(len(columns)), [column.measured for column in columns])
  return _png(figure, panels, count)


def curves_figure(comparison: Comparison) -> bytes:
  """Draws a panel for each curve: the mean over runs by the share of the labels, with its 95 % interval, as PNG."""
  found = [(family, *item) for family in curves(comparison.variants) for item in columns_of(family, comparison).items()]
  figure = Figure(figsize=(5.5, 3.2 * max(1, len(found))), layout='constrained')
  panels = figure.subplots(max(1, len(found)), 1, squeeze=False)[:, 0]
  for axes, (family, column, members) in zip(panels, found):
    shares = [comparison.variants[protocol].fraction for protocol in family.members]
    for index, name in enumerate(comparison.initialisations):
      colour, marker = _style(index)
      runs = [list(members[protocol][name].values()) for protocol in family.members]
      means = [np.mean([run.value for run in of_share]) if of_share else np.nan for of_share in runs]
      axes.plot(shares, means, color=colour, marker=marker, markersize=4, linewidth=1.2, label=name)
      limits = [interval(of_share, comparison.folds) for of_share in runs]
      low, high = ([limit[side] if limit else np.nan for limit in limits] for side in (0, 1))
      axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(title=f'{family.name}: {column.measured}', xscale='log', xlabel='share of the training labels')
    axes.set_xticks(shares, family.members.values(), minor=False)
    axes.minorticks_off()
  return _png(figure, panels, len(comparison.initialisations))


def risk_figure(panels_of: Mapping[str, Mapping[tuple[str, str], np.ndarray]]) -> bytes:
  """Draws a panel for each dataset: the errors among the surest answers by their share, as PNG.

  Args:
    panels_of: dataset -> (initialisation, what it learned) -> errors at each of `COVERAGES`, (K,). Each initialisation
      has its colour, and what was learned its kind of line.
  """
  figure = Figure(figsize=(6.5, 3.6 * len(panels_of)), layout='constrained')
  panels = figure.subplots(len(panels_of), 1, squeeze=False)[:, 0]
  names, learned = (list(dict.fromkeys(key[part] for risks in panels_of.values() for key in risks)) for part in (0, 1))
  for axes, (dataset, risks) in zip(panels, panels_of.items()):
    for (name, what), risk_K in risks.items():
      colour, line = _style(names.index(name))[0], _LINES[learned.index(what) % len(_LINES)]
      axes.plot(COVERAGES, risk_K, color=colour, linestyle=line, linewidth=1.4, label=f'{name}, {what}')
    axes.set(title=dataset, xlabel='share of the images that are answered, the surest', ylabel='errors', ylim=(0, None))
  return _png(figure, panels, len(learned))


def _style(index: int) -> tuple[str, str]:
  return _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]


def _png(figure: Figure, panels: np.ndarray, labels: int) -> bytes:
  axes: Axes
  for axes in panels:
    axes.grid(axis='y', color='#e3e3e3')
    axes.set_axisbelow(True)
  if named := panels[0].get_legend_handles_labels()[1]:  # none until a run of a curve has finished
    # A legend that is wider than the figure would leave its panels no room.
    fits = int(figure.get_size_inches()[0] / (_LEGEND_INCHES + _LEGEND_INCHES_A_LETTER * max(map(len, named))))
    panels[0].legend(fontsize=8, frameon=False, ncols=max(1, min(4, labels, fits)))
  png = io.BytesIO()
  figure.savefig(png, format='png', dpi=120)
  return png.getvalue()

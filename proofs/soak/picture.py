"""The picture of a run: memory, descriptors and pinned pages over time."""

from pathlib import Path

from .measures import Sample

PANELS = (
    ("memory, MiB", (("rss", 1 / 1024), ("malloc", 2.0**-20))),
    ("Python objects: blocks of memory", (("blocks", 1.0),)),
    ("pinned and locked, MiB", (("pinned", 1 / 1024), ("locked", 1 / 1024))),
    ("descriptors, threads, parked", (("descriptors", 1.0), ("threads", 1.0), ("parked", 1.0))),
)


def draw(samples: list[Sample], path: Path) -> None:
    """A panel for each kind of thing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    minutes = [one.seconds / 60 for one in samples]
    for axes, (title, lines) in zip(figure.subplots(len(PANELS), sharex=True), PANELS, strict=True):
        for name, scale in lines:
            axes.plot(minutes, [getattr(one, name) * scale for one in samples], label=name)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right")
    axes.set_xlabel("minutes")
    figure.savefig(path)

"""What a person asked for, from flags or from Python, before anything is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Compression = Literal["gzip", "zstd"]
# What serves the model in an image: Python, or a small program that holds fewer routes.
Server = Literal["python", "native"]


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `mlopt compile`. None (or empty) means: as mlopt.toml says, else the default.

    `max_drop` is a fraction (0.005 is half a point), `max_latency` seconds (the median of one query), the other
    limits bytes: of the process at its peak, of the model's file, of the unpacked image. `ship` names a candidate to
    ship whatever the judge says. `device` is where engines are built, as ssh reaches it.
    `inside` asks for layers, memory over time and a roofline, once the choice is made.
    `base` is what the image stands on, as it was typed, and `compression` that of its layers: gzip or zstd.
    `command` is how the person would type this again, for the report and repro.sh.
    """

    model: Path
    target: str = "host"
    profile: str | None = None
    samples: str | None = None
    recipes: tuple[str, ...] = ()
    ship: str | None = None
    max_drop: float | None = None
    max_latency: float | None = None
    max_memory: float | None = None
    max_size: float | None = None
    max_image_size: float | None = None
    factory: str | None = None
    trust: bool = False
    project: Path | None = None
    calibration: int | None = None
    seed: int | None = None
    threads: int | None = None
    out: Path | None = None
    store: Path | None = None
    image: bool = True
    inside: bool = True
    base: str | None = None
    compression: Compression | None = None
    server: Server | None = None
    debian_mirror: str | None = None
    device: str | None = None
    command: tuple[str, ...] = ()

"""Contrast of colours as a browser computes them (WCAG 2.2, relative luminance)."""

from __future__ import annotations

import re


def channels(colour: str) -> list[float]:
    """Red, green, blue of 0 to 255 and the opacity."""
    values = [float(v) for v in re.findall(r"[\d.]+", colour)]
    return values if len(values) == 4 else [*values, 1.0]


def contrast(text: list[float], over: list[float], card: list[float]) -> float:
    behind = [over[3] * a + (1 - over[3]) * b for a, b in zip(over[:3], card[:3], strict=True)]
    light, dark = sorted((luminance(text[:3]), luminance(behind)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    linear = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


MACHADO: dict[str, tuple[tuple[float, float, float], ...]] = {
    "no deficiency": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
"""Linear RGB as it is seen with a deficiency of severity 1 (Machado, Oliveira & Fernandes 2009, table 1)."""


def distance(one: str, other: str, seen: str) -> float:
    """CIE76 distance (Euclidean in L*a*b*, D65) of two colours such as "#0072b2", as seen with a key of `MACHADO`."""
    pairs = zip(_lab(one, seen), _lab(other, seen), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) ** 0.5


def _lab(colour: str, seen: str) -> tuple[float, float, float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    linear = [min(1.0, max(0.0, sum(w * v for w, v in zip(row, linear, strict=True)))) for row in MACHADO[seen]]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(w * v for w, v in zip(row, linear, strict=True)) for row in to_xyz]
    x, y, z = (
        t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29
        for t in (v / white for v, white in zip(xyz, (0.95047, 1.0, 1.08883), strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)

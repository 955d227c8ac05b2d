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

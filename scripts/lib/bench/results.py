"""Owns what a measure comes to: medians of rounds, ratios, whether the goal holds, and how that is shown. Pure."""

import json
import statistics

# A difference that this kind of machine makes by itself.
TIE = 0.10


class Result:
    """One line of the table. `value` is compared with `goal`; `detail` tells what it was made of."""

    def __init__(self, name, value, goal, most=True, unit="", detail="", counts=True):
        self.name, self.value, self.goal, self.most, self.unit, self.detail = name, value, goal, most, unit, detail
        self.counts = counts

    @property
    def holds(self):
        return self.counts and (self.value <= self.goal if self.most else self.value >= self.goal)

    @property
    def near(self):
        return abs(self.value / self.goal - 1) <= TIE

    def goal_shown(self):
        return f"{'≤' if self.most else '≥'} {show(self.goal, self.unit)}"


def show(value, unit=""):
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{number}{unit}"


def spread(values, scale=1.0, digits=1):
    """A median with its least and most."""
    low, mid, high = min(values) * scale, statistics.median(values) * scale, max(values) * scale
    return f"{mid:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def ratios(ours, others):
    """Medians of the ratios of rounds that belong together, one for each of `others`."""
    return {name: statistics.median(a / b for a, b in zip(ours, values)) for name, values in others.items()}


def against_the_better(name, goal, ours, others, most=True, scale=1.0, unit="", counts=True, note=""):
    """`ours` by the better of `others`: that with the larger ratio where less is better, else the smaller."""
    found = ratios(ours, others)
    value = max(found.values()) if most else min(found.values())
    told = [f"neap {spread(ours, scale)}{unit}"]
    told += [f"{other} {spread(values, scale)}{unit} → {found[other]:.2f}" for other, values in others.items()]
    return Result(name, value, goal, most, detail="; ".join(told) + note, counts=counts)


def table(results):
    rows = [("MEASURE", "VALUE", "GOAL", "HOLDS", "")]
    for result in results:
        holds = "yes" if result.holds else ("no" if result.counts else "void")
        near = " (near)" if result.near else ""
        rows.append((result.name, show(result.value, result.unit), result.goal_shown(), holds + near, result.detail))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) + "  " + row[4] for row in rows)


def write(path, results):
    rows = [
        {"name": result.name, "value": round(result.value, 4), "goal": result.goal, "holds": result.holds, "detail": result.detail}
        for result in results
    ]
    with open(path, "w") as file:
        json.dump(rows, file, indent=2, ensure_ascii=False)
        file.write("\n")

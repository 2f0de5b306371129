"""Wall seconds of a fit by step: JAX's own report of tracing, lowering and compiling, with nothing counted twice.

Traces are nested, and threads may compile while another traces: every instant is given to one kind only, compiling
before lowering before tracing.
"""

from __future__ import annotations

from typing import Any

KINDS = {
    "/jax/core/compile/backend_compile_duration": "compile",  # reading the persistent cache included
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/jaxpr_trace_duration": "trace",
}
Interval = tuple[float, float]


class Spans:
    """Record JAX's monitoring events from here on; times are those of `time.time()`."""

    def __init__(self) -> None:
        import jax

        self.intervals: dict[str, list[Interval]] = {kind: [] for kind in KINDS.values()}
        self.cached = {"hits": 0, "misses": 0}
        jax.monitoring.register_event_time_span_listener(self._span)
        jax.monitoring.register_event_listener(self._event)

    def _span(self, event: str, start: float, end: float, **_: Any) -> None:
        if event in KINDS:
            self.intervals[KINDS[event]].append((start, end))

    def _event(self, event: str, **_: Any) -> None:
        for name in self.cached:
            self.cached[name] += event == f"/jax/compilation_cache/cache_{name}"

    def profile(self, fit: Interval, timings: dict[str, float]) -> dict[str, float]:
        """Wall seconds of a fit that lasted from `fit[0]` to `fit[1]`: the dry run ("check", with the tracing and
        compiling it asks for), then "trace", "lower" and "compile" of the rest, and "run", the remainder; and the
        number of "programs" compiled or read."""
        begun = fit[0] + timings.get("bind", 0.0)
        rest = (begun + timings.get("check", 0.0), fit[1])
        profile, taken = {"check": rest[0] - begun}, []
        for kind in KINDS.values():
            wider = merged([*taken, *(clip for interval in self.intervals[kind] if (clip := cut(interval, rest)))])
            profile[kind] = length(wider) - length(taken)
            taken = wider
        profile["run"] = fit[1] - fit[0] - sum(profile.values())
        inside = [interval for interval in self.intervals["compile"] if cut(interval, fit)]
        return profile | {"programs": len(inside)}


def cut(interval: Interval, window: Interval) -> Interval | None:
    """The part of an interval that lies within another, None where there is none."""
    start, end = max(interval[0], window[0]), min(interval[1], window[1])
    return (start, end) if end > start else None


def merged(intervals: list[Interval]) -> list[Interval]:
    """The same instants in intervals that do not overlap."""
    separate: list[Interval] = []
    for start, end in sorted(intervals):
        if separate and start <= separate[-1][1]:
            separate[-1] = (separate[-1][0], max(separate[-1][1], end))
        else:
            separate.append((start, end))
    return separate


def length(intervals: list[Interval]) -> float:
    """The sum of the lengths."""
    return sum(end - start for start, end in intervals)

"""A measurement as text for people.

Names of layers and inputs come from foreign files: nothing unprintable reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from devices.measurement import Conditions, Estimate, LayerProfile, Measurement
from devices.target import Target

MAX_LAYERS = 25  # the slowest; all of them are in the JSON


def rows_as_text(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns; lines of a value after its first are indented below it."""
    rows = [(printable(label), value) for label, value in rows]
    width = max((len(label) for label, _ in rows), default=0)
    lines = []
    for label, value in rows:
        first, *others = [printable(line) for line in value.split("\n")]
        lines.append(f"{label:<{width}}  {first}".rstrip())
        lines += [" " * (width + 2) + line for line in others]
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    """The text with every control character escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def measurement_as_text(measurement: Measurement, model_name: str) -> str:
    """What was measured, the numbers, whether to believe them, and what to do about it."""
    m = measurement
    rows = [
        ("model", f"{model_name} (sha256 {m.model.sha256[:12]}...)"),
        (
            "inputs",
            "\n".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in m.model.input_shapes.items())
            or "-",
        ),
        ("target", Target(device_key=m.device_key, runtime=m.runtime).key),
        (
            "protocol",
            f"{m.plan.level.value}, version {m.protocol_version}, clock {m.clock}, sandbox {m.sandbox}",
        ),
        *_estimate_rows(m),
        (
            "cold start",
            "\n".join(
                f"load {c.load_ns / 1e6:.2f} ms, first run {c.first_run_ns / 1e6:.2f} ms"
                for c in m.cold_starts
            ),
        ),
        ("before", _conditions_text(m.before)),
        ("after", _conditions_text(m.after)),
    ]
    if m.peak_memory_bytes is not None:
        rows.append(("memory", f"{m.peak_memory_bytes / 2**20:.0f} MiB at most"))
    if m.notes:
        rows.append(("notes", "\n".join(m.notes)))
    text = rows_as_text(rows)
    return text if m.layer_profile is None else text + "\n" + _layers_text(m.layer_profile)


def _estimate_rows(m: Measurement) -> list[tuple[str, str]]:
    e = m.estimate
    relative = 100.0 / e.median_ms if e.median_ms > 0 else 0.0
    discarded = len(m.rounds) - len(m.counted_rounds)
    processes = len({r.process for r in m.rounds})
    percentiles = ", ".join(
        f"{name} {'not stated' if value is None else f'{value:.4g} ms'}"
        for name, value in (("p90", e.p90_ms), ("p99", e.p99_ms))
    )
    verdict = "valid" if m.verdict.is_valid else "NOT VALID:\n" + "\n".join(m.verdict.reasons)
    return [
        ("median", f"{e.median_ms:.4g} ms, standard error {e.standard_error_ms * relative:.1f} %"),
        *([] if e.speed is None else [("speed", _speed_text(e))]),
        ("percentiles", percentiles),
        ("spread", f"median absolute deviation {e.mad_ms * relative:.1f} %"),
        (
            "processor time",
            f"median {e.cpu_median_ms:.4g} ms, all threads" if e.cpu_median_ms else "too short for its clock",
        ),
        (
            "samples",
            f"{e.sample_count} in {e.round_count} rounds ({discarded} discarded), {processes} processes",
        ),
        ("verdict", verdict),
    ]


def _speed_text(e: Estimate) -> str:
    observed = "" if e.observed_median_ms is None else f", observed median {e.observed_median_ms:.4g} ms"
    return f"{e.speed:.2f} of the machine's usual speed{observed}; times are at the usual one"


def _conditions_text(conditions: Conditions) -> str:
    facts: Sequence[tuple[str, float | str | None, str]] = (
        ("load", conditions.load_1m, ""),
        ("governor", conditions.governor, ""),
        ("frequency", conditions.frequency_mhz, " MHz"),
        ("temperature", conditions.temperature_c, " C"),
    )
    told = [
        f"{name} {value:.4g}{unit}" if isinstance(value, float) else f"{name} {value}"
        for name, value, unit in facts
        if value is not None
    ]
    if conditions.is_throttled:
        told.append("throttled")
    return ", ".join(told) or "this machine does not tell"


def _layers_text(profile: LayerProfile) -> str:
    ranked = sorted(profile.layers, key=lambda layer: layer.median_ns, reverse=True)
    total_ns = sum(layer.median_ns for layer in ranked) or 1
    lines = [
        f"layers: {len(ranked)}, together {100 * profile.coverage:.0f} % of the whole run that was profiled"
    ]
    lines += [
        f"{layer.median_ns / 1e6:10.4f} ms {100 * layer.median_ns / total_ns:5.1f} %  "
        f"{printable(layer.kind):<24} {printable(layer.provider):<12} {printable(layer.name)}"
        for layer in ranked[:MAX_LAYERS]
    ]
    if len(ranked) > MAX_LAYERS:
        lines.append(f"... and {len(ranked) - MAX_LAYERS} faster ones; --json has them all")
    return "\n".join(lines) + "\n"

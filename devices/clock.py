"""The real clock: what every engine that runs on real hardware is timed by."""

from __future__ import annotations

import resource
import time


class SystemClock:
    """Wall time by `perf_counter_ns` (monotonic, the finest there is), processor time by `getrusage`.

    Not `process_time_ns`: as soon as a process has a limit on its processor time, as every boxed child has,
    Linux reads that clock at the scheduler's tick only (4 ms at 250 Hz), and runs shorter than a tick seem to
    cost nothing. `getrusage` stays exact to the microsecond for the calling thread; what other threads have
    used since the last tick is missing from it in either case.
    """

    name = "perf_counter_ns"

    def wall_ns(self) -> int:
        """Monotonic time in nanoseconds; only differences mean anything."""
        return time.perf_counter_ns()

    def cpu_ns(self) -> int:
        """Processor time of this process in nanoseconds, user and system, all threads together."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return round((usage.ru_utime + usage.ru_stime) * 1e9)

    def sleep_s(self, duration_s: float) -> None:
        """Give the processor away for `duration_s` seconds."""
        time.sleep(duration_s)

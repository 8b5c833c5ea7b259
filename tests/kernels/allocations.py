"""How much memory a computation asks for."""

from itertools import accumulate

import torch


def peak(compute):
    """The most bytes that a call of ``compute`` holds at a time, beyond what was there before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        compute()
    events = sorted(profile.events(), key=lambda event: event.time_range.start)
    return max(accumulate(event.self_cpu_memory_usage for event in events))

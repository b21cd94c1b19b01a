"""The ways in which several processes compute a step in whatever order of sums."""

from __future__ import annotations

from kdplan.diagnostics.report import counted, diagnostic
from kdplan.runtime.division import Division
from kdplan.runtime.job import Job
from kdplan.runtime.parallel import Graph, Parallel


def parallel(job: Job, division: Division, call: Graph) -> Parallel:
    """What computes a phase's gradients on several processes; notes where batch norm is another than on one."""
    kind = Parallel
    if job.ranks.way == "fully-shard":
        from kdplan.runtime.sharded import FullyShard as kind  # loads much of torch
    step = kind(job.phase_graph, call, division, job.ranks, job.name, job.device, job.span, job.interrupt)
    recipe = job.recipes[0]
    if step.averaged and recipe.shards == 1 and job.ranks.leads:
        samples = counted(-(-recipe.batch_of() // job.ranks.size), "sample")
        notice = diagnostic("KD0983", None, phase=job.name, samples=samples, batch=recipe.batch_of())
        job.events.note(f"{notice.code}: {notice.message}")
    return step

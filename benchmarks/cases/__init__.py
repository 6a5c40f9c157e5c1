"""What is measured: the topics, in the order of RESULTS.md; a file has those of one part of the library."""

from benchmarks.cases import auto, batches, engines, memory, scheduler, threads, udp

TOPICS = {
    topic.name: topic
    for topic in (
        udp.udp_send,
        udp.udp_mixed,
        udp.udp_single,
        udp.udp_region,
        threads.threads,
        auto.auto_udp,
        auto.auto_tcp,
        batches.scheduler_batches,
        batches.scheduler_loops,
        scheduler.scheduler_sizes,
        scheduler.scheduler_notifications,
        scheduler.scheduler_calls,
        scheduler.scheduler_scale,
        engines.engines,
        memory.memory,
    )
}

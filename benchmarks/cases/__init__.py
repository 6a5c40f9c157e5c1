"""What is measured: the topics, in the order of RESULTS.md; a file has those of one part of the library."""

from benchmarks.cases import (
    auto,
    batches,
    destinations,
    engines,
    event_loops,
    latency,
    memory,
    pacing,
    packet,
    scheduler,
    threads,
    udp,
)

TOPICS = {
    topic.name: topic
    for topic in (
        udp.udp_send,
        udp.udp_mixed,
        latency.udp_single,
        latency.udp_replies,
        udp.udp_region,
        destinations.destinations,
        pacing.udp_pacing,
        threads.threads,
        auto.auto_udp,
        auto.auto_tcp,
        batches.scheduler_batches,
        batches.scheduler_loops,
        scheduler.scheduler_sizes,
        scheduler.scheduler_notifications,
        scheduler.scheduler_calls,
        scheduler.scheduler_scale,
        event_loops.asyncio,
        engines.engines,
        packet.packet,
        memory.memory,
    )
}

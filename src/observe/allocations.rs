//! How often memory is asked for, in a build for the test of that.

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// The count in Prometheus' text format.
pub(super) fn exposition() -> String {
    let stats = COUNTED.stats();
    let count = stats.allocations + stats.reallocations;
    format!("# TYPE trunkline_allocations_total counter\ntrunkline_allocations_total {count}\n")
}

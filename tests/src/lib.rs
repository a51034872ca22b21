//! Whole nodes under faults: tests that start real processes.

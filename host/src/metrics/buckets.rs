//! Upper bounds of histogram buckets, in seconds. Few: every label multiplies them.

/// What a client waits for: from a sync of a fast disk to a request's deadline.
pub(super) const REQUEST: [f64; 15] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0,
];

/// A call of a plugin: from a batch of one small command to one that uses up its fuel.
pub(super) const CALL: [f64; 14] = [
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01,
    0.025, 0.1, 1.0, 10.0,
];

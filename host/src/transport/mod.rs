//! Between nodes.

pub mod convert;

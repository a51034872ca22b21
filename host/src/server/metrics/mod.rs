//! `/metrics`, in the OpenMetrics text format.
//!
//! Two parts: what the node has measured as it happened ([`crate::metrics`]), and what is read from
//! its state when it is asked for. Of the second nothing is kept, so a group or a node that has gone
//! leaves no series behind.

mod group;
mod page;
mod process;
mod scrape;
mod storage;

use super::Shared;
use crate::metrics::PREFIX;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
pub(super) use scrape::Connections;
pub(crate) use scrape::DiskProbe;
use scrape::Scrape;

/// Collects and writes everything.
///
/// # Errors
/// A value that the format cannot hold.
pub(crate) async fn encode(shared: &Shared) -> Result<String, std::fmt::Error> {
    let context = &shared.context;
    let Scrape { state, process } = Scrape::take(shared).await;
    let mut ours = Registry::with_prefix(PREFIX);
    ours.register_collector(Box::new(state));
    // Dashboards know these names without any prefix.
    let mut process_wide = Registry::default();
    process_wide.register_collector(Box::new(process));
    let mut text = String::new();
    context.metrics.encode(&mut text)?;
    encode_registry(&mut text, &ours)?;
    encode_registry(&mut text, &process_wide)?;
    encode_eof(&mut text)?;
    Ok(text)
}

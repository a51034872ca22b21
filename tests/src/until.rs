//! Waiting for a condition, with a deadline.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Asks again and again until there is an answer.
///
/// # Errors
/// If there is none within `limit`; says what was waited for, and the last reason why not.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let why_not = match ask().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if begin.elapsed() > limit {
            bail!("waited {limit:?} in vain until {what}{why_not}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

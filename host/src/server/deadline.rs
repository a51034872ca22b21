//! How long a call may take.

use std::time::Duration;
use tokio::time::Instant;
use tonic::Request;

/// For calls without a deadline of their own.
const DEFAULT: Duration = Duration::from_secs(30);
/// An answer must be on its way before the client's own clock runs out, or the client learns
/// nothing: this part of the time allowed is kept for that, within these bounds.
const RESERVE_PART: u32 = 10;
const RESERVE_MIN: Duration = Duration::from_millis(2);
const RESERVE_MAX: Duration = Duration::from_millis(100);

/// The moment by which the call must be answered.
pub(crate) fn deadline<T>(request: &Request<T>) -> Instant {
    let header = request.metadata().get("grpc-timeout");
    let given = header.and_then(|value| value.to_str().ok()).and_then(parse);
    Instant::now() + given.map_or(DEFAULT, less_reserve)
}

fn less_reserve(given: Duration) -> Duration {
    let reserve = (given / RESERVE_PART).clamp(RESERVE_MIN, RESERVE_MAX);
    given.saturating_sub(reserve)
}

/// Time left until `deadline`, as a new call's own timeout.
pub(crate) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Parses a `grpc-timeout` header: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_parsed_as_the_specification_has_them() {
        assert_eq!(parse("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "1", "m", "-1S", "1x", "123456789S", "é"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_part_is_kept_for_the_answer() {
        assert_eq!(
            less_reserve(Duration::from_secs(10)),
            Duration::from_millis(9_900)
        );
        assert_eq!(
            less_reserve(Duration::from_millis(100)),
            Duration::from_millis(90)
        );
        assert_eq!(less_reserve(Duration::from_millis(1)), Duration::ZERO);
    }
}

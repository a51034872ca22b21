use crate::fault::{GuestCause, Stop};

/// Bounds the calls of host functions: they cost the guest a few units of fuel but the host much
/// more.
#[derive(Debug, Default)]
pub(crate) struct CallMeter {
    left: u64,
    limit: u64,
}

impl CallMeter {
    /// Allows `limit` calls from now on.
    pub(crate) fn refill(&mut self, limit: u64) {
        self.left = limit;
        self.limit = limit;
    }

    /// Allows as many calls as the last time.
    pub(crate) fn refill_again(&mut self) {
        self.left = self.limit;
    }

    /// Counts a call.
    pub(crate) fn charge(&mut self) -> Result<(), Stop> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(GuestCause::HostCalls { limit: self.limit }.into()),
        }
    }
}

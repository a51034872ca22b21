use super::HostState;
use crate::fault::{GuestCause, Stop};
use wasmtime::{AsContextMut, StoreContextMut};

/// Counts the fuel that an instance has used.
#[derive(Debug, Default)]
pub(crate) struct FuelMeter {
    /// What was put into the store the last time.
    granted: u64,
    /// What was used before that.
    used: u64,
}

impl FuelMeter {
    /// What was put into the store the last time.
    pub(crate) fn granted(&self) -> u64 {
        self.granted
    }

    /// What was used until the last [`grant`] or [`settle`].
    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

/// Counts what was used since the last grant.
pub(crate) fn settle(mut store: impl AsContextMut<Data = HostState>) -> wasmtime::Result<()> {
    let mut store = store.as_context_mut();
    let left = store.get_fuel()?;
    let meter = &mut store.data_mut().fuel;
    meter.used = meter
        .used
        .saturating_add(meter.granted.saturating_sub(left));
    meter.granted = left;
    Ok(())
}

/// Lets the guest use `amount` from now on.
pub(crate) fn grant(
    mut store: impl AsContextMut<Data = HostState>,
    amount: u64,
) -> wasmtime::Result<()> {
    settle(&mut store)?;
    let mut store = store.as_context_mut();
    store.set_fuel(amount)?;
    store.data_mut().fuel.granted = amount;
    Ok(())
}

/// Takes fuel for work of the host.
pub(crate) fn charge(
    store: &mut StoreContextMut<'_, HostState>,
    amount: u64,
) -> wasmtime::Result<()> {
    match store.get_fuel()?.checked_sub(amount) {
        Some(left) => store.set_fuel(left),
        None => {
            let limit = store.data().fuel.granted;
            Err(Stop::from(GuestCause::OutOfFuel { limit }).into())
        }
    }
}

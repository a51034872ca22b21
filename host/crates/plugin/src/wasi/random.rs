use crate::fault::{GuestCause, Stop};
use crate::host::HostState;
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};

/// Most random bytes in one call.
const SIZE_BYTES_MAX: u64 = 64 << 10;

impl HostState {
    fn random_bytes(&mut self, size_bytes: u64) -> wasmtime::Result<Vec<u8>> {
        self.charge_call()?;
        if size_bytes > SIZE_BYTES_MAX {
            let text = format!("asked for {size_bytes} random bytes, over {SIZE_BYTES_MAX}");
            return Err(Stop::from(GuestCause::Abi(text)).into());
        }
        let mut bytes = vec![0; size_bytes as usize];
        self.random.fill(&mut bytes);
        Ok(bytes)
    }

    fn random_u64(&mut self) -> wasmtime::Result<u64> {
        self.charge_call()?;
        Ok(self.random.next_u64())
    }
}

impl random::Host for HostState {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl insecure::Host for HostState {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_u64()
    }
}

impl insecure_seed::Host for HostState {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        self.charge_call()?;
        Ok(self.random.constant())
    }
}

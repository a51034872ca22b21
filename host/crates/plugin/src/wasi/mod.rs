//! Stand-ins for what standard libraries want of WASI 0.2, the same on every replica.
//!
//! Clocks show the entry's time, randomness is a stream made of the group's seed and the log
//! index, there are no arguments and no environment, standard output and error go to the plugin's
//! log, standard input is at its end, sockets are refused, and the only files are those of the
//! snapshot directory. Nothing ever blocks.

mod cli;
mod clocks;
mod filesystem;
mod random;
mod streams;
#[cfg(test)]
mod tests;

pub(crate) use cli::Stdio;
pub(crate) use filesystem::DirectoryListing;
pub(crate) use streams::{InputStream, OutputStream};

use crate::host::HostState;
use wasmtime::component::{HasData, HasSelf, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::sync::{filesystem as files, io};
use wasmtime_wasi::p2::bindings::{cli as c, clocks as k, random as r, sockets as net, sync};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsCtxView};

/// Data of `wasi:io/error`, which needs nothing but the table.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// Offers all of it to components.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    type Own = HasSelf<HostState>;
    let l = linker;
    c::environment::add_to_linker::<_, Own>(l, |state| state)?;
    c::exit::add_to_linker::<_, Own>(l, |state| state)?;
    c::stdin::add_to_linker::<_, Own>(l, |state| state)?;
    c::stdout::add_to_linker::<_, Own>(l, |state| state)?;
    c::stderr::add_to_linker::<_, Own>(l, |state| state)?;
    c::terminal_input::add_to_linker::<_, Own>(l, |state| state)?;
    c::terminal_output::add_to_linker::<_, Own>(l, |state| state)?;
    c::terminal_stdin::add_to_linker::<_, Own>(l, |state| state)?;
    c::terminal_stdout::add_to_linker::<_, Own>(l, |state| state)?;
    c::terminal_stderr::add_to_linker::<_, Own>(l, |state| state)?;
    k::monotonic_clock::add_to_linker::<_, Own>(l, |state| state)?;
    k::wall_clock::add_to_linker::<_, Own>(l, |state| state)?;
    r::random::add_to_linker::<_, Own>(l, |state| state)?;
    r::insecure::add_to_linker::<_, Own>(l, |state| state)?;
    r::insecure_seed::add_to_linker::<_, Own>(l, |state| state)?;
    io::error::add_to_linker::<_, Table>(l, |state| &mut state.table)?;
    io::poll::add_to_linker::<_, Own>(l, |state| state)?;
    io::streams::add_to_linker::<_, Own>(l, |state| state)?;
    files::types::add_to_linker::<_, Own>(l, |state| state)?;
    files::preopens::add_to_linker::<_, Own>(l, |state| state)?;
    add_sockets(l)
}

/// Sockets cannot be created: the context allows nothing. They are offered because some standard
/// libraries import them without using them.
fn add_sockets(l: &mut Linker<HostState>) -> wasmtime::Result<()> {
    fn view(state: &mut HostState) -> WasiSocketsCtxView<'_> {
        WasiSocketsCtxView {
            ctx: &mut state.sockets,
            table: &mut state.table,
        }
    }
    let options = net::network::LinkOptions::default();
    net::network::add_to_linker::<_, WasiSockets>(l, &options, view)?;
    net::instance_network::add_to_linker::<_, WasiSockets>(l, view)?;
    net::ip_name_lookup::add_to_linker::<_, WasiSockets>(l, view)?;
    net::tcp_create_socket::add_to_linker::<_, WasiSockets>(l, view)?;
    sync::sockets::tcp::add_to_linker::<_, WasiSockets>(l, view)?;
    sync::sockets::udp_create_socket::add_to_linker::<_, WasiSockets>(l, view)?;
    sync::sockets::udp::add_to_linker::<_, WasiSockets>(l, view)
}

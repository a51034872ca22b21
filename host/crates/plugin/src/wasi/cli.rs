use super::streams::AlwaysReady;
use super::{InputStream, OutputStream};
use crate::fault::{GuestCause, Stop};
use crate::host::{HostState, StandardStream};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr,
    terminal_stdin, terminal_stdout,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

/// Places of the standard streams in the table. They stay for good: standard libraries ask for
/// them once.
#[derive(Debug)]
pub(crate) struct Stdio {
    stdin: u32,
    stdout: u32,
    stderr: u32,
    /// What every pollable stands for: they have no state, so one place does for all.
    pub(super) ready: u32,
}

impl Stdio {
    pub(crate) fn new(table: &mut ResourceTable) -> Result<Self, wasmtime::Error> {
        Ok(Self {
            stdin: table.push(InputStream::Empty)?.rep(),
            stdout: table.push(OutputStream::Log(StandardStream::Output))?.rep(),
            stderr: table.push(OutputStream::Log(StandardStream::Error))?.rep(),
            ready: table.push(AlwaysReady)?.rep(),
        })
    }

    /// Whether a place in the table belongs to a standard stream.
    pub(crate) fn contains(&self, rep: u32) -> bool {
        [self.stdin, self.stdout, self.stderr].contains(&rep)
    }
}

impl environment::Host for HostState {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        self.charge_call()?;
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        self.charge_call()?;
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        self.charge_call()?;
        Ok(None)
    }
}

impl exit::Host for HostState {
    fn exit(&mut self, _: Result<(), ()>) -> wasmtime::Result<()> {
        Err(Stop::from(GuestCause::Exit).into())
    }

    fn exit_with_code(&mut self, _: u8) -> wasmtime::Result<()> {
        Err(Stop::from(GuestCause::Exit).into())
    }
}

impl stdin::Host for HostState {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        self.charge_call()?;
        Ok(Resource::new_own(self.stdio.stdin))
    }
}

impl stdout::Host for HostState {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.charge_call()?;
        Ok(Resource::new_own(self.stdio.stdout))
    }
}

impl stderr::Host for HostState {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.charge_call()?;
        Ok(Resource::new_own(self.stdio.stderr))
    }
}

// No stream is a terminal, so no handle of these kinds exists.

impl terminal_input::Host for HostState {}

impl terminal_input::HostTerminalInput for HostState {
    fn drop(&mut self, _: Resource<terminal_input::TerminalInput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl terminal_output::Host for HostState {}

impl terminal_output::HostTerminalOutput for HostState {
    fn drop(&mut self, _: Resource<terminal_output::TerminalOutput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl terminal_stdin::Host for HostState {
    fn get_terminal_stdin(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<terminal_input::TerminalInput>>> {
        self.charge_call()?;
        Ok(None)
    }
}

impl terminal_stdout::Host for HostState {
    fn get_terminal_stdout(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<terminal_output::TerminalOutput>>> {
        self.charge_call()?;
        Ok(None)
    }
}

impl terminal_stderr::Host for HostState {
    fn get_terminal_stderr(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<terminal_output::TerminalOutput>>> {
        self.charge_call()?;
        Ok(None)
    }
}

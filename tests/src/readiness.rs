//! What a node answers when it is asked whether it is ready.

use anyhow::Result;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// `/readyz?verbose` of the node whose pages are at `http_address`, status line included.
///
/// # Errors
/// If it does not answer.
pub fn readiness(http_address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(http_address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let request = "GET /readyz?verbose HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}

//! A way to a node that is narrow, or blocked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::time::Instant;

const CHUNK_SIZE_BYTES: usize = 8 << 10;

/// Passes connections on to one address; all of them share the rate towards it.
#[derive(Clone)]
pub struct Narrow {
    pub address: String,
    to: String,
    /// When the way is free for the next chunk.
    free: Arc<Mutex<Instant>>,
    size_bytes_per_second: u32,
    blocked: Arc<AtomicBool>,
}

impl Narrow {
    pub fn open(to: &str, size_bytes_per_second: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // What waits in buffers on the way is no part of what is tested.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let address = super::free_address();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address.parse().unwrap()).unwrap();
        let listener = socket.listen(64).unwrap();
        let narrow = Self {
            address,
            to: to.to_owned(),
            free: Arc::new(Mutex::new(Instant::now())),
            size_bytes_per_second,
            blocked: Arc::default(),
        };
        let way = narrow.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(way.clone().pass(from));
            }
        });
        narrow
    }

    /// Nothing passes any more, and nobody is told.
    pub fn block(&self) {
        self.blocked.store(true, Ordering::Release);
    }

    async fn pass(self, from: TcpStream) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(64 << 10).unwrap();
        let Ok(to) = socket.connect(self.to.parse().unwrap()).await else {
            return;
        };
        from.set_nodelay(true).unwrap();
        to.set_nodelay(true).unwrap();
        let (mut up_from, mut down_to) = from.into_split();
        let (mut down_from, mut up_to) = to.into_split();
        let up = async {
            let mut chunk = vec![0; CHUNK_SIZE_BYTES];
            while let Ok(size @ 1..) = up_from.read(&mut chunk).await {
                self.wait(size).await;
                if up_to.write_all(&chunk[..size]).await.is_err() {
                    return;
                }
            }
        };
        let down = async {
            let mut chunk = vec![0; CHUNK_SIZE_BYTES];
            while let Ok(size @ 1..) = down_from.read(&mut chunk).await {
                self.unblocked().await;
                if down_to.write_all(&chunk[..size]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
        }
    }

    async fn wait(&self, size_bytes: usize) {
        let takes = Duration::from_secs(1) * u32::try_from(size_bytes).unwrap();
        let mut free = self.free.lock().await;
        *free = (*free).max(Instant::now()) + takes / self.size_bytes_per_second;
        let at = *free;
        drop(free);
        tokio::time::sleep_until(at).await;
        self.unblocked().await;
    }

    async fn unblocked(&self) {
        if self.blocked.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }
}

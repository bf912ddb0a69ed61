//! A proxy for any stream of bytes, which only knows how many went through.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy for a stream of bytes that cuts each of its first connections after that many bytes from
/// the client.
pub struct CuttingProxy {
    /// `host:port` for clients.
    pub address: String,
    cuts: Arc<AtomicUsize>,
}

impl CuttingProxy {
    /// A proxy to `upstream` (`host:port`); connection `n` is cut after `after[n]` bytes, those
    /// beyond the list never.
    pub async fn start(upstream: &str, after: &'static [usize]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let upstream = upstream.to_owned();
        let cuts = Arc::new(AtomicUsize::new(0));
        let counter = cuts.clone();
        tokio::spawn(async move {
            let mut limits = after.iter().copied();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream).await.unwrap();
                let limit = limits.next();
                let counter = counter.clone();
                tokio::spawn(async move {
                    if relay(client, server, limit).await {
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { address, cuts }
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Copies both ways until one side ends or the limit is reached; whether it was.
async fn relay(client: TcpStream, server: TcpStream, limit: Option<usize>) -> bool {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let mut left = limit;
    let mut buffer = vec![0; 16 << 10];
    let cut = loop {
        let n = match from_client.read(&mut buffer).await {
            Ok(0) | Err(_) => break false,
            Ok(n) => n,
        };
        if to_server.write_all(&buffer[..n]).await.is_err() {
            break false;
        }
        if let Some(rest) = &mut left {
            *rest = rest.saturating_sub(n);
            if *rest == 0 {
                break true;
            }
        }
    };
    back.abort();
    cut
}

//! A line to a server, which can be cut as a machine that is moved elsewhere cuts it: all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// A proxy for any stream of bytes.
pub struct Line {
    /// `host:port` for clients.
    pub address: String,
    cut: broadcast::Sender<()>,
    open: Arc<AtomicUsize>,
}

impl Line {
    /// A line to `upstream` (`host:port`).
    pub async fn to(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let upstream = upstream.to_owned();
        let (cut, _) = broadcast::channel(1);
        let open = Arc::new(AtomicUsize::new(0));
        let (cuts, count) = (cut.clone(), open.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut end, upstream, count) =
                    (cuts.subscribe(), upstream.clone(), count.clone());
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(&upstream).await else {
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        // Dropped so, a socket is reset rather than closed.
                        _ = end.recv() => client.set_zero_linger().unwrap(),
                    }
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, cut, open }
    }

    /// Resets every connection; how many there were.
    pub fn cut(&self) -> usize {
        let open = self.open.load(Ordering::SeqCst);
        let _ = self.cut.send(());
        open
    }
}

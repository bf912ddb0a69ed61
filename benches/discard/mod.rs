//! A BigQuery that takes rows in, counts them and keeps none, as fast as they come: for runs of any size. It
//! knows no SQL; it answers the statements of a run as if each had done what it says.

mod rest;
mod write;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was taken in.
#[derive(Default)]
pub struct Taken {
    rows: AtomicU64,
    published: AtomicU64,
    largest_query: AtomicU64,
    tables: rest::Tables,
}

/// The service at work, until the process ends.
pub struct Discard {
    rest: String,
    grpc: String,
    taken: Arc<Taken>,
}

impl Discard {
    /// Starts it, in threads of its own.
    pub fn start() -> Self {
        let taken = Arc::new(Taken::default());
        let (rest, grpc) = (listener(), listener());
        let address = |l: &TcpListener| l.local_addr().expect("an address").to_string();
        let discard = Self {
            rest: address(&rest),
            grpc: address(&grpc),
            taken: taken.clone(),
        };
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(async {
                    let rest = tokio::net::TcpListener::from_std(rest).expect("a socket");
                    let grpc = tokio::net::TcpListener::from_std(grpc).expect("a socket");
                    tokio::join!(rest::serve(rest, taken.clone()), write::serve(grpc, taken));
                });
        });
        discard
    }

    /// Where it is, for the program.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BIGQUERY_EMULATOR_HOST", self.rest.clone()),
            ("BIGQUERY_STORAGE_EMULATOR_HOST", self.grpc.clone()),
        ]
    }

    /// Rows taken in and rows published since this was last asked, and the bytes of the largest statement
    /// with its parameters.
    pub fn counts(&self) -> (u64, u64, u64) {
        let taken = &self.taken;
        let counts = [&taken.rows, &taken.published, &taken.largest_query];
        let [rows, published, largest] = counts.map(|count| count.swap(0, Ordering::SeqCst));
        (rows, published, largest)
    }
}

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    listener
}

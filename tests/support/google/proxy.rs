//! The way in: an HTTP proxy that ends TLS itself, under the certificate of a private authority.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answer::Answer;
use super::world::World;
use crate::support::tls::Authority;

/// Longest head of a request to the proxy.
const LONGEST_HEAD: usize = 16 << 10;

/// Serves Google's hosts through `listener`.
pub fn serve(listener: TcpListener, world: Arc<World>, authority: Arc<Authority>) {
    let (opened, tunnels) = mpsc::channel(16);
    tokio::spawn(accept(listener, world.clone(), authority, opened));
    let app = axum::Router::new()
        .fallback(
            |State(world): State<Arc<World>>,
             ConnectInfo(host): ConnectInfo<Host>,
             request: Request| async move { world.serve(&host.0, true, request).await },
        )
        .with_state(world)
        .into_make_service_with_connect_info::<Host>();
    tokio::spawn(async move { axum::serve(Tunnels(tunnels), app).await });
}

async fn accept(
    listener: TcpListener,
    world: Arc<World>,
    authority: Arc<Authority>,
    opened: mpsc::Sender<(TlsStream<TcpStream>, Host)>,
) {
    let acceptors = Arc::new(Mutex::new(BTreeMap::new()));
    while let Ok((mut socket, _)) = listener.accept().await {
        let (world, authority) = (world.clone(), authority.clone());
        let (acceptors, opened) = (acceptors.clone(), opened.clone());
        tokio::spawn(async move {
            let host = ask_where(&mut socket, &world).await?;
            let acceptor: TlsAcceptor = acceptors
                .lock()
                .unwrap()
                .entry(host.clone())
                .or_insert_with(|| authority.acceptor(&[&host]))
                .clone();
            // What goes wrong on a connection is for the client to see.
            let wire = acceptor.accept(socket).await.ok()?;
            opened.send((wire, Host(host))).await.ok()
        });
    }
}

/// The host that a client wants to be connected to, if there is such a one; it was told so.
async fn ask_where(socket: &mut TcpStream, world: &World) -> Option<String> {
    let head = read_head(socket).await?;
    let line = head.lines().next().unwrap_or_default();
    let host = line
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split(' ').next())
        .and_then(|authority| authority.strip_suffix(":443"))
        .filter(|host| world.has_host(host));
    let answer: &[u8] = match host {
        Some(_) => b"HTTP/1.1 200 Connection established\r\n\r\n",
        None => b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
    };
    if host.is_none() {
        world.complain(&format!("the proxy was asked for `{line}`"));
    }
    socket.write_all(answer).await.ok()?;
    host.map(str::to_owned)
}

async fn read_head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD {
            return None;
        }
        // One byte at a time: what follows belongs to TLS.
        head.push(socket.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// The host that a connection was opened to.
#[derive(Clone, Debug)]
struct Host(String);

impl Connected<IncomingStream<'_, Tunnels>> for Host {
    fn connect_info(stream: IncomingStream<'_, Tunnels>) -> Self {
        stream.remote_addr().clone()
    }
}

struct Tunnels(mpsc::Receiver<(TlsStream<TcpStream>, Host)>);

impl Listener for Tunnels {
    type Io = TlsStream<TcpStream>;
    type Addr = Host;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.0.recv().await {
            Some(tunnel) => tunnel,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(Host("proxy".to_owned()))
    }
}

/// Serves one host in plain http through `listener`.
pub fn serve_plain(listener: TcpListener, world: Arc<World>, host: &'static str) {
    let app = axum::Router::new()
        .fallback(
            move |State(world): State<Arc<World>>, request: Request| async move {
                match host == super::metadata::HOST
                    || !request.headers().contains_key("authorization")
                {
                    true => world.serve(host, false, request).await,
                    false => {
                        world.complain(&format!("a credential came in the clear, for {host}"));
                        Answer::page(400, "The plain HTTP request was sent to HTTPS port")
                            .into_response()
                    }
                }
            },
        )
        .with_state(world);
    tokio::spawn(async move { axum::serve(listener, app).await });
}

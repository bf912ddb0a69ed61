//! A scriptable HTTP/1.1 API on loopback. It speaks over raw sockets, so that it can also do what a
//! well-behaved server cannot: cut bodies short, reset connections, drip.
//!
//! ```ignore
//! let api = FakeApi::start(paged(rows(250))).await;
//! // … read from api.url() …
//! assert_eq!(api.requests().len(), 3);
//! ```

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use url::{Url, form_urlencoded};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    /// As on the wire, without the `?`.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How many requests came before it.
    pub number: usize,
    /// When it was read.
    pub at: Instant,
}

impl Received {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A query parameter, decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_bytes())
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.into_owned())
    }

    /// A query parameter as a number.
    pub fn number_param(&self, name: &str) -> Option<usize> {
        self.param(name)?.parse().ok()
    }

    /// A field of a form body, decoded.
    pub fn field(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(&self.body)
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.into_owned())
    }
}

/// How the body goes out.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    Whole,
    Chunked,
    /// `Content-Length` of the whole, this many bytes, end.
    Truncated(usize),
    /// Chunks for this many bytes, end without the last chunk.
    ChunkedCut(usize),
    /// No length; the end of the connection is the end of the body, after this many bytes.
    UntilClose(usize),
    /// This many bytes at a time, with a pause.
    Drip(usize, Duration),
    /// The connection is reset before any byte.
    Reset,
    /// Nothing, ever.
    Silence,
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    delay: Duration,
    delivery: Delivery,
}

impl Reply {
    /// An empty answer.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
            delivery: Delivery::Whole,
        }
    }

    /// 200 with JSON.
    pub fn json(value: &Value) -> Self {
        Self::json_text(value.to_string())
    }

    /// 200 with text that is said to be JSON.
    pub fn json_text(text: impl Into<Bytes>) -> Self {
        Self::status(200)
            .header("content-type", "application/json")
            .body(text)
    }

    /// 200 with a login page.
    pub fn html() -> Self {
        Self::status(200)
            .header("content-type", "text/html; charset=utf-8")
            .body("<!DOCTYPE html><html><body>Please log in</body></html>")
    }

    /// A redirect.
    pub fn redirect(status: u16, to: impl Into<String>) -> Self {
        Self::status(status).header("location", to)
    }

    /// 429 with `Retry-After`.
    pub fn too_many(retry_after: impl Into<String>) -> Self {
        Self::status(429).header("retry-after", retry_after)
    }

    /// The connection is reset instead of an answer.
    pub fn reset() -> Self {
        Self {
            delivery: Delivery::Reset,
            ..Self::status(200)
        }
    }

    /// No answer, on an open connection.
    pub fn silence() -> Self {
        Self {
            delivery: Delivery::Silence,
            ..Self::status(200)
        }
    }

    /// With another status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// After a while.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Compressed.
    pub fn gzip(mut self) -> Self {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        to.write_all(&self.body).unwrap();
        self.body = to.finish().unwrap().into();
        self.header("content-encoding", "gzip")
    }

    /// In chunks.
    pub fn chunked(self) -> Self {
        self.delivered(Delivery::Chunked)
    }

    /// Cut after `bytes`, though the length says more.
    pub fn truncated(self, bytes: usize) -> Self {
        self.delivered(Delivery::Truncated(bytes))
    }

    /// Chunked, and cut after `bytes` without the last chunk.
    pub fn chunked_cut(self, bytes: usize) -> Self {
        self.delivered(Delivery::ChunkedCut(bytes))
    }

    /// Without a length, closed after `bytes`.
    pub fn until_close(self, bytes: usize) -> Self {
        self.delivered(Delivery::UntilClose(bytes))
    }

    /// `bytes` at a time, `pause` in between.
    pub fn drip(self, bytes: usize, pause: Duration) -> Self {
        self.delivered(Delivery::Drip(bytes, pause))
    }

    fn delivered(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }
}

type Handler = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// A running API; stops when dropped.
pub struct FakeApi {
    address: SocketAddr,
    scheme: &'static str,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl FakeApi {
    /// Starts one that answers by `handler`, which sees one request at a time.
    pub async fn start(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(handler, None).await
    }

    /// The same over TLS.
    pub async fn start_tls(
        tls: TlsAcceptor,
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(handler, Some(tls)).await
    }

    async fn listen(
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let handler: Handler = Arc::new(handler);
        let accepting = tokio::spawn({
            let (received, connections) = (received.clone(), connections.clone());
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (handler, received, tls) = (handler.clone(), received.clone(), tls.clone());
                    tokio::spawn(async move {
                        // What goes wrong on a connection is for the client to see.
                        let _ = match tls {
                            None => converse(socket, &handler, &received).await,
                            Some(tls) => match tls.accept(socket).await {
                                Ok(socket) => converse(socket, &handler, &received).await,
                                Err(_) => None,
                            },
                        };
                    });
                }
            }
        });
        Self {
            address,
            scheme,
            received,
            connections,
            accepting,
        }
    }

    /// `http://127.0.0.1:PORT/`.
    pub fn url(&self) -> Url {
        Url::parse(&format!("{}://{}/", self.scheme, self.address)).unwrap()
    }

    /// A URL below it, with `path` as `/v1/x?y=z`.
    pub fn at(&self, path: &str) -> Url {
        self.url().join(path).unwrap()
    }

    /// The URL under another name for this machine.
    pub fn named(&self, host: &str) -> Url {
        Url::parse(&format!(
            "{}://{host}:{}/",
            self.scheme,
            self.address.port()
        ))
        .unwrap()
    }

    /// Everything received so far.
    pub fn requests(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A socket that can be reset.
trait Wire: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Answers requests on one connection until it ends.
async fn converse(
    mut wire: impl Wire,
    handler: &Handler,
    received: &Mutex<Vec<Received>>,
) -> Option<()> {
    let mut unread = Vec::new();
    loop {
        let mut request = read_request(&mut wire, &mut unread).await?;
        let reply = {
            let mut received = received.lock().unwrap();
            request.number = received.len();
            received.push(request.clone());
            drop(received);
            handler(&request)
        };
        pause(reply.delay).await;
        write_reply(&mut wire, &reply).await?;
    }
}

async fn read_request(wire: &mut impl Wire, unread: &mut Vec<u8>) -> Option<Received> {
    let head = loop {
        if let Some(end) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
            break unread.drain(..end + 4).collect::<Vec<u8>>();
        }
        fill(wire, unread).await?;
    };
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let mut start = lines.next()?.split(' ');
    let (method, target) = (start.next()?, start.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    for line in lines.filter(|l| !l.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            HeaderValue::from_str(value.trim()).ok()?,
        );
    }
    let length = headers
        .get("content-length")
        .and_then(|l| l.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    while unread.len() < length {
        fill(wire, unread).await?;
    }
    Some(Received {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: unread.drain(..length).collect::<Vec<u8>>().into(),
        number: 0,
        at: Instant::now(),
    })
}

async fn fill(wire: &mut impl Wire, unread: &mut Vec<u8>) -> Option<()> {
    (wire.read_buf(unread).await.ok()? > 0).then_some(())
}

/// `None` when the connection is not to be used again.
async fn write_reply(wire: &mut impl Wire, reply: &Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Fake\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = &reply.body;
    let bodiless = matches!(reply.status, 204 | 304);
    head.push_str(&match reply.delivery {
        Delivery::Chunked | Delivery::ChunkedCut(_) => "transfer-encoding: chunked\r\n".to_owned(),
        Delivery::UntilClose(_) => "connection: close\r\n".to_owned(),
        _ if bodiless => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    });
    head.push_str("\r\n");
    match reply.delivery {
        Delivery::Reset => {
            wire.tcp().set_zero_linger().ok()?;
            return None;
        }
        Delivery::Silence => {
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    wire.write_all(head.as_bytes()).await.ok()?;
    let ended = match reply.delivery {
        Delivery::Truncated(bytes) | Delivery::UntilClose(bytes) => {
            wire.write_all(&body[..bytes]).await.ok()?;
            true
        }
        Delivery::ChunkedCut(bytes) => {
            write_chunk(wire, &body[..bytes]).await?;
            true
        }
        Delivery::Chunked => {
            for piece in body.chunks(body.len().div_ceil(3).max(1)) {
                write_chunk(wire, piece).await?;
            }
            wire.write_all(b"0\r\n\r\n").await.ok()?;
            false
        }
        Delivery::Drip(bytes, every) => {
            for piece in body.chunks(bytes) {
                wire.write_all(piece).await.ok()?;
                wire.flush().await.ok()?;
                pause(every).await;
            }
            false
        }
        _ => {
            wire.write_all(body).await.ok()?;
            false
        }
    };
    wire.flush().await.ok()?;
    if ended {
        wire.shutdown().await.ok()?;
        return None;
    }
    Some(())
}

async fn write_chunk(wire: &mut impl Wire, piece: &[u8]) -> Option<()> {
    let head = format!("{:x}\r\n", piece.len());
    wire.write_all(head.as_bytes()).await.ok()?;
    wire.write_all(piece).await.ok()?;
    wire.write_all(b"\r\n").await.ok()
}

#[allow(clippy::disallowed_methods)] // the server's slowness is what is tested
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Rows `{"id": 1, "name": "row 1"}` and on.
pub fn rows(count: usize) -> Vec<Value> {
    (1..=count)
        .map(|id| json!({"id": id, "name": format!("row {id}")}))
        .collect()
}

/// Answers with `replies` in turn, then with the last one for ever.
pub fn in_turn(replies: Vec<Reply>) -> impl Fn(&Received) -> Reply + Send + Sync {
    let next = AtomicUsize::new(0);
    move |_| {
        let at = next.fetch_add(1, Ordering::SeqCst);
        replies[at.min(replies.len() - 1)].clone()
    }
}

/// Serves `rows` by `page` (from 1) and `per_page` (default 100), as
/// `{"data": […], "page": 1, "total": N, "total_pages": P}`.
pub fn paged(rows: Vec<Value>) -> impl Fn(&Received) -> Reply + Send + Sync {
    move |request| {
        let page = request.number_param("page").unwrap_or(1).max(1);
        let size = request.number_param("per_page").unwrap_or(100).max(1);
        Reply::json(&json!({
            "data": rows.chunks(size).nth(page - 1).unwrap_or_default(),
            "page": page,
            "total": rows.len(),
            "total_pages": rows.len().div_ceil(size),
        }))
    }
}

/// Serves `rows` by `page` (from 1) and `per_page` (default 100) as plain arrays, with `first`,
/// `prev`, `next` and `last` in a `Link` header.
pub fn linked(rows: Vec<Value>) -> impl Fn(&Received) -> Reply + Send + Sync {
    move |request| {
        let page = request.number_param("page").unwrap_or(1).max(1);
        let size = request.number_param("per_page").unwrap_or(100).max(1);
        let last = rows.len().div_ceil(size).max(1);
        let host = request.header("host").unwrap_or_default();
        let link = |page: usize, rel: &str| {
            let others: String = form_urlencoded::parse(request.query.as_bytes())
                .filter(|(k, _)| k != "page")
                .map(|(k, v)| format!("&{k}={v}"))
                .collect();
            format!(
                "<http://{host}{}?page={page}{others}>; rel=\"{rel}\"",
                request.path
            )
        };
        let mut links = vec![link(1, "first"), link(last, "last")];
        if page > 1 {
            links.push(link(page - 1, "prev"));
        }
        if page < last {
            links.push(link(page + 1, "next"));
        }
        let page = rows.chunks(size).nth(page - 1).unwrap_or_default();
        Reply::json(&json!(page)).header("link", links.join(", "))
    }
}

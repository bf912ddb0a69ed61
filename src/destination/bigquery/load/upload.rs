//! The resumable upload of a load job's file, whose size is not known before its end.
//!
//! A session is opened with the job; chunks follow, each at the byte the last answer named. After a
//! failure the service is asked how far it is before anything is sent, because a byte must not
//! arrive twice. The chunk that names the size starts the job.
//!
//! What is not stored yet is held in memory, and as long as it is small the whole file is, so that
//! it can be sent again to another session or for another job.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;
use url::Url;

use super::super::api::Api;
use crate::error::{Error, ErrorKind, Result};
use crate::google::{Answer, Endpoint, Exchange, Failure, Google, RetryPolicy};

/// Bytes sent at once; sizes of chunks must be multiples of 256 KiB (BigQuery's page on uploads,
/// 2026-08).
const CHUNK: usize = 4 << 20;

/// Largest file that is kept until its job is done.
const KEPT: u64 = 8 << 20;

/// Sessions that the service may let go of before the upload is given up.
const MOST_RESTARTS: u32 = 8;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A load job, as it is inserted.
pub(super) struct Job {
    /// Its id.
    pub id: String,
    /// The whole resource.
    pub resource: Value,
}

/// A file on its way to a load job.
pub(super) struct Upload {
    api: Api,
    /// What it is for, after "could not".
    what: String,
    job: Job,
    session: Option<Url>,
    /// Bytes that the service has said to have.
    stored: u64,
    /// The bytes from there on.
    waiting: Waiting,
    /// Whether a request may have arrived whose answer did not.
    unsure: bool,
    /// Whether the end of the file was ever sent for this job.
    ended: bool,
    /// Sessions that were let go of.
    restarts: u32,
    /// Bytes of the file so far.
    size: u64,
    /// The file so far, while it is small.
    kept: Option<Vec<Bytes>>,
}

/// What one attempt came to.
enum Step {
    /// The service has bytes up to here.
    Stored(u64),
    /// The file is complete, and this is the job.
    Started(Value),
    /// There is a job of that id.
    Duplicate(Failure),
    /// The session is no more.
    Gone(Failure),
}

impl Upload {
    /// A file for that job. Nothing is sent yet.
    pub(super) fn new(api: Api, what: String, job: Job) -> Self {
        Self {
            api,
            what,
            job,
            session: None,
            stored: 0,
            waiting: Waiting::default(),
            unsure: false,
            ended: false,
            restarts: 0,
            size: 0,
            kept: Some(Vec::new()),
        }
    }

    /// Adds to the file. Returns when less than a chunk and these bytes wait in memory.
    pub(super) async fn push(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.size += bytes.len() as u64;
        match &mut self.kept {
            Some(kept) if self.size <= KEPT => kept.push(bytes.clone()),
            kept => *kept = None,
        }
        self.waiting.push(bytes);
        // Something stays for the chunk that ends the file.
        while self.waiting.len > CHUNK {
            if self.send(false).await?.is_some() {
                return Err(Error::new(
                    ErrorKind::Bug,
                    format!(
                        "could not {}: job `{}` was started before its file was complete",
                        self.what, self.job.id
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Ends the file; gives the job that it started, as last seen.
    pub(super) async fn finish(&mut self) -> Result<Value> {
        loop {
            if let Some(job) = self.send(true).await? {
                return Ok(job);
            }
        }
    }

    /// Has the same file sent once more, for another job; false where it is not kept.
    pub(super) fn again(&mut self, job: Job) -> bool {
        self.job = job;
        self.ended = false;
        self.rewind()
    }

    fn rewind(&mut self) -> bool {
        self.session = None;
        self.stored = 0;
        self.unsure = false;
        let Some(kept) = &self.kept else {
            return false;
        };
        self.waiting = Waiting::default();
        kept.iter()
            .for_each(|bytes| self.waiting.push(bytes.clone()));
        true
    }

    /// Sends one chunk, which must be the file's last where `last` says so and no more wait. Gives
    /// the job once there is one.
    async fn send(&mut self, last: bool) -> Result<Option<Value>> {
        let google = self.api.google().clone();
        let endpoint = &google.settings().bigquery;
        let what = self.what.clone();
        let mut ring = google.ring(&what, endpoint, RetryPolicy::BIGQUERY);
        loop {
            let before = self.stored;
            let failure = match self.attempt(&google, endpoint, last).await {
                Ok(Step::Started(job)) => return Ok(Some(job)),
                Ok(Step::Stored(now)) if now > before => return Ok(None),
                Ok(Step::Stored(_)) => {
                    Failure::from_transport(&what, "the service stored nothing of what was sent")
                }
                Ok(Step::Duplicate(failure)) => match self.started().await? {
                    Some(job) => return Ok(Some(job)),
                    None => failure,
                },
                Ok(Step::Gone(failure)) => {
                    if let Some(job) = self.started().await? {
                        return Ok(Some(job));
                    }
                    self.restarts += 1;
                    if self.restarts > MOST_RESTARTS || !self.rewind() {
                        return Err(self.lost(&failure));
                    }
                    Failure::from_transport(&what, failure.message)
                }
                Err(failure) => failure,
            };
            ring.again(failure).await.map_err(|f| self.api.refused(f))?;
        }
    }

    /// The job, where it was started though nobody said so.
    async fn started(&self) -> Result<Option<Value>> {
        match self.ended {
            true => self.api.find_job(&self.what, &self.job.id).await,
            false => Ok(None),
        }
    }

    fn lost(&self, failure: &Failure) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "could not {}: BigQuery let go of the upload at {} MiB ({})",
                self.what,
                self.size >> 20,
                failure.message
            ),
        )
        .transient(true)
        .hint("run again: nothing of the slice was published")
    }

    async fn attempt(
        &mut self,
        google: &Google,
        endpoint: &Endpoint,
        last: bool,
    ) -> Result<Step, Failure> {
        let session = match &self.session {
            Some(session) => session.clone(),
            None => match self.open(google, endpoint).await? {
                Ok(session) => self.session.insert(session).clone(),
                Err(duplicate) => return Ok(Step::Duplicate(duplicate)),
            },
        };
        let size = if last {
            self.size.to_string()
        } else {
            "*".into()
        };
        if self.unsure {
            let asked = format!("bytes */{size}");
            match self
                .put(google, endpoint, &session, &asked, Bytes::new())
                .await?
            {
                Step::Stored(now) => {
                    let before = self.stored;
                    self.confirm(now)?;
                    // What waits now may be less than a chunk.
                    if now > before {
                        return Ok(Step::Stored(now));
                    }
                }
                other => return Ok(other),
            }
        }
        // All is stored, and still there is no job.
        if self.waiting.len == 0 {
            self.unsure = true;
            return Ok(Step::Stored(self.stored));
        }
        let chunk = self.waiting.first(CHUNK);
        let end = self.stored + chunk.len() as u64;
        let ends = last && end == self.size;
        let range = format!(
            "bytes {}-{}/{}",
            self.stored,
            end - 1,
            if ends { &size } else { "*" }
        );
        self.unsure = true;
        self.ended |= ends;
        let step = self.put(google, endpoint, &session, &range, chunk).await?;
        if let Step::Stored(now) = step {
            self.confirm(now)?;
        }
        Ok(step)
    }

    /// Takes note of how much the service has.
    fn confirm(&mut self, now: u64) -> Result<(), Failure> {
        let Some(new) = now
            .checked_sub(self.stored)
            .filter(|new| *new <= self.waiting.len as u64)
        else {
            return Err(Failure::from_transport(
                &self.what,
                format!(
                    "the service has {now} bytes, where between {} and {} were sent",
                    self.stored,
                    self.stored + self.waiting.len as u64
                ),
            ));
        };
        self.waiting.drop_first(new as usize);
        self.stored = now;
        self.unsure = false;
        Ok(())
    }

    /// Opens a session; the failure inside says that the job is there already.
    async fn open(
        &self,
        google: &Google,
        endpoint: &Endpoint,
    ) -> Result<Result<Url, Failure>, Failure> {
        let project = self.api.job_project();
        let url = endpoint.url(
            &["upload", "bigquery", "v2", "projects", project, "jobs"],
            &[("uploadType", "resumable")],
        );
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert("x-upload-content-type", CONTENT_TYPE);
        let answer = google
            .exchange(Exchange {
                what: &self.what,
                method: Method::POST,
                endpoint,
                url: &url,
                headers,
                body: self.job.resource.to_string().into(),
                timeout: RetryPolicy::BIGQUERY.attempt_timeout,
            })
            .await?;
        match answer.status {
            200..300 => session_of(&answer, &url).map(Ok).ok_or_else(|| {
                Failure::from_transport(
                    &self.what,
                    "the service opened an upload and did not say where",
                )
            }),
            409 => Ok(Err(answer.failure(&self.what))),
            _ => Err(answer.failure(&self.what)),
        }
    }

    async fn put(
        &self,
        google: &Google,
        endpoint: &Endpoint,
        session: &Url,
        range: &str,
        body: Bytes,
    ) -> Result<Step, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        if let Ok(range) = HeaderValue::from_str(range) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        let answer = google
            .exchange(Exchange {
                what: &self.what,
                method: Method::PUT,
                endpoint,
                url: session,
                headers,
                body,
                timeout: RetryPolicy::BIGQUERY.attempt_timeout,
            })
            .await?;
        match answer.status {
            200 | 201 => answer.json(&self.what, endpoint).map(Step::Started),
            308 => stored(&answer.headers).map(Step::Stored).ok_or_else(|| {
                Failure::from_transport(&self.what, "the service does not say what it has stored")
            }),
            404 | 410 => Ok(Step::Gone(answer.failure(&self.what))),
            409 => Ok(Step::Duplicate(answer.failure(&self.what))),
            _ => Err(answer.failure(&self.what)),
        }
    }
}

/// Where the chunks go: what the service says, on the host that was asked. It may know itself by
/// another name than the one it is reached by, and no other host may see credentials.
fn session_of(answer: &Answer, asked: &Url) -> Option<Url> {
    let location = answer.headers.get(header::LOCATION)?.to_str().ok()?;
    let location = asked.join(location).ok()?;
    let mut session = asked.clone();
    session.set_path(location.path());
    session.set_query(location.query());
    Some(session)
}

/// Bytes stored, by an answer 308: `Range: bytes=0-41`, or no such header before the first byte.
fn stored(headers: &HeaderMap) -> Option<u64> {
    let Some(range) = headers.get(header::RANGE) else {
        return Some(0);
    };
    let range = range.to_str().ok()?.trim();
    let last = range
        .strip_prefix("bytes=")
        .unwrap_or(range)
        .strip_prefix("0-")?;
    last.parse::<u64>().ok()?.checked_add(1)
}

/// Bytes in the order in which they came.
#[derive(Default)]
struct Waiting {
    parts: VecDeque<Bytes>,
    len: usize,
}

impl Waiting {
    fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.parts.push_back(bytes);
    }

    /// At most `most` bytes from the start.
    fn first(&self, most: usize) -> Bytes {
        let mut left = most.min(self.len);
        let mut all = BytesMut::with_capacity(left);
        for part in &self.parts {
            let of_this = part.len().min(left);
            all.extend_from_slice(&part[..of_this]);
            left -= of_this;
            if left == 0 {
                break;
            }
        }
        all.freeze()
    }

    fn drop_first(&mut self, mut bytes: usize) {
        self.len -= bytes.min(self.len);
        while let Some(first) = self.parts.front_mut() {
            if first.len() > bytes {
                drop(first.split_to(bytes));
                return;
            }
            bytes -= first.len();
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn reads_how_much_is_stored() {
        let of = |text: &str| stored(&headers(header::RANGE, text));
        assert_eq!(of("bytes=0-42"), Some(43));
        assert_eq!(of("0-262143"), Some(262_144));
        assert_eq!(stored(&HeaderMap::new()), Some(0));
        for unreadable in [
            "bytes=1-42",
            "bytes=0-",
            "bytes */42",
            "bytes=0-18446744073709551615",
        ] {
            assert_eq!(of(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn a_session_is_on_the_host_that_was_asked() {
        let asked = Url::parse(
            "https://bq.example/upload/bigquery/v2/projects/p/jobs?uploadType=resumable",
        )
        .unwrap();
        let of = |location: &str| {
            session_of(
                &Answer {
                    status: 200,
                    headers: headers(header::LOCATION, location),
                    body: vec![],
                    retry_after: None,
                },
                &asked,
            )
            .map(String::from)
        };
        assert_eq!(
            of("http://elsewhere.example:81/upload/x?upload_id=a%2Fb").unwrap(),
            "https://bq.example/upload/x?upload_id=a%2Fb"
        );
        assert_eq!(
            of("/upload/y?upload_id=c").unwrap(),
            "https://bq.example/upload/y?upload_id=c"
        );
        let silent = Answer {
            status: 200,
            headers: HeaderMap::new(),
            body: vec![],
            retry_after: None,
        };
        assert!(session_of(&silent, &asked).is_none());
    }

    #[test]
    fn waiting_bytes_keep_their_order() {
        let mut waiting = Waiting::default();
        for part in [&b"abc"[..], b"d", b"efgh"] {
            waiting.push(Bytes::from_static(part));
        }
        assert_eq!(waiting.first(5), "abcde");
        waiting.drop_first(4);
        assert_eq!((waiting.len, &waiting.first(100)[..]), (4, &b"efgh"[..]));
        waiting.drop_first(1);
        assert_eq!(waiting.first(2), "fg");
        waiting.drop_first(3);
        assert_eq!((waiting.len, waiting.parts.len()), (0, 0));
        assert!(waiting.first(1).is_empty());
    }
}

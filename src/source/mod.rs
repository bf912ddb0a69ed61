//! One stream's reader: requests out of templates, pages in order, records out of pages.

pub mod pages;
pub mod pagination;
pub mod parents;
pub mod records;
pub mod request;

use std::sync::Arc;

use crate::connector::Stream;
use crate::connector::template::Scope;
use crate::http::{CallContext, HttpClient, Sign};
use records::Layout;

/// A stream's endpoint in one run: everything it takes to ask for a page.
pub struct Endpoint {
    /// The stream.
    pub stream: Stream,
    /// Scheme, host and leading path.
    pub base_url: String,
    /// The source's client, shared by its streams.
    pub client: Arc<HttpClient>,
    /// Its credentials.
    pub signer: Arc<dyn Sign>,
    /// Deadline, cancellation and counters.
    pub context: CallContext,
    /// Most pages of a listing on the wire at once.
    pub concurrency: usize,
    /// What its templates can name, without parent and bounds.
    pub scope: Scope,
}

impl Endpoint {
    /// Where this stream's pages hold what.
    pub fn layout(&self) -> Layout {
        let single = self.stream.pagination.step == crate::connector::Step::Single;
        Layout::new(
            &self.stream.records,
            pagination::wanted(&self.stream.pagination),
            single,
        )
    }
}

//! Which redirects are followed, and what the request is then.

use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use url::Url;

use super::Request;
use super::classify::what;
use super::origin::origin;
use crate::error::{Error, ErrorKind, Result};

/// Redirects followed for one request.
const MOST_REDIRECTS: u32 = 5;

/// The request that a redirect within the origin asks for.
///
/// # Errors
/// [`ErrorKind::Rejected`] for one that is not followed.
pub(super) fn redirected(
    mut request: Request,
    to: Url,
    status: StatusCode,
    redirects: u32,
) -> Result<Request> {
    let from = what(&request.method, &request.url);
    let code = status.as_u16();
    if to.origin() != request.url.origin() {
        return Err(Error::new(
            ErrorKind::Rejected,
            format!(
                "{from} answered {code}, a redirect from `{}` to `{}`, which is not followed",
                origin(&request.url),
                origin(&to)
            ),
        )
        .hint("if the API has moved, change `base_url`; credentials are not taken along to another origin"));
    }
    if redirects > MOST_REDIRECTS {
        return Err(Error::new(
            ErrorKind::Rejected,
            format!("{from} answered {code}: more than {MOST_REDIRECTS} redirects in a row"),
        )
        .hint("this is often a login page: check `path` and the credentials"));
    }
    if request.method != Method::GET {
        match code {
            303 => {
                request.method = Method::GET;
                request.body = None;
                request.headers.remove(CONTENT_TYPE);
            }
            307 | 308 => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::Rejected,
                    format!("{from} answered {code}, which would turn it into a GET"),
                )
                .hint("check the stream's `path`: a missing or extra `/` at its end is the usual reason"));
            }
        }
    }
    request.url = to;
    Ok(request)
}

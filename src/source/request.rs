//! Request template → request.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use super::pagination::{Pager, Target, Token, set_query};
use crate::connector::template::{Scope, Template};
use crate::connector::{Incremental, Stream};
use crate::error::{Error, ErrorKind, Result};
use crate::http::Request;

/// The request for the page that `token` names, without credentials.
///
/// # Errors
/// [`ErrorKind::Config`] naming the stream when the templates do not make a request.
pub fn build(
    stream: &Stream,
    base_url: &str,
    scope: &Scope,
    pager: &Pager<'_>,
    token: &Token,
) -> Result<Request> {
    let within = |e: Error| {
        e.context(format!(
            "could not make a request of stream `{}`",
            stream.name
        ))
    };
    let template = &stream.request;
    let path = template.path.render(scope).map_err(within)?;
    let mut url = join(base_url, &path).map_err(within)?;
    for (name, value) in &template.params {
        let value = value.render(scope).map_err(within)?;
        if !value.is_empty() {
            set_query(&mut url, name, &value);
        }
    }
    if let Some(Incremental {
        since_param,
        until_param,
        ..
    }) = &stream.incremental
    {
        for (param, bound) in [(since_param, &scope.since), (until_param, &scope.until)] {
            if let (Some(param), Some(bound)) = (param, bound)
                && !bound.is_empty()
            {
                set_query(&mut url, param, bound);
            }
        }
    }
    let mut body = match &template.body {
        Some(body) => Some(json_body(body, scope).map_err(within)?),
        None => None,
    };
    pager.apply(
        token,
        &mut Target {
            url: &mut url,
            body: body.as_mut(),
        },
    );
    Ok(Request {
        method: template.method.clone(),
        url,
        headers: headers(&template.headers, body.is_some(), scope).map_err(within)?,
        body: body.map(|b| b.to_string().into()),
        repeatable: template.repeatable || template.method == Method::GET,
        accept: template.ignore_status.clone(),
        retry: template.retry_status.clone(),
    })
}

/// `path` on `base`, which may end in a slash and have a path of its own; an absolute URL as it is.
fn join(base: &str, path: &str) -> Result<Url> {
    let text = if path.starts_with("https://") || path.starts_with("http://") {
        path.to_owned()
    } else if path.is_empty() {
        base.to_owned()
    } else {
        format!(
            "{}/{}",
            base.trim_end_matches('/'),
            path.trim_start_matches('/')
        )
    };
    Url::parse(&text).map_err(|e| {
        Error::config("the base URL and the path do not make a URL")
            .source(e)
            .hint("`base_url` is like `https://api.example.com/v1`, `path` like `/tickets`")
    })
}

fn headers(templates: &[(String, Template)], has_body: bool, scope: &Scope) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::ACCEPT,
        HeaderValue::from_static("application/json"),
    );
    if has_body {
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
    }
    for (name, value) in templates {
        let bad = || {
            Error::config(format!(
                "header `{name}` cannot be sent: its name or value has characters that headers cannot hold"
            ))
        };
        let value = value.render(scope)?;
        if !value.is_empty() {
            headers.insert(
                HeaderName::try_from(name.as_str()).map_err(|_| bad())?,
                HeaderValue::try_from(value).map_err(|_| bad())?,
            );
        }
    }
    Ok(headers)
}

fn json_body(template: &Template, scope: &Scope) -> Result<serde_json::Value> {
    serde_json::from_str(&template.render(scope)?).map_err(|e| {
        Error::new(
            ErrorKind::Config,
            format!(
                "the body is not JSON once filled in (line {}, column {})",
                e.line(),
                e.column()
            ),
        )
        .hint("write `{{ since | tojson }}` where a value may hold quotes")
    })
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn joins() {
        for (base, path, url) in [
            (
                "https://a.example/v1/",
                "/x?y=1",
                "https://a.example/v1/x?y=1",
            ),
            ("https://a.example", "x", "https://a.example/x"),
            ("https://a.example/v1", "", "https://a.example/v1"),
            (
                "https://a.example/v1",
                "https://b.example/z",
                "https://b.example/z",
            ),
        ] {
            assert_eq!(join(base, path).unwrap().as_str(), url);
        }
        assert!(join("not a url", "/x").is_err());
    }
}

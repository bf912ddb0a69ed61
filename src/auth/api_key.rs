//! API keys: in a header, or in the query.

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use url::form_urlencoded;

use super::{Credential, check_characters, secret_header};
use crate::error::{Error, Result};
use crate::http::{CallContext, Request, Sign};
use crate::telemetry::redact;

/// A key in a header of any name.
pub(super) struct HeaderKey {
    name: HeaderName,
    header: HeaderValue,
    from: String,
}

impl HeaderKey {
    pub fn new(name: &str, value: &Credential) -> Result<Self> {
        check_characters(value)?;
        Ok(Self {
            name: HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Error::config(format!("`{name}` cannot be the name of a header")))?,
            header: secret_header("", value.expose(), &value.from)?,
            from: value.from.clone(),
        })
    }
}

#[async_trait]
impl Sign for HeaderKey {
    async fn sign(&self, request: &mut Request, _: &CallContext) -> Result<()> {
        request
            .headers
            .insert(self.name.clone(), self.header.clone());
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        self.from.clone()
    }
}

/// A key in the query. Put on each request anew, so that next links work whether the server repeats
/// the key in them or not.
#[derive(Clone)]
pub(super) struct QueryKey {
    name: String,
    value: Credential,
}

impl QueryKey {
    pub fn new(name: String, value: Credential) -> Result<Self> {
        check_characters(&value)?;
        redact::register(value.expose());
        let encoded: String = form_urlencoded::byte_serialize(value.expose().as_bytes()).collect();
        redact::register(&encoded);
        Ok(Self { name, value })
    }
}

#[async_trait]
impl Sign for QueryKey {
    async fn sign(&self, request: &mut Request, _: &CallContext) -> Result<()> {
        self.put(request);
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        self.value.from.clone()
    }
}

impl QueryKey {
    /// Puts the key on.
    pub fn put(&self, request: &mut Request) {
        // The rest of the query stays byte for byte as it was: servers differ in what they decode.
        let kept: Vec<&str> = request
            .url
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty() && !self.is_key(pair))
            .collect();
        let key = form_urlencoded::Serializer::new(String::new())
            .append_pair(&self.name, self.value.expose())
            .finish();
        let query = match kept.is_empty() {
            true => key,
            false => format!("{}&{key}", kept.join("&")),
        };
        request.url.set_query(Some(&query));
    }

    /// Whether the request carries this very key.
    pub fn is_on(&self, request: &Request) -> bool {
        request
            .url
            .query_pairs()
            .any(|(name, value)| name == self.name && value == self.value.expose())
    }

    fn is_key(&self, pair: &str) -> bool {
        form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name == self.name)
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[tokio::test]
    async fn the_query_key_is_replaced_and_the_rest_kept_verbatim() {
        let key =
            QueryKey::new("api key".into(), Credential::new("a+b&c=d é", "secret `k`")).unwrap();
        let context = CallContext {
            deadline: None,
            cancel: Default::default(),
            meter: Default::default(),
        };
        for (before, after) in [
            ("", "api+key=a%2Bb%26c%3Dd+%C3%A9"),
            (
                "?page=2&page[size]=5",
                "page=2&page[size]=5&api+key=a%2Bb%26c%3Dd+%C3%A9",
            ),
            ("?api%20key=old&x=%7e", "x=%7e&api+key=a%2Bb%26c%3Dd+%C3%A9"),
        ] {
            let url = Url::parse(&format!("https://a.test/x{before}")).unwrap();
            let mut request = Request::get(url);
            key.sign(&mut request, &context).await.unwrap();
            assert_eq!(request.url.query(), Some(after));
        }
    }

    #[test]
    fn names_must_be_header_names() {
        let value = Credential::new("v", "secret `k`");
        assert!(HeaderKey::new("X-Api-Key", &value).is_ok());
        assert!(HeaderKey::new("X Api", &value).is_err());
    }
}

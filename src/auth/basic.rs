//! HTTP Basic authentication (RFC 7617).

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::AUTHORIZATION;

use super::{Credential, both, check_characters, secret_header};
use crate::error::{Error, Result};
use crate::http::{CallContext, Request, Sign};
use crate::telemetry::redact;

/// `Authorization: Basic base64(user ":" password)`, UTF-8. Does not expire: a refusal is final.
pub(super) struct Basic {
    header: HeaderValue,
    from: String,
}

impl Basic {
    /// # Errors
    /// A colon in the user id, or a control character in either half. Either half may be empty; the
    /// password may hold colons.
    pub fn new(username: &Credential, password: &Credential) -> Result<Self> {
        check_characters(username)?;
        check_characters(password)?;
        let (user, pass) = (username.expose(), password.expose());
        if user.contains(':') {
            return Err(Error::config(format!(
                "the user id ({}) contains a `:`, which Basic authentication cannot carry",
                username.from
            ))
            .hint("if one secret holds `user:password`, split it at the first `:` into two"));
        }
        redact::register(pass);
        if pass.is_empty() {
            // Then the user id is the secret.
            redact::register(user);
        }
        Ok(Self {
            header: secret_header(
                "Basic ",
                &STANDARD.encode(format!("{user}:{pass}")),
                &both(&username.from, &password.from),
            )?,
            from: both(&username.from, &password.from),
        })
    }
}

#[async_trait]
impl Sign for Basic {
    async fn sign(&self, request: &mut Request, _: &CallContext) -> Result<()> {
        request.headers.insert(AUTHORIZATION, self.header.clone());
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        self.from.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn header(user: &str, pass: &str) -> Result<String> {
        let basic = Basic::new(
            &Credential::new(user, "secret `companyid`"),
            &Credential::new(pass, "secret `token`"),
        )?;
        assert!(basic.header.is_sensitive());
        Ok(basic.header.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_rfcs_examples() {
        assert_eq!(
            header("Aladdin", "open sesame").unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(
            header("test", "123\u{a3}").unwrap(),
            "Basic dGVzdDoxMjPCow=="
        );
    }

    #[test]
    fn empty_halves_colons_umlauts_and_no_line_breaks() {
        assert_eq!(header("token", "").unwrap(), "Basic dG9rZW46");
        assert_eq!(header("", "x").unwrap(), "Basic Ong=");
        assert_eq!(header("", "").unwrap(), "Basic Og==");
        assert_eq!(header("a", "b:c:").unwrap(), "Basic YTpiOmM6");
        assert_eq!(header("ü", "ü").unwrap(), "Basic w7w6w7w=");
        assert!(
            !header(&"u".repeat(200), &"p".repeat(200))
                .unwrap()
                .contains('\n')
        );
    }

    #[test]
    fn what_it_cannot_carry_is_a_configuration_error() {
        for (user, pass, named) in [
            ("a:b", "p", "companyid"),
            ("a\n", "p", "companyid"),
            ("a", "hunter2hunter2\n", "token"),
            ("a", "p\0", "token"),
            ("a", "p\u{7f}", "token"),
        ] {
            let e = header(user, pass).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Config);
            assert!(e.to_string().contains(named), "{e}");
            assert!(!e.chain().contains("hunter2"), "{e}");
        }
    }

    #[test]
    fn the_value_is_redacted_in_every_form() {
        let text = header("company-7", "a-very-secret-word").unwrap();
        for secret in ["a-very-secret-word", text.as_str()] {
            assert!(redact::scrub(secret).contains("[redacted]"), "{secret}");
        }
    }
}

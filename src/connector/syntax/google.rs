//! `auth: {google: …}`: tokens of the Google credentials that the whole program has.

use super::Lower;
use super::place::May;
use crate::connector::model::Auth;
use crate::connector::template::Template;
use crate::google::CLOUD_PLATFORM;
use crate::yaml::Node;

impl Lower<'_> {
    pub(super) fn google(&mut self, node: &Node) -> Option<Auth> {
        let kinds = ["access_token", "id_token"];
        let (kind, inner) = self.reader.tagged(node, "`auth.google`", &kinds)?;
        match kind {
            "access_token" => self.google_access_token(inner),
            _ => self.google_id_token(inner),
        }
    }

    fn google_access_token(&mut self, node: Option<&Node>) -> Option<Auth> {
        let mut scopes = Vec::new();
        if let Some(node) = node {
            let what = "`auth.google.access_token`";
            let fields = self.reader.fields(node, what, &["scopes"])?;
            if let Some(node) = fields.get("scopes") {
                scopes = self.scopes(node);
            }
        }
        if scopes.is_empty() {
            scopes.extend(Template::parse(CLOUD_PLATFORM).ok());
        }
        Some(Auth::GoogleAccessToken { scopes })
    }

    fn google_id_token(&mut self, node: Option<&Node>) -> Option<Auth> {
        let Some(node) = node else {
            return Some(Auth::GoogleIdToken { audience: None });
        };
        let what = "`auth.google.id_token`";
        let fields = self.reader.fields(node, what, &["audience"])?;
        let audience = match fields.get("audience") {
            Some(node) => {
                let audience = self.template(node, "`audience`", May::CONFIG, &mut Vec::new())?;
                if audience.as_str().trim().is_empty() {
                    self.reader.findings.error(
                        node.at,
                        "`audience` is empty",
                        "say whom the token is for, or leave it out: then it is the service's URL"
                            .to_owned(),
                    );
                    return None;
                }
                Some(audience)
            }
            None => None,
        };
        Some(Auth::GoogleIdToken { audience })
    }
}

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
                for (at, text) in self.reader.texts(node, "`scopes`") {
                    let scope =
                        self.template_text(at, text, "`scopes`", May::CONFIG, &mut Vec::new());
                    scopes.extend(scope);
                }
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
            Some(node) => Some(self.template(node, "`audience`", May::CONFIG, &mut Vec::new())?),
            None => None,
        };
        Some(Auth::GoogleIdToken { audience })
    }
}

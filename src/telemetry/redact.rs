//! Removes known secrets from text on its way out of the process, by value. The first defence is
//! never to put one in; this is the last.

use std::sync::RwLock;

use secrecy::{ExposeSecret, SecretString};

/// Shorter values than this are not searched for: they would blank out ordinary text.
const SHORTEST: usize = 6;

static KNOWN: RwLock<Vec<SecretString>> = RwLock::new(Vec::new());

/// Remembers a secret (a password, a token, a header value built from them) so that [`scrub`]
/// removes it: as it is, and as it looks in JSON, in `Debug` output and in a URL.
pub fn register(secret: &str) {
    if secret.len() < SHORTEST {
        return;
    }
    let json = serde_json::Value::from(secret).to_string();
    let debug = format!("{secret:?}");
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let percent = form.replace('+', "%20");
    // As templates write it into a body.
    let cautious = json
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\'', "\\u0027");
    if let Ok(mut known) = KNOWN.write() {
        for text in [
            secret,
            &json[1..json.len() - 1],
            &cautious[1..cautious.len() - 1],
            &debug[1..debug.len() - 1],
            &form,
            &percent,
        ] {
            if !known.iter().any(|k| k.expose_secret() == text) {
                known.push(SecretString::from(text.to_owned()));
            }
        }
        // Longest first, so that a secret that contains another is removed whole.
        known.sort_by_key(|k| std::cmp::Reverse(k.expose_secret().len()));
    }
}

/// `text` with every known secret replaced by `[redacted]`.
pub fn scrub(text: &str) -> String {
    let mut clean = text.to_owned();
    if let Ok(known) = KNOWN.read() {
        for secret in known.iter() {
            if clean.contains(secret.expose_secret()) {
                clean = clean.replace(secret.expose_secret(), "[redacted]");
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrubs_a_secret_in_other_clothes() {
        let secret = "cl\"oth\\es:/ü&x";
        register(secret);
        let json = serde_json::json!({ "k": secret }).to_string();
        let cautious = json.replace('&', "\\u0026");
        let url = url::Url::parse_with_params("https://a.example/", [("k", secret)]).unwrap();
        for text in [json, cautious, format!("{secret:?}"), url.to_string()] {
            let clean = scrub(&text);
            assert!(
                clean.contains("[redacted]") && !clean.contains("oth"),
                "{clean}"
            );
        }
    }

    #[test]
    fn scrubs_longest_first_and_ignores_short() {
        register("hunter2-long");
        register("hunter2-long-and-longer");
        register("abc");
        assert_eq!(
            scrub("a hunter2-long-and-longer b abc"),
            "a [redacted] b abc"
        );
    }
}

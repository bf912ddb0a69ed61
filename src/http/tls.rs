//! Whom to trust: the system's certificate authorities, or Mozilla's where a container has none,
//! and a private one on top. There is no way to trust nobody.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Result};

/// TLS 1.2 or newer, verified, speaking HTTP/2 and HTTP/1.1.
pub(super) fn config(ca_file: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = system_roots().clone();
    if let Some(path) = ca_file {
        add_file(&mut roots, path)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::config(format!("could not set TLS up: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Whom this machine trusts, or Mozilla where it trusts nobody. Read once a process: it takes some
/// milliseconds.
pub(crate) fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        roots
    })
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<()> {
    let bad = |why: String| {
        Error::config(format!(
            "could not read the certificate authority `{}`: {why}",
            path.display()
        ))
        .hint("give a file with certificates in PEM format, `-----BEGIN CERTIFICATE-----`")
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?;
    let mut added = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| bad(e.to_string()))?;
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
        added += 1;
    }
    match added {
        0 => Err(bad("it holds no certificate".to_owned())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_must_hold_certificates() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let e = config(Some(file.path())).unwrap_err();
        assert!(e.to_string().contains("holds no certificate"), "{e}");
        let e = config(Some(Path::new("/nonexistent/ca.pem"))).unwrap_err();
        assert!(e.to_string().contains("/nonexistent/ca.pem"), "{e}");
        assert!(config(None).is_ok());
    }
}

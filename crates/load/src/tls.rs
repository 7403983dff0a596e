//! The TLS settings that https and wss share: the public roots, and a file of one's own.
//! It never turns verification off.

use anyhow::Context;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use std::{path::Path, sync::Arc};

/// A client that trusts the public roots and the certificates in `ca_file`.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub fn client_config(ca_file: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| format!("cannot read the certificates in {}", path.display()))?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        anyhow::ensure!(
            added > 0,
            "{} holds no certificate that can be trusted: it must be PEM",
            path.display()
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

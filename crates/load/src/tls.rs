//! The TLS configuration of https and wss: it trusts the public root certificates and those in a file.
//! Verification of certificates cannot be turned off.

use anyhow::Context;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use std::{path::Path, sync::Arc};

/// Returns a configuration that trusts the public root certificates and those in `ca_file`.
///
/// # Errors
/// The file cannot be read or contains no certificate.
pub fn client_config(ca_file: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| format!("cannot read the certificates in {}", path.display()))?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        anyhow::ensure!(added > 0, "{} contains no certificate: expected a PEM file", path.display());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

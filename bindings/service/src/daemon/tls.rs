//! TLS of the HTTP server.

use std::{path::Path, sync::Arc};

use cairn_engine::ErrorKind;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::TlsFiles;
use crate::{Failure, Result};

fn wrong(what: &str, path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorKind::Invalid, format!("{} is no {what} in PEM: {error}", path.display()))
}

/// What takes connections in.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let (certificate, key) = (&files.certificate, &files.key);
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| wrong("certificate", certificate, e))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("private key", key, e))?;
    let refuse = |error| {
        let text = format!("{} and {} do not serve: {error}", certificate.display(), key.display());
        Failure::new(ErrorKind::Invalid, text)
    };
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refuse)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(refuse)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

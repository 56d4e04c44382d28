//! Certificates and pre-shared keys: from files to a ready acceptor.

use crate::options::{Certificates, Options, TlsMode};
use cairn_engine::{Error, ErrorKind, Result};
use openssl::{
    error::ErrorStack,
    ssl::{
        SslContext, SslContextBuilder, SslFiletype, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode,
        SslVersion,
    },
};
use std::{collections::HashMap, path::Path};

/// Longest pre-shared key that the TLS library takes, in bytes.
const MAX_KEY: usize = 256;

/// What every TLS session of a server starts from.
pub(crate) type Acceptor = SslContext;

/// Reads the files that the options name; `None` with TLS off.
///
/// # Errors
/// Files that cannot be read, that hold nothing usable, or a key that does not belong to its certificate.
pub(crate) fn acceptor(options: &Options) -> Result<Option<Acceptor>> {
    if options.tls == TlsMode::Off {
        return Ok(None);
    }
    let mut builder = base().map_err(|e| failed("TLS cannot be set up", &e))?;
    if let Some(files) = &options.certificates {
        use_certificates(&mut builder, files)?;
    }
    if let Some(path) = &options.psk {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::io(format!("pre-shared keys {}", path.display()), e))?;
        let keys = parse_keys(&text).map_err(|e| e.within(format!("pre-shared keys {}", path.display())))?;
        use_keys(&mut builder, keys);
    }
    Ok(Some(builder.build()))
}

fn base() -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    builder.set_options(
        SslOptions::NO_TICKET
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    Ok(builder)
}

fn use_certificates(builder: &mut SslContextBuilder, files: &Certificates) -> Result<()> {
    let readable = |what: &str, path: &Path| {
        std::fs::File::open(path).map(drop).map_err(|e| Error::io(format!("{what} {}", path.display()), e))
    };
    readable("certificate", &files.chain)?;
    readable("private key", &files.key)?;
    builder
        .set_certificate_chain_file(&files.chain)
        .map_err(|e| failed(&format!("certificate {}", files.chain.display()), &e))?;
    builder
        .set_private_key_file(&files.key, SslFiletype::PEM)
        .and_then(|()| builder.check_private_key())
        .map_err(|e| failed(&format!("private key {}", files.key.display()), &e))?;
    if let Some(path) = &files.client_ca {
        readable("client authority", path)?;
        builder.set_ca_file(path).map_err(|e| failed(&format!("client authority {}", path.display()), &e))?;
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    Ok(())
}

fn failed(what: &str, stack: &ErrorStack) -> Error {
    Error::new(ErrorKind::Invalid, format!("{what}: {stack}"))
}

fn use_keys(builder: &mut SslContextBuilder, keys: HashMap<String, Vec<u8>>) {
    builder.set_psk_server_callback(move |_, identity, out| {
        let key = identity.and_then(|identity| std::str::from_utf8(identity).ok()).and_then(|user| keys.get(user));
        let Some(key) = key else { return Ok(0) };
        // Zero bytes mean that the user is not known.
        let Some(out) = out.get_mut(..key.len()) else { return Ok(0) };
        out.copy_from_slice(key);
        Ok(key.len())
    });
}

/// Reads lines of `USER:HEXKEY`; empty ones and those that start with `#` are skipped.
pub(super) fn parse_keys(text: &str) -> Result<HashMap<String, Vec<u8>>> {
    let mut keys = HashMap::new();
    for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line.trim_end())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The text of an error never holds any of the key.
        let invalid =
            |why: &str| Err(Error::new(ErrorKind::Invalid, format!("line {number}: {why}; write USER:HEXKEY")));
        let Some((user, hex)) = line.rsplit_once(':') else { return invalid("there is no colon") };
        if user.is_empty() || user.contains('\0') {
            return invalid("the user's name is empty or holds NUL");
        }
        let Some(key) = hex_decoded(hex) else { return invalid("the key is not hexadecimal") };
        if !(8..=MAX_KEY).contains(&key.len()) {
            return invalid("the key must have 8 to 256 bytes");
        }
        if keys.insert(user.to_owned(), key).is_some() {
            return invalid("the user has a key already");
        }
    }
    if keys.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the file holds no key: write USER:HEXKEY, one a line"));
    }
    Ok(keys)
}

fn hex_decoded(hex: &str) -> Option<Vec<u8>> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

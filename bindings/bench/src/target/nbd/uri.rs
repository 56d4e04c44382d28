//! NBD URIs: `nbd://host:port/export`, `nbd+unix:///export?socket=/path`.

use std::{fmt, path::PathBuf, str::FromStr};

use cairn_engine::{Error, ErrorKind, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::bench::invalid;

/// NBD's port.
const PORT: u16 = 10809;
/// What stays as it is in a URI that is shown.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// Where an export is.
///
/// ```
/// use cairn_bench::NbdUri;
/// let uri: NbdUri = "nbd+unix:///db%40monday?socket=/run/nbd.sock".parse().unwrap();
/// assert_eq!(uri.to_string(), "nbd+unix:///db%40monday?socket=/run/nbd.sock");
/// assert!("nbds://host/db".parse::<NbdUri>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUri {
    pub(crate) place: Place,
    /// Name of the export; empty: the server's default.
    pub(crate) export: String,
}

fn decoded(text: &str, what: &str) -> Result<String> {
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| invalid(format!("the {what} of the NBD URI is no UTF-8")))?;
    Ok(decoded.into_owned())
}

impl FromStr for NbdUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            invalid(format!("NBD URI {text:?}: {why}; write nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=/PATH"))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("no \"://\""))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decoded(export, "export")?;
        let place = match scheme {
            "nbd+unix" => {
                if !authority.is_empty() {
                    return Err(wrong("a unix socket has no host: three slashes"));
                }
                let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
                let socket = socket.filter(|path| !path.is_empty()).ok_or_else(|| wrong("no socket="))?;
                Place::Unix(decoded(socket, "socket")?.into())
            }
            "nbd" => tcp(authority).map_err(wrong)?,
            "nbds" | "nbds+unix" => {
                let text =
                    format!("NBD URI {text:?}: TLS is not measured; measure without, on a unix socket or on loopback");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            _ => return Err(wrong("the scheme is neither nbd nor nbd+unix")),
        };
        Ok(Self { place, export })
    }
}

fn tcp(authority: &str) -> Result<Place, &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("the bracket is not closed")?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| "the port is not a number up to 65535")?,
        None => PORT,
    };
    match host {
        "" => Err("no host"),
        host => Ok(Place::Tcp { host: host.to_owned(), port }),
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = utf8_percent_encode(&self.export, ESCAPED);
        match &self.place {
            Place::Unix(path) => {
                let path = path.to_string_lossy();
                write!(f, "nbd+unix:///{export}?socket={}", utf8_percent_encode(&path, ESCAPED))
            }
            Place::Tcp { host, port } if host.contains(':') => write!(f, "nbd://[{host}]:{port}/{export}"),
            Place::Tcp { host, port } => write!(f, "nbd://{host}:{port}/{export}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_shown() {
        for (text, shown) in [
            ("nbd://localhost", "nbd://localhost:10809/"),
            ("nbd://localhost/", "nbd://localhost:10809/"),
            ("nbd://127.0.0.1:5/db", "nbd://127.0.0.1:5/db"),
            ("nbd://[::1]/db%40a", "nbd://[::1]:10809/db%40a"),
            ("nbd://[::1]:7/a/b", "nbd://[::1]:7/a/b"),
            ("nbd+unix:///?socket=/x", "nbd+unix:///?socket=/x"),
            ("nbd+unix:///d%20b?a=b&socket=/run/a%20b", "nbd+unix:///d%20b?socket=/run/a%20b"),
        ] {
            let uri: NbdUri = text.parse().unwrap();
            assert_eq!(uri.to_string(), shown);
            assert_eq!(shown.parse::<NbdUri>().unwrap(), uri);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("nbd:/x", "://"),
            ("http://x/y", "scheme"),
            ("nbd:///x", "no host"),
            ("nbd://h:x/", "65535"),
            ("nbd://[::1/", "bracket"),
            ("nbd+unix:///db", "socket="),
            ("nbd+unix:///db?socket=", "socket="),
            ("nbd+unix://host/db?socket=/x", "three slashes"),
            ("nbds://h/x", "TLS"),
            ("nbd://h/%ff", "UTF-8"),
        ] {
            let error = text.parse::<NbdUri>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

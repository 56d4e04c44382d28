//! Queries, moments and lines.

use axum::{
    body::Body,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use http::{header, request::Parts};
use serde::{Serialize, de::DeserializeOwned};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::fault::{Answer, Fault};

/// Most items of one page, and how many there are unless it is said.
pub(super) const MOST: usize = 1000;
/// Records that an export reads at once.
pub(super) const AT_ONCE: usize = 500;

/// A query of which every key is known.
pub(super) struct Search<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Search<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Answer<Self> {
        serde_urlencoded::from_str(parts.uri.query().unwrap_or_default())
            .map(Self)
            .map_err(|e| Fault::bad(format!("the query cannot be read: {e}")))
    }
}

/// A moment as a query says it: `2026-11-22T07:00:00Z`, or a day.
pub(super) fn parsed(key: &str, text: Option<&String>) -> Answer<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || Fault::bad(format!("{key} is {text:?}: a moment like 2026-11-22T07:00:00Z, or a day"));
    let forms = [text.clone(), format!("{text}Z"), format!("{text}T00:00:00Z")];
    let at = forms.iter().find_map(|form| OffsetDateTime::parse(form, &Rfc3339).ok()).ok_or_else(wrong)?;
    Ok(Some((at.unix_timestamp_nanos().max(0) / 1000) as u64))
}

/// A moment as answers say it, in UTC.
pub(super) fn said(us: u64) -> String {
    format!("{}Z", crate::rest::moment(us))
}

pub(super) fn limit(wanted: Option<usize>) -> Answer<usize> {
    match wanted {
        Some(0) => Err(Fault::bad("limit is 1 or more")),
        wanted => Ok(wanted.unwrap_or(MOST).min(MOST)),
    }
}

/// A part of an export: its items, and where to go on.
pub(super) type Read<T> = (Vec<T>, Option<String>);

/// All of a list, each item a line of JSON.
pub(super) fn lines<T>(read: impl Fn(Option<&str>) -> Answer<Read<T>> + Send + 'static) -> Answer<Response>
where
    T: Serialize + Send + 'static,
{
    // The first part is read before the answer begins, so that a refusal is one.
    let first = read(None)?;
    let parts = stream::try_unfold((Some(first), read), |(ready, read)| async move {
        let Some((items, next)) = ready else { return Ok::<_, Fault>(None) };
        let mut text = Vec::new();
        for item in items {
            serde_json::to_writer(&mut text, &item)
                .map_err(|e| Fault::internal(format!("a record has no form: {e}")))?;
            text.push(b'\n');
        }
        let ready = next.map(|marker| read(Some(&marker))).transpose()?;
        Ok(Some((text, (ready, read))))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(parts)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_three_forms() {
        let of = |text: &str| parsed("from", Some(&text.to_owned())).ok().flatten();
        assert_eq!(of("1970-01-01T00:00:01Z"), Some(1_000_000));
        assert_eq!(of("1970-01-01T01:00:01.5+01:00"), Some(1_500_000));
        assert_eq!(of("1970-01-02T00:00:00.000001"), Some(86_400_000_001));
        assert_eq!(of("1970-01-02"), Some(86_400_000_000));
        assert_eq!(of("1969-01-01"), Some(0));
        assert!(parsed("from", Some(&"yesterday".to_owned())).is_err() && parsed("from", None).unwrap().is_none());
        assert_eq!(of(&said(86_400_000_001)), Some(86_400_000_001));
    }
}

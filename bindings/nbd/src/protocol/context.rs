//! Metadata context names and the queries for them.
//!
//! Two contexts exist: `base:allocation`, and `cairn:changed-since=SNAPSHOT`, where SNAPSHOT is the name of a snapshot
//! of the exported volume, or `volume@snapshot` for one of another volume (a clone's origin, say).

use super::Violation;

/// What one query asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextQuery<'a> {
    /// `base:`: everything in the namespace, in a listing; selects nothing.
    BaseWildcard,
    /// `base:allocation`.
    Allocation,
    /// `cairn:` or `cairn:changed-since=`: one context for each snapshot of the volume, in a listing; selects nothing.
    CairnWildcard,
    /// `cairn:changed-since=SNAPSHOT`.
    ChangedSince(&'a str),
    /// Of another namespace, or a leaf that is not known: to be ignored.
    Other,
}

/// Prefix of the context that names a snapshot.
pub(crate) const CHANGED_SINCE: &str = "cairn:changed-since=";

/// Reads one query.
///
/// # Errors
/// The query has no namespace: it must be `namespace:leaf`.
pub fn parse_context_query(query: &str) -> Result<ContextQuery<'_>, Violation> {
    let Some((namespace, leaf)) = query.split_once(':') else {
        return Err(Violation::Malformed("a metadata query has no namespace: write namespace:leaf"));
    };
    Ok(match (namespace, leaf) {
        ("", _) => return Err(Violation::Malformed("a metadata query has an empty namespace")),
        ("base", "") => ContextQuery::BaseWildcard,
        ("base", "allocation") => ContextQuery::Allocation,
        ("cairn", "" | "changed-since=") => ContextQuery::CairnWildcard,
        ("cairn", leaf) => leaf.strip_prefix("changed-since=").map_or(ContextQuery::Other, ContextQuery::ChangedSince),
        _ => ContextQuery::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_both_namespaces() {
        for (query, expected) in [
            ("base:", ContextQuery::BaseWildcard),
            ("base:allocation", ContextQuery::Allocation),
            ("base:other", ContextQuery::Other),
            ("cairn:", ContextQuery::CairnWildcard),
            ("cairn:changed-since=", ContextQuery::CairnWildcard),
            ("cairn:changed-since=monday", ContextQuery::ChangedSince("monday")),
            ("cairn:changed-since=db@a:b", ContextQuery::ChangedSince("db@a:b")),
            ("cairn:dirty", ContextQuery::Other),
            ("qemu:dirty-bitmap:x", ContextQuery::Other),
        ] {
            assert_eq!(parse_context_query(query), Ok(expected), "{query}");
        }
        assert!(parse_context_query("base").is_err());
        assert!(parse_context_query(":allocation").is_err());
        assert!(parse_context_query("").is_err());
    }
}

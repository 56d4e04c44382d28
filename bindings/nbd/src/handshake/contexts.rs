//! `LIST_META_CONTEXT` and `SET_META_CONTEXT`.

use super::{Context, ContextKind, Exports, Handshake, Opened, Selected, put_error, put_violation};
use crate::protocol::{
    ContextQuery, MAX_CONTEXTS, MetaRequest, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, REP_ACK, REP_ERR_INVALID,
    REP_ERR_TOO_BIG, REP_META_CONTEXT, ReplyStyle,
    context::CHANGED_SINCE,
    handshake::{put_option_error, put_option_reply},
    parse_context_query, parse_meta_request,
};
use std::collections::BTreeSet;

const ALLOCATION: &str = "base:allocation";

impl<X: Exports> Handshake<X> {
    pub(super) fn list_contexts(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = OPT_LIST_META_CONTEXT;
        let Some((opened, queries)) = self.meta_request(option, data, out) else { return };
        // Without queries the wildcard stands for the snapshots: a volume can have ten thousand.
        let names = if queries.is_empty() {
            Ok(BTreeSet::from([ALLOCATION.to_owned(), CHANGED_SINCE.to_owned()]))
        } else {
            self.matching(&opened, &queries)
        };
        match names {
            Ok(names) => {
                names.iter().for_each(|name| put_context(out, option, 0, name));
                put_option_reply(out, option, REP_ACK, &[]);
            }
            Err(error) => put_error(out, option, &error),
        }
    }

    /// What the queries of a listing find, each once.
    fn matching(&self, opened: &Opened<X::Export>, queries: &[&str]) -> Result<BTreeSet<String>, cairn_engine::Error> {
        let mut names = BTreeSet::new();
        for query in queries {
            match parse_context_query(query) {
                Ok(ContextQuery::BaseWildcard | ContextQuery::Allocation) => {
                    names.insert(ALLOCATION.to_owned());
                }
                Ok(ContextQuery::CairnWildcard) => {
                    names.extend(self.exports.snapshots(opened)?.iter().map(|name| format!("{CHANGED_SINCE}{name}")));
                }
                Ok(ContextQuery::ChangedSince(base)) if self.exports.base(opened, base).is_ok() => {
                    names.insert((*query).to_owned());
                }
                // `meta_request` has refused queries that are none.
                Ok(ContextQuery::ChangedSince(_) | ContextQuery::Other) | Err(_) => {}
            }
        }
        Ok(names)
    }

    pub(super) fn set_contexts(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = OPT_SET_META_CONTEXT;
        // Whatever comes of it, the previous selection is gone.
        self.selected = None;
        let Some((opened, queries)) = self.meta_request(option, data, out) else { return };
        let (mut names, mut contexts) = (Vec::new(), Vec::new());
        for query in queries {
            let kind = match parse_context_query(query) {
                _ if names.contains(&query) => continue,
                Ok(ContextQuery::Allocation) => ContextKind::Allocation,
                Ok(ContextQuery::ChangedSince(name)) => match self.exports.base(&opened, name) {
                    Ok(base) => ContextKind::ChangedSince(base),
                    Err(_) => continue,
                },
                _ => continue,
            };
            if names.len() == MAX_CONTEXTS {
                return put_option_error(
                    out,
                    option,
                    REP_ERR_TOO_BIG,
                    "more than 16 metadata contexts on a connection",
                );
            }
            names.push(query);
            contexts.push(Context { id: names.len() as u32, kind });
        }
        for (name, context) in names.iter().zip(&contexts) {
            put_context(out, option, context.id, name);
        }
        put_option_reply(out, option, REP_ACK, &[]);
        self.selected = Some(Selected { export: opened.name, contexts });
    }

    /// The export and the queries of either option, or none after an error was answered.
    fn meta_request<'a>(
        &self,
        option: u32,
        data: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Option<(Opened<X::Export>, Vec<&'a str>)> {
        if self.style == ReplyStyle::Simple {
            let text = "metadata contexts need structured replies or extended headers first";
            put_option_error(out, option, REP_ERR_INVALID, text);
            return None;
        }
        let MetaRequest { name, queries } = match parse_meta_request(data) {
            Ok(request) => request,
            Err(violation) => {
                put_violation(out, option, violation);
                return None;
            }
        };
        if let Some(violation) = queries.iter().find_map(|query| parse_context_query(query).err()) {
            put_violation(out, option, violation);
            return None;
        }
        match self.exports.open(name) {
            Ok(opened) => Some((opened, queries)),
            Err(error) => {
                put_error(out, option, &error);
                None
            }
        }
    }
}

fn put_context(out: &mut Vec<u8>, option: u32, id: u32, name: &str) {
    put_option_reply(out, option, REP_META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()]);
}

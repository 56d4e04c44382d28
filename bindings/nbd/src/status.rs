//! `BLOCK_STATUS`: extents of the volume as the selected metadata contexts see them.

use crate::{
    connection::Connection,
    exports::Base,
    handshake::{Context, ContextKind},
    protocol::{self, Descriptor, RequestId, STATE_CHANGED, STATE_HOLE, STATE_ZERO},
};
use cairn_engine::{Error, ErrorKind, Extent, ExtentKind, Result};
use std::rc::Rc;

/// Most extents in one context's answer; clients ask again from where it ends.
const MAX_EXTENTS: usize = 8192;

/// Bytes that an answer for so many contexts can take.
pub(crate) fn reply_bound(contexts: usize) -> usize {
    contexts * (40 + MAX_EXTENTS * 16)
}

/// Answers a block status request for all contexts, or for those with the given ids.
pub(crate) async fn report(conn: Rc<Connection>, id: RequestId, length: u64, one: bool, only: Option<Vec<u32>>) {
    let bound = reply_bound(conn.contexts.len());
    let chosen: Vec<&Context<Base>> = match &only {
        None => conn.contexts.iter().collect(),
        Some(ids) => conn.contexts.iter().filter(|context| ids.contains(&context.id)).collect(),
    };
    if only.is_some_and(|ids| ids.len() != chosen.len()) {
        return conn.refuse(
            id,
            protocol::EINVAL,
            "a block status payload names a context that was not selected",
            bound,
        );
    }
    let mut reply = Vec::new();
    for (i, context) in chosen.iter().enumerate() {
        match extents(&conn, context, id.offset, length, one).await {
            Ok(extents) => {
                let last = i + 1 == chosen.len();
                protocol::put_block_status(&mut reply, conn.style, id, context.id, &extents, last);
            }
            // Nothing of the reply was sent yet: the error is the whole of it.
            Err(error) => return conn.fail(id, &error, bound),
        }
    }
    conn.answer(bound, |out| out.append(&mut reply));
}

async fn extents(
    conn: &Connection,
    context: &Context<Base>,
    offset: u64,
    length: u64,
    one: bool,
) -> Result<Vec<Descriptor>> {
    let (page, data, hole) = match &context.kind {
        ContextKind::Allocation => (conn.volume.extents(offset, length).await?, 0, STATE_HOLE | STATE_ZERO),
        ContextKind::ChangedSince(base) => {
            (conn.volume.changed_since(&base.target, offset, length).await?, STATE_CHANGED, 0)
        }
    };
    let most = if one { 1 } else { MAX_EXTENTS };
    let descriptors = describe(&page.extents, offset, length, most, |kind| match kind {
        ExtentKind::Data => data,
        ExtentKind::Hole => hole,
    });
    if descriptors.is_empty() {
        return Err(Error::new(ErrorKind::Io, format!("no extent is known at offset {offset}")));
    }
    Ok(descriptors)
}

/// The extents that follow one another from `offset` on, cut to the range and to a number of descriptors.
fn describe(
    extents: &[Extent],
    offset: u64,
    length: u64,
    most: usize,
    status: impl Fn(ExtentKind) -> u32,
) -> Vec<Descriptor> {
    let (mut at, end) = (offset, offset.saturating_add(length));
    let mut descriptors: Vec<Descriptor> = Vec::with_capacity(extents.len().min(most));
    for extent in extents {
        if extent.offset != at || at >= end || extent.length == 0 {
            break;
        }
        let length = extent.length.min(end - at);
        let status = status(extent.kind);
        let full = descriptors.len() == most;
        match descriptors.last_mut() {
            Some(last) if last.status == status => last.length += length,
            _ if full => break,
            _ => descriptors.push(Descriptor { length, status }),
        }
        at += length;
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64, kind: ExtentKind) -> Extent {
        Extent { offset, length, kind }
    }

    fn flag(kind: ExtentKind) -> u32 {
        u32::from(kind == ExtentKind::Hole)
    }

    #[test]
    fn extents_are_cut_to_the_range_and_the_number() {
        let extents = [
            extent(4096, 4096, ExtentKind::Data),
            extent(8192, 4096, ExtentKind::Data),
            extent(12288, 1 << 40, ExtentKind::Hole),
        ];
        let of = |length, most| describe(&extents, 4096, length, most, flag);
        assert_eq!(of(12288, 9), [Descriptor { length: 8192, status: 0 }, Descriptor { length: 4096, status: 1 }]);
        assert_eq!(of(12288, 1), [Descriptor { length: 8192, status: 0 }], "neighbours of one kind are one extent");
        assert_eq!(of(512, 9), [Descriptor { length: 512, status: 0 }]);
    }

    #[test]
    fn gaps_end_the_answer_instead_of_shifting_it() {
        let extents = [extent(0, 4096, ExtentKind::Data), extent(8192, 4096, ExtentKind::Data)];
        assert_eq!(describe(&extents, 0, 12288, 9, flag), [Descriptor { length: 4096, status: 0 }]);
        assert!(describe(&extents, 4096, 4096, 9, flag).is_empty());
    }
}

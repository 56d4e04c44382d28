//! Any block of a map, for comparisons.

use super::{
    Map, covers,
    page::{Content, LEAF},
    read,
};
use crate::{chunks::Chunks, crypt::new_master, error::Result};

fn below(n: u64) -> u64 {
    let random = new_master();
    u64::from_le_bytes([random[0], random[1], random[2], random[3], random[4], random[5], random[6], random[7]])
        % n.max(1)
}

/// A block, and what the map says of it: one below a page that there is, if there is any. `None` for a volume of no blocks.
pub(crate) async fn any(chunks: &Chunks, map: Map, blocks: u64) -> Result<Option<(u64, Content)>> {
    if blocks == 0 {
        return Ok(None);
    }
    let (mut id, mut base) = (map.root, 0);
    for height in (1..=map.height).rev() {
        let page = read::inner(chunks, &id).await?;
        let there: Vec<u64> = (0..).zip(page.iter()).filter(|(_, id)| !id.is_none()).map(|(slot, _)| slot).collect();
        let Some(slot) = there.get(below(there.len() as u64) as usize) else { break };
        base += slot * covers(height - 1);
        id = page[*slot as usize];
    }
    let within = below(u64::from(LEAF).min(blocks - base));
    let mut at = 0;
    for run in read::leaf(chunks, &id).await?.runs {
        if within < at + u64::from(run.blocks) {
            return Ok(Some((base + within, run.content.after((within - at) as u32))));
        }
        at += u64::from(run.blocks);
    }
    Ok(None)
}

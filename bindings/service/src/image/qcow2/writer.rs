//! A qcow2 file of a disk, written in one pass over what the disk holds.
//!
//! Layout: header, table of reference blocks, first table; then for each 512 MiB of the disk that hold something a second table and its data;
//! reference blocks at the end. Each cluster is used once.

use super::{COPIED, MAGIC};
use crate::fault::{Answer, Fault};

const BITS: u32 = 16;
/// Bytes of a cluster.
const CLUSTER: u64 = 1 << BITS;
/// Entries of a second table.
const ENTRIES: u64 = CLUSTER / 8;
/// Clusters whose references one block counts.
const COUNTED: u64 = CLUSTER / 2;

/// Where a file is written.
pub(crate) trait Target: Send {
    /// Writes whole clusters at a multiple of their size.
    fn write(&mut self, offset: u64, data: &[u8]) -> impl Future<Output = Answer<()>> + Send;
}

/// A file that is being written.
pub(crate) struct Writer<T> {
    target: T,
    size: u64,
    /// Clusters of the table of reference blocks.
    table: u64,
    /// Where second tables are.
    l1: Vec<u64>,
    l2: Vec<u64>,
    open: Option<usize>,
    /// The next free cluster.
    free: u64,
}

fn bytes(entries: &[u64]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(CLUSTER as usize), 0);
    bytes
}

impl<T: Target> Writer<T> {
    /// For a disk of `size` bytes, at most 64 TiB.
    pub(crate) fn new(target: T, size: u64) -> Self {
        let second = size.div_ceil(CLUSTER).div_ceil(ENTRIES);
        // All that there can be: data, second tables, blocks of counts, and what stands in front.
        let most = size.div_ceil(CLUSTER) + second;
        let most = most + most.div_ceil(COUNTED) + second.div_ceil(ENTRIES) + 64;
        let table = most.div_ceil(COUNTED).div_ceil(ENTRIES);
        let free = 1 + table + second.div_ceil(ENTRIES).max(1);
        let l1 = vec![0; usize::try_from(second).unwrap_or(0)];
        Self { target, size, table, l1, l2: vec![0; ENTRIES as usize], open: None, free }
    }

    /// Writes data of the disk: from a multiple of 64 KiB on, after all that was written before. What is left out is zeros.
    pub(crate) async fn write(&mut self, offset: u64, data: &[u8]) -> Answer<()> {
        for (cluster, part) in (offset / CLUSTER..).zip(data.chunks(CLUSTER as usize)) {
            let index = usize::try_from(cluster / ENTRIES).unwrap_or(usize::MAX);
            if self.open != Some(index) {
                self.close_table().await?;
                self.open = Some(index);
                let at = self.take(1);
                *self.l1.get_mut(index).ok_or_else(out_of_range)? = at | COPIED;
            }
            let at = self.take(1);
            let slot = usize::try_from(cluster % ENTRIES).unwrap_or(usize::MAX);
            *self.l2.get_mut(slot).ok_or_else(out_of_range)? = at | COPIED;
            let mut whole = part.to_vec();
            whole.resize(CLUSTER as usize, 0);
            self.target.write(at, &whole).await?;
        }
        Ok(())
    }

    fn take(&mut self, clusters: u64) -> u64 {
        let at = self.free * CLUSTER;
        self.free += clusters;
        at
    }

    async fn close_table(&mut self) -> Answer<()> {
        let Some(index) = self.open.take() else { return Ok(()) };
        let at = self.l1.get(index).ok_or_else(out_of_range)? & !COPIED;
        self.target.write(at, &bytes(&self.l2)).await?;
        self.l2.fill(0);
        Ok(())
    }

    /// Writes what stands in front and behind. Answers the target and how long the file is.
    pub(crate) async fn finish(mut self) -> Answer<(T, u64)> {
        self.close_table().await?;
        let l1_at = (1 + self.table) * CLUSTER;
        self.target.write(l1_at, &bytes(&self.l1)).await?;
        // The blocks count themselves, too.
        let mut blocks = 1;
        while (self.free + blocks).div_ceil(COUNTED) > blocks {
            blocks += 1;
        }
        let first = self.take(blocks);
        let places: Vec<u64> = (0..blocks).map(|n| first + n * CLUSTER).collect();
        for (n, at) in (0_u64..).zip(&places) {
            let used = (self.free - n * COUNTED).min(COUNTED);
            let mut block = vec![0; CLUSTER as usize];
            block.chunks_exact_mut(2).take(used as usize).for_each(|count| count.copy_from_slice(&[0, 1]));
            self.target.write(*at, &block).await?;
        }
        let mut table = bytes(&places);
        table.resize((self.table * CLUSTER) as usize, 0);
        self.target.write(CLUSTER, &table).await?;
        let header = self.header(l1_at);
        self.target.write(0, &header).await?;
        let length = self.free * CLUSTER;
        Ok((self.target, length))
    }

    fn header(&self, l1_at: u64) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        let u32 = |header: &mut Vec<u8>, value: u32| header.extend(value.to_be_bytes());
        let u64 = |header: &mut Vec<u8>, value: u64| header.extend(value.to_be_bytes());
        u32(&mut header, 3);
        // No backing file.
        u64(&mut header, 0);
        u32(&mut header, 0);
        u32(&mut header, BITS);
        u64(&mut header, self.size);
        // Not encrypted.
        u32(&mut header, 0);
        u32(&mut header, self.l1.len() as u32);
        u64(&mut header, l1_at);
        u64(&mut header, CLUSTER);
        u32(&mut header, self.table as u32);
        // No snapshots, no features.
        u32(&mut header, 0);
        u64(&mut header, 0);
        for _ in 0..3 {
            u64(&mut header, 0);
        }
        // Counts of 2^4 bits; the length of the header; what follows is zeros, and so the end of the extensions.
        u32(&mut header, 4);
        u32(&mut header, 104);
        header.resize(CLUSTER as usize, 0);
        header
    }
}

fn out_of_range() -> Fault {
    Fault::internal("data behind the end of the disk")
}

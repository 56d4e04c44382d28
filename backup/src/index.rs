//! The index: which packs hold a chunk, and where. A cache in RocksDB that is made anew from the packs whenever it is missing or behind;
//! what it says is checked by whoever reads a chunk, and nothing is deleted on its word.

use std::{fmt, path::Path, sync::Arc};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamilyDescriptor, CompactOptions,
    DB, Options, SliceTransform, WriteBatch,
};

use crate::{
    chunk::{ChunkId, Codec, ID_LEN},
    error::{Error, ErrorKind, Result},
    log::packs::PackName,
    pack::{Entry, Kind},
};

/// Chunk name, then pack: where the chunk is in the pack.
const CHUNKS: &str = "chunks";
/// Packs whose chunks are all in the index.
const PACKS: &str = "packs";
/// Names of pages and chunks that a collection has come by.
const MARKS: &str = "marks";
/// What RocksDB may keep of blocks, indexes and filters, in bytes.
const CACHE: usize = 32 << 20;
/// What it may gather before it writes, in bytes.
const GATHERED: usize = 8 << 20;
const NUMBER: usize = 4;
/// Where the last record of the log that was seen is noted: number, hash.
const SEEN: &[u8] = b"seen";
/// Where it is noted how the files are laid out.
const LAYOUT: &[u8] = b"layout";
/// Indexes and filters of files in partitions, each for itself in the cache.
const PARTITIONED: &[u8] = b"partitioned";
/// Files that are open at once: more come to be opened for each look-up anew.
const OPEN_FILES: i32 = 256;
/// Directories that are tried when others hold an index open: one for each program that uses the repository at the same time.
const SIDE_BY_SIDE: u32 = 64;

/// A chunk and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Located {
    pub(crate) pack: PackName,
    pub(crate) entry: Entry,
}

/// The index. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Index {
    db: Arc<DB>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index({})", self.db.path().display())
    }
}

fn failed(error: rocksdb::Error) -> Error {
    Error::new(
        ErrorKind::Store,
        format!("the chunk index failed ({error}): it is a cache, delete its directory and try again"),
    )
}

fn pack_key(pack: &PackName) -> Vec<u8> {
    let mut key = pack.session.as_bytes().to_vec();
    key.extend_from_slice(&pack.number.to_be_bytes());
    key
}

fn pack_of(key: &[u8]) -> Option<PackName> {
    let (session, number) = key.split_last_chunk::<NUMBER>()?;
    Some(PackName { session: String::from_utf8(session.to_vec()).ok()?, number: u32::from_be_bytes(*number) })
}

fn chunk_key(id: &ChunkId, pack: &PackName) -> Vec<u8> {
    let mut key = id.0.to_vec();
    key.extend_from_slice(&pack_key(pack));
    key
}

fn encode(entry: &Entry) -> [u8; 14] {
    let mut value = [0; 14];
    value[0..4].copy_from_slice(&entry.offset.to_le_bytes());
    value[4..8].copy_from_slice(&entry.stored.to_le_bytes());
    value[8..12].copy_from_slice(&entry.length.to_le_bytes());
    value[12] = entry.codec.to_byte();
    value[13] = matches!(entry.kind, Kind::Page).into();
    value
}

fn decode(key: &[u8], value: &[u8]) -> Option<Located> {
    let (id, pack) = key.split_first_chunk::<ID_LEN>()?;
    let number = |at: usize| Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?));
    let entry = Entry {
        id: ChunkId(*id),
        offset: number(0)?,
        stored: number(4)?,
        length: number(8)?,
        codec: Codec::from_byte(*value.get(12)?)?,
        kind: if *value.get(13)? == 0 { Kind::Data } else { Kind::Page },
    };
    Some(Located { pack: pack_of(pack)?, entry })
}

impl Index {
    /// The index in a directory, which is made. One that cannot be opened is deleted and begun anew; while another program has it open, one
    /// beside it is used.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|e| {
            Error::new(ErrorKind::Store, format!("cannot make the cache directory {}: {e}", directory.display()))
        })?;
        for number in 0..SIDE_BY_SIDE {
            let path = directory.join(format!("index-{number}"));
            match open_db(&path) {
                Ok(db) => return Ok(Self { db: Arc::new(db) }),
                Err(error) if is_locked(&error) => {}
                Err(_) => {
                    drop(std::fs::remove_dir_all(&path));
                    let db = open_db(&path).map_err(|e| failed(e).within(path.display()))?;
                    return Ok(Self { db: Arc::new(db) });
                }
            }
        }
        let text = format!("{SIDE_BY_SIDE} programs use the cache {} at the same time", directory.display());
        Err(Error::new(ErrorKind::Store, text))
    }

    fn family(&self, name: &str) -> Result<&rocksdb::ColumnFamily> {
        self.db.cf_handle(name).ok_or_else(|| Error::new(ErrorKind::Store, "the chunk index lacks a part: delete it"))
    }

    /// Number and hash of the last record of the log that was seen.
    pub(crate) fn seen(&self) -> Result<Option<(u64, String)>> {
        let value = self.db.get(SEEN).map_err(failed)?;
        Ok(value.and_then(|value| {
            let (number, hash) = value.split_first_chunk()?;
            Some((u64::from_le_bytes(*number), String::from_utf8(hash.to_vec()).ok()?))
        }))
    }

    pub(crate) fn note_seen(&self, number: u64, hash: &str) -> Result<()> {
        let value = [&number.to_le_bytes(), hash.as_bytes()].concat();
        self.db.put(SEEN, value).map_err(failed)
    }

    /// Adds a pack and all that is in it.
    pub(crate) fn add(&self, pack: &PackName, entries: &[Entry]) -> Result<()> {
        let (chunks, packs) = (self.family(CHUNKS)?, self.family(PACKS)?);
        let mut batch = WriteBatch::default();
        entries.iter().for_each(|entry| batch.put_cf(chunks, chunk_key(&entry.id, pack), encode(entry)));
        batch.put_cf(packs, pack_key(pack), ids(entries));
        self.db.write(batch).map_err(failed)
    }

    /// Takes a pack out.
    pub(crate) fn remove(&self, pack: &PackName) -> Result<()> {
        let (chunks, packs) = (self.family(CHUNKS)?, self.family(PACKS)?);
        let Some(ids) = self.db.get_cf(packs, pack_key(pack)).map_err(failed)? else { return Ok(()) };
        let mut batch = WriteBatch::default();
        for id in ids.as_chunks::<ID_LEN>().0 {
            batch.delete_cf(chunks, chunk_key(&ChunkId(*id), pack));
        }
        batch.delete_cf(packs, pack_key(pack));
        self.db.write(batch).map_err(failed)
    }

    pub(crate) fn has_pack(&self, pack: &PackName) -> Result<bool> {
        Ok(self.db.get_pinned_cf(self.family(PACKS)?, pack_key(pack)).map_err(failed)?.is_some())
    }

    /// All packs that are in it, in order of their names.
    pub(crate) fn packs(&self) -> Result<Vec<PackName>> {
        let iterator = self.db.iterator_cf(self.family(PACKS)?, rocksdb::IteratorMode::Start);
        let names = iterator.map(|item| item.map(|(key, _)| pack_of(&key)).map_err(failed));
        Ok(names.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Everything that is in a pack, in order of its place there.
    pub(crate) fn entries(&self, pack: &PackName) -> Result<Vec<Entry>> {
        let (chunks, packs) = (self.family(CHUNKS)?, self.family(PACKS)?);
        let Some(ids) = self.db.get_cf(packs, pack_key(pack)).map_err(failed)? else { return Ok(Vec::new()) };
        let mut entries = Vec::with_capacity(ids.len() / ID_LEN);
        for id in ids.as_chunks::<ID_LEN>().0 {
            let key = chunk_key(&ChunkId(*id), pack);
            let value = self.db.get_pinned_cf(chunks, &key).map_err(failed)?;
            match value.and_then(|value| decode(&key, &value)) {
                Some(located) => entries.push(located.entry),
                // Taken out just now.
                None if !self.has_pack(pack)? => return Ok(Vec::new()),
                // What is not seen would count as not needed.
                None => {
                    let text =
                        format!("the chunk index lacks part of pack {pack}: it is a cache, delete its directory");
                    return Err(Error::new(ErrorKind::Store, text));
                }
            }
        }
        entries.sort_unstable_by_key(|entry| entry.offset);
        entries.dedup();
        Ok(entries)
    }

    /// Where a chunk is: every pack that holds it, in order of their names.
    pub(crate) fn find(&self, id: &ChunkId) -> Result<Vec<Located>> {
        let mut found = Vec::new();
        for item in self.db.prefix_iterator_cf(self.family(CHUNKS)?, id.0) {
            let (key, value) = item.map_err(failed)?;
            if !key.starts_with(&id.0) {
                break;
            }
            found.extend(decode(&key, &value));
        }
        Ok(found)
    }

    /// Forgets all marks.
    pub(crate) fn clear_marks(&self) -> Result<()> {
        self.db.delete_range_cf(self.family(MARKS)?, [0u8].as_slice(), [0xffu8].as_slice()).map_err(failed)
    }

    /// Marks a chunk as one of this kind; whether it was not marked so before. What a page holds may also be data of a volume: they are
    /// marked each for itself, since only a page leads further.
    pub(crate) fn mark(&self, kind: Kind, id: &ChunkId) -> Result<bool> {
        if self.is_marked(kind, id)? {
            return Ok(false);
        }
        self.db.put_cf(self.family(MARKS)?, mark_key(kind, id), []).map_err(failed)?;
        Ok(true)
    }

    pub(crate) fn is_marked(&self, kind: Kind, id: &ChunkId) -> Result<bool> {
        Ok(self.db.get_pinned_cf(self.family(MARKS)?, mark_key(kind, id)).map_err(failed)?.is_some())
    }

    /// Calls `f` for each chunk that is marked as one of a kind.
    pub(crate) fn for_marked(&self, kind: Kind, mut f: impl FnMut(ChunkId) -> Result<()>) -> Result<()> {
        let first = mark_key(kind, &ChunkId([0; ID_LEN]));
        let from = rocksdb::IteratorMode::From(&first, rocksdb::Direction::Forward);
        for item in self.db.iterator_cf(self.family(MARKS)?, from) {
            let (key, _) = item.map_err(failed)?;
            match key.split_first() {
                Some((k, id)) if *k == first[0] => f(ChunkId(id.try_into().unwrap_or([0; ID_LEN])))?,
                _ => break,
            }
        }
        Ok(())
    }
}

fn mark_key(kind: Kind, id: &ChunkId) -> [u8; 1 + ID_LEN] {
    let mut key = [matches!(kind, Kind::Page).into(); 1 + ID_LEN];
    key[1..].copy_from_slice(&id.0);
    key
}

fn ids(entries: &[Entry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.id.0).collect()
}

fn open_db(path: &Path) -> Result<DB, rocksdb::Error> {
    let cache = Cache::new_lru_cache(CACHE);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_size(GATHERED);
    options.set_max_open_files(OPEN_FILES);
    // In shards, few files are enough to push each other out.
    options.set_table_cache_num_shard_bits(0);
    options.set_keep_log_file_num(2);
    // Opened by each command: a few files, and no threads for them.
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.set_block_based_table_factory(&table(&cache));
    let mut chunks = options.clone();
    chunks.set_prefix_extractor(SliceTransform::create_fixed_prefix(ID_LEN));
    let mut by_prefix = table(&cache);
    // They are looked for by their names alone.
    by_prefix.set_whole_key_filtering(false);
    chunks.set_block_based_table_factory(&by_prefix);
    let families = [
        ColumnFamilyDescriptor::new(CHUNKS, chunks),
        ColumnFamilyDescriptor::new(PACKS, options.clone()),
        ColumnFamilyDescriptor::new(MARKS, options.clone()),
    ];
    let db = DB::open_cf_descriptors(&options, path, families)?;
    lay_out(&db)?;
    Ok(db)
}

/// A filter in one piece is larger than what a shard of the cache takes, and would be read for each name that is not there.
fn table(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    table
}

/// Files that an earlier version wrote are written anew, as those of this one are.
fn lay_out(db: &DB) -> Result<(), rocksdb::Error> {
    if db.get(LAYOUT)?.as_deref() == Some(PARTITIONED) {
        return Ok(());
    }
    let mut all = CompactOptions::default();
    all.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    for family in [CHUNKS, PACKS, MARKS].into_iter().filter_map(|name| db.cf_handle(name)) {
        db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &all);
    }
    db.put(LAYOUT, PARTITIONED)
}

/// RocksDB has one kind of error for a lock that others hold and for a disk that fails; paths may have any word in them.
fn is_locked(error: &rocksdb::Error) -> bool {
    let of_a_lock = ["IO error: lock hold by ", "IO error: While lock file: "];
    error.kind() == rocksdb::ErrorKind::IOError && of_a_lock.iter().any(|text| error.as_ref().starts_with(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u8, offset: u32) -> Entry {
        Entry { id: ChunkId([n; ID_LEN]), offset, stored: 7, length: 9, codec: Codec::Zstd, kind: Kind::Page }
    }

    fn pack(session: &str, number: u32) -> PackName {
        PackName { session: session.to_owned(), number }
    }

    #[test]
    fn chunks_are_found_in_every_pack_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        let (a, b) = (pack("a", 1), pack("b", 300));
        index.add(&a, &[entry(1, 8), entry(2, 20)]).unwrap();
        index.add(&b, &[entry(2, 100), entry(3, 8)]).unwrap();
        let found = |n: u8| index.find(&ChunkId([n; ID_LEN])).unwrap();
        assert_eq!(found(1), [Located { pack: a.clone(), entry: entry(1, 8) }]);
        assert_eq!(found(2).iter().map(|l| &l.pack).collect::<Vec<_>>(), [&a, &b]);
        assert_eq!(found(4), []);
        assert_eq!(index.entries(&b).unwrap(), [entry(3, 8), entry(2, 100)]);
        index.remove(&a).unwrap();
        index.remove(&a).unwrap();
        assert_eq!((found(1), found(2)), (vec![], vec![Located { pack: b.clone(), entry: entry(2, 100) }]));
        assert_eq!((index.packs().unwrap(), index.has_pack(&a).unwrap()), (vec![b], false));
    }

    #[test]
    fn marks_are_set_once_and_cleared_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        let ids = [ChunkId([0; ID_LEN]), ChunkId([0xff; ID_LEN])];
        for (id, kind) in ids.iter().flat_map(|id| [(id, Kind::Data), (id, Kind::Page)]) {
            assert!(
                index.mark(kind, id).unwrap() && !index.mark(kind, id).unwrap() && index.is_marked(kind, id).unwrap()
            );
        }
        let mut found = Vec::new();
        let mut note = |id| {
            found.push(id);
            Ok(())
        };
        index.for_marked(Kind::Data, &mut note).unwrap();
        assert_eq!(found, ids);
        index.clear_marks().unwrap();
        assert!(
            ids.iter().all(|id| !index.is_marked(Kind::Data, id).unwrap() && !index.is_marked(Kind::Page, id).unwrap())
        );
    }

    #[test]
    fn an_index_of_an_earlier_version_is_laid_out_anew_and_keeps_what_it_knows() {
        const FAMILIES: [&str; 3] = [CHUNKS, PACKS, MARKS];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index-0");
        let partitions = |db: &DB| {
            let name = "rocksdb.aggregated-table-properties";
            let properties = db.property_value_cf(db.cf_handle(CHUNKS).unwrap(), name).unwrap().unwrap();
            properties.contains("# index partitions")
        };
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let mut chunks = options.clone();
        chunks.set_prefix_extractor(SliceTransform::create_fixed_prefix(ID_LEN));
        let families = FAMILIES.map(|name| {
            ColumnFamilyDescriptor::new(name, if name == CHUNKS { chunks.clone() } else { options.clone() })
        });
        let old = Index { db: Arc::new(DB::open_cf_descriptors(&options, &path, families).unwrap()) };
        let a = pack("a", 1);
        old.add(&a, &[entry(1, 8), entry(2, 20)]).unwrap();
        old.note_seen(7, "abc").unwrap();
        FAMILIES.iter().for_each(|name| old.db.flush_cf(old.family(name).unwrap()).unwrap());
        assert!(!partitions(&old.db));
        drop(old);
        let index = Index::open(dir.path()).unwrap();
        assert!(partitions(&index.db));
        assert_eq!(index.entries(&a).unwrap(), [entry(1, 8), entry(2, 20)]);
        assert_eq!(index.find(&ChunkId([1; ID_LEN])).unwrap(), [Located { pack: a, entry: entry(1, 8) }]);
        assert_eq!(index.seen().unwrap(), Some((7, "abc".to_owned())));
    }

    #[test]
    fn a_path_with_a_lock_in_its_name_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("block-storage");
        // What cannot be read there is held by nobody.
        std::fs::create_dir_all(directory.join("index-0/CURRENT")).unwrap();
        let index = Index::open(&directory).unwrap();
        assert!(index.packs().unwrap().is_empty() && !directory.join("index-1").exists());
    }

    #[test]
    fn another_process_has_an_index_of_its_own() {
        const DIRECTORY: &str = "CAIRN_TEST_INDEX";
        // It is this test that runs as the other process, too.
        if let Some(directory) = std::env::var_os(DIRECTORY) {
            drop(Index::open(Path::new(&directory)).unwrap());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let _held = Index::open(dir.path()).unwrap();
        let mut other = std::process::Command::new(std::env::current_exe().unwrap());
        let other = other.args(["--exact", "index::tests::another_process_has_an_index_of_its_own"]);
        let output = other.env(DIRECTORY, dir.path()).output().unwrap();
        assert!(output.status.success() && dir.path().join("index-1").exists(), "{output:?}");
    }

    #[test]
    fn what_was_seen_of_the_log_is_there_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        assert_eq!(index.seen().unwrap(), None);
        index.note_seen(7, "abc").unwrap();
        drop(index);
        assert_eq!(Index::open(dir.path()).unwrap().seen().unwrap(), Some((7, "abc".to_owned())));
    }

    #[test]
    fn a_second_program_has_an_index_of_its_own_and_a_broken_one_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let first = Index::open(dir.path()).unwrap();
        first.add(&pack("a", 1), &[entry(1, 8)]).unwrap();
        let second = Index::open(dir.path()).unwrap();
        assert!(second.packs().unwrap().is_empty());
        drop((first, second));
        assert_eq!(Index::open(dir.path()).unwrap().packs().unwrap().len(), 1);
        std::fs::write(dir.path().join("index-0/CURRENT"), "no manifest").unwrap();
        assert!(Index::open(dir.path()).unwrap().packs().unwrap().is_empty());
    }
}

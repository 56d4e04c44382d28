//! Reading a whole pool back, and what every recovered pool must be able to do.

use cairn_engine::{
    ErrorKind, IoBuf, LocalPool, LocalVolume, MIB, OpenOptions, QosTarget, Result, SECTOR, Target, VolumeOptions,
    sim::{self, Disk, Stopped},
};

use crate::{
    history::{History, Place, check},
    model::{Content, Family, Frozen, Live, tag_of},
    restore,
};

/// The family that a volume belongs to.
pub(crate) fn family_of(name: &str) -> Option<usize> {
    name.strip_prefix('c')?.split_once('-')?.0.parse().ok()
}

async fn content_of(open: &LocalVolume) -> Result<Content> {
    let mut content = Content::default();
    read_into(&mut content, open).await?;
    Ok(content)
}

/// Reads what there is over what is known.
async fn read_into(content: &mut Content, open: &LocalVolume) -> Result<()> {
    let size = open.size();
    let mut offset = Some(0);
    while let Some(at) = offset {
        let page = open.extents(at, size - at).await?;
        for extent in page.extents.iter().filter(|e| e.kind == cairn_engine::ExtentKind::Data) {
            let data = open.read(extent.offset, extent.length as usize).await?;
            let first = extent.offset / SECTOR;
            for (sector, bytes) in (first..).zip(data.chunks_exact(SECTOR as usize)) {
                // A sector that says nothing sensible is kept as a tag that nobody gave.
                content.set(sector, tag_of(sector, bytes).unwrap_or(u64::MAX));
            }
        }
        offset = page.next;
    }
    Ok(())
}

/// What a volume that is filling will hold: where there is nothing, what the backup has.
async fn restored(inner: &LocalVolume, family: usize) -> Result<Content> {
    let mut content = restore::content(family, inner.size());
    read_into(&mut content, inner).await?;
    Ok(content)
}

/// What limits a volume, as text.
pub(crate) fn limits_of(pool: &LocalPool, volume: &str) -> Result<String> {
    let info = pool.qos(&QosTarget::Volume(volume.to_owned()))?;
    Ok(format!("{} {}", info.limits, info.group.unwrap_or_default()).trim().to_owned())
}

/// Everything that `families` clients have in a pool.
pub(crate) async fn read_all(pool: &LocalPool, families: usize) -> Result<Vec<Family>> {
    let mut all = vec![Family::default(); families];
    for info in pool.list_volumes() {
        let number = family_of(&info.name);
        let Some(family) = number.and_then(|n| all.get_mut(n)) else { continue };
        // It may have become full since the list was made.
        let content = match (number, pool.open_to_fill(&info.name)) {
            (Some(number), Ok(inner)) => restored(&inner, number).await?,
            _ => content_of(&pool.open(&Target { volume: info.name.clone(), snapshot: None })?).await?,
        };
        let limits = limits_of(pool, &info.name)?;
        let mut live = Live { size: info.size, sync: info.options.sync, content, limits, ..Live::default() };
        for snapshot in pool.list_snapshots(Some(&info.name))? {
            let target = Target { volume: info.name.clone(), snapshot: Some(snapshot.name.clone()) };
            let content = content_of(&pool.open(&target)?).await?;
            let _new = live.snapshots.insert(snapshot.name, Frozen { size: snapshot.size, content });
        }
        let _new = family.volumes.insert(info.name, live);
    }
    Ok(all)
}

/// Fails unless the pool's map and nodes (with `data`, everything) are in order.
pub(crate) async fn check_clean(pool: &LocalPool, data: bool, when: &str) -> std::result::Result<(), String> {
    match pool.check(data, |_, _| {}).await {
        Ok(report) if report.is_clean() => Ok(()),
        Ok(report) => Err(format!("check {when}: {}", report.problems.join("; "))),
        Err(e) => Err(format!("check {when}: {e}")),
    }
}

/// Makes, writes, freezes and deletes a volume, fills what is filling, and lets deletion finish: a pool that was recovered is one to work with.
pub(crate) async fn use_pool(pool: &LocalPool) -> Result<()> {
    // A crash may have come in the midst of this, too.
    if pool.list_volumes().iter().any(|v| v.name == "probe") {
        let _deleted = pool.delete_volume("probe", true).await?;
    }
    let used = async {
        let volume = pool.create_volume("probe", 2 * MIB, VolumeOptions::default()).await?;
        let data = IoBuf::from(&[0x5a; 8192][..]);
        volume.write(MIB - 4096, data.clone(), false).await?;
        volume.write(512, IoBuf::from(&data[..512]), false).await?;
        volume.flush().await?;
        let _taken = pool.snapshot(&["probe@s".parse()?]).await?;
        volume.discard(0, 2 * MIB, false).await?;
        let back = pool.open(&"probe@s".parse()?)?.read(MIB - 4096, 8192).await?;
        if back[..] != data[..] {
            panic!("the probe's snapshot reads wrongly");
        }
        Ok(())
    };
    let outcome: Result<()> = used.await;
    match outcome {
        Ok(()) => {}
        // A full pool may refuse new data, but not that something is deleted.
        Err(e) if e.kind() == ErrorKind::NoSpace => {}
        Err(e) => return Err(e),
    }
    if pool.list_volumes().iter().any(|v| v.name == "probe") {
        let _deleted = pool.delete_volume("probe", true).await?;
    }
    match restore::finish_all(pool).await {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NoSpace => {}
        Err(e) => return Err(e),
    }
    pool.wait_deleted().await
}

/// Opens what a crash at `moment` left and looks at everything. Returns where each family stands.
pub(crate) fn verify(
    disk: &Disk,
    histories: &[&History],
    moment: usize,
) -> std::result::Result<(Vec<Family>, Vec<Place>), String> {
    let families = histories.len();
    let opened = sim::run(disk, move |machine| async move {
        let pool = machine.open_pool(OpenOptions::new()).await.map_err(|e| format!("opening: {e}"))?;
        // Nothing is damaged, so nothing may look so; the copies of a superblock that was being written are no damage.
        if pool.stats().checksum_errors > 0 {
            return Err(format!("opening met damage: {:?}", pool.events(0)));
        }
        let found = read_all(&pool, families).await.map_err(|e| format!("reading: {e}"))?;
        check_clean(&pool, true, "after opening").await?;
        use_pool(&pool).await.map_err(|e| format!("using the pool: {e}"))?;
        check_clean(&pool, false, "after deletion").await?;
        let again = read_all(&pool, families).await.map_err(|e| format!("reading again: {e}"))?;
        for (i, (before, after)) in found.iter().zip(&again).enumerate() {
            if before.digest() != after.digest() {
                return Err(format!("deletion changed family {i}: {}", after.explain(before)));
            }
        }
        Ok(found)
    });
    let found = match opened {
        Ok(found) => found?,
        Err(Stopped::Hangs) => return Err("the pool hangs".to_owned()),
    };
    let places = check(histories, &found, moment)?;
    Ok((found, places))
}

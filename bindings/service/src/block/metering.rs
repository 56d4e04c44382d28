//! Metering as it runs: counters are read every few seconds and added to the open intervals; intervals end with their objects, when these
//! change, and after a time.

use cairn_engine::{ErrorKind, VolumeStats};
use std::time::Duration;

use super::{Block, Caller};
use crate::{
    catalog::{
        Backup, Holding, Image, Io, Meter, OpenMeter, Part, Record, Seen, Snapshot, Tx, Volume, Window, engine_volume,
        now_us,
    },
    fault::Answer,
};

/// Intervals that one transaction ends or begins.
const AT_ONCE: usize = 128;
/// After this time an interval without I/O ends too.
const LONGEST: Duration = Duration::from_hours(24);
/// Between two looks for what has grown too old.
const EXPIRE: Duration = Duration::from_mins(10);

/// Which records.
#[derive(Clone, Debug, Default)]
pub(crate) struct MeterFilter {
    /// Administrators: of this project; left out: of all.
    pub(crate) project: Option<String>,
    pub(crate) object: Option<String>,
    /// `volume`, `snapshot`, `backup`, `image`.
    pub(crate) kind: Option<String>,
    /// Intervals that end after this moment.
    pub(crate) from_us: Option<u64>,
    /// And begin before this one.
    pub(crate) to_us: Option<u64>,
}

fn io_of(stats: &VolumeStats) -> Io {
    let flows = &stats.flows;
    Io {
        read_requests: flows.read.requests,
        read_bytes: flows.read.bytes,
        write_requests: flows.write.requests,
        write_bytes: flows.write.bytes,
        discard_requests: flows.discard.requests,
        discard_bytes: flows.discard.bytes,
        flush_requests: flows.flush.requests,
    }
}

impl Block {
    /// Adds what was read and written since the last time to the open intervals.
    pub(crate) async fn count_io(&self) -> Answer<()> {
        // One at a time, or older counters could come after newer ones.
        let _turn = self.inner.counting.lock().await;
        self.add_io(&self.inner.pool.volume_stats().await?)
    }

    /// The same for one volume, if it is in the pool.
    pub(crate) async fn count_io_of(&self, id: &str) -> Answer<()> {
        let _turn = self.inner.counting.lock().await;
        match self.inner.pool.volume_stats_of(&engine_volume(id)).await {
            Ok(stats) => self.add_io(&[stats]),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn add_io(&self, stats: &[VolumeStats]) -> Answer<()> {
        let mut seen = Vec::new();
        {
            let tx = self.inner.catalog.read();
            for volume in stats {
                let (Some(id), Some(object)) = (volume.id, volume.name.strip_prefix("volume-")) else { continue };
                let now = Seen { opening: self.inner.opening.clone(), volume: id.0, io: io_of(volume) };
                let key = format!("{}/{object}", Volume::KIND.tag);
                if tx
                    .get::<OpenMeter>(&key)?
                    .is_some_and(|open| open.seen != now && !(now.io.is_none() && open.seen.io.is_none()))
                {
                    seen.push((key, now));
                }
            }
        }
        for part in seen.chunks(AT_ONCE) {
            self.inner.catalog.write(|tx| part.iter().try_for_each(|(key, now)| tx.count_io(key, now.clone())))?;
        }
        Ok(())
    }

    /// Sees to it that each object that holds space has an open interval: those of an older version had none.
    pub(crate) fn open_meters(&self) -> Answer<()> {
        let missing = {
            let tx = self.inner.catalog.read();
            let mut missing = without_interval::<Volume>(&tx)?;
            missing.extend(without_interval::<Snapshot>(&tx)?);
            missing.extend(without_interval::<Backup>(&tx)?);
            missing.extend(without_interval::<Image>(&tx)?);
            missing
        };
        let now = now_us();
        for part in missing.chunks(AT_ONCE) {
            let open =
                |tx: &mut Tx<'_>| part.iter().try_for_each(|holding| tx.open_meter(holding, now, Seen::default()));
            self.inner.catalog.write(open)?;
        }
        Ok(())
    }

    /// Ends the open intervals that began before `at_us` and that `fits` chooses; the next ones begin at the same moment.
    pub(crate) fn close_meters(&self, at_us: u64, fits: impl Fn(&OpenMeter) -> bool) -> Answer<usize> {
        let open = self.inner.catalog.read().all::<OpenMeter>()?;
        let open: Vec<OpenMeter> = open.into_iter().filter(|open| open.since_us < at_us && fits(open)).collect();
        for part in open.chunks(AT_ONCE) {
            self.inner.catalog.write(|tx| part.iter().try_for_each(|open| tx.roll_meter(&open.key, at_us)))?;
        }
        Ok(open.len())
    }

    /// Ends those that have lasted long enough.
    fn close_ripe(&self) -> Answer<()> {
        let now = now_us();
        let (usual, longest) = (self.inner.settings.meter_interval.as_micros() as u64, LONGEST.as_micros() as u64);
        let ripe = |open: &OpenMeter| {
            let lasted = now.saturating_sub(open.since_us);
            lasted >= if open.io.is_none() { usual.max(longest) } else { usual }
        };
        self.close_meters(now, ripe).map(drop)
    }

    /// Ends what was open when the daemon ended: from what was recorded. Only volumes have I/O; what else there is goes on.
    fn close_old(&self, started_us: u64) -> Answer<usize> {
        let volumes = format!("{}/", Volume::KIND.tag);
        self.close_meters(started_us, |open| open.key.starts_with(&volumes))
    }

    /// Counts, ends intervals and forgets what is too old, until the service stops.
    pub(crate) async fn tend(&self) {
        let say = |what: &str, outcome: Answer<()>| {
            if let Err(fault) = outcome {
                tracing::error!(%fault, "{what}");
            }
        };
        say("intervals of metering cannot be ended", self.close_old(self.inner.started_us).map(drop));
        let mut tick = tokio::time::interval(self.inner.settings.meter_sample);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut closed, mut expired) = (tokio::time::Instant::now(), tokio::time::Instant::now());
        loop {
            let _at = tick.tick().await;
            say("I/O cannot be counted", self.count_io().await);
            let often = self.inner.settings.meter_interval.min(Duration::from_mins(1));
            if closed.elapsed() >= often {
                say("intervals of metering cannot be ended", self.close_ripe());
                closed = tokio::time::Instant::now();
            }
            if expired.elapsed() >= EXPIRE {
                say("old records cannot be taken out", self.expire());
                expired = tokio::time::Instant::now();
            }
        }
    }

    /// Takes out what has grown too old.
    pub(crate) fn expire(&self) -> Answer<()> {
        while self.inner.catalog.write(|tx| tx.expire_events(AT_ONCE as u64))? > 0 {}
        while self.inner.catalog.write(|tx| tx.expire::<Meter>(AT_ONCE as u64))? > 0 {}
        while self.inner.catalog.write(|tx| tx.expire_messages(AT_ONCE))? > 0 {}
        Ok(())
    }

    /// A page of records, those that ended last first: of the caller's project, or, for administrators, of all.
    pub(crate) fn meters(
        &self,
        caller: &Caller,
        filter: &MeterFilter,
        marker: Option<&str>,
        limit: usize,
    ) -> Answer<Part<Meter>> {
        let project = caller.project_of_list(filter.project.as_deref());
        // An interval that ends at a moment has nothing after it.
        let from_us = filter.from_us.map(|from| from.saturating_add(1));
        let window = Window { project, object: filter.object.as_deref(), from_us, marker, limit };
        self.inner.catalog.read().window(&window, |meter: &Meter| {
            project.is_none_or(|project| meter.project == project)
                && filter.kind.as_ref().is_none_or(|kind| meter.kind == *kind)
                && filter.to_us.is_none_or(|to| meter.from_us < to)
        })
    }

    /// Ends all open intervals now, so that what there is up to here can be listed.
    pub(crate) async fn close_all_meters(&self, caller: &Caller) -> Answer<usize> {
        caller.require_admin("metering:close")?;
        self.count_io().await?;
        self.close_meters(now_us(), |_| true)
    }
}

fn without_interval<R: Record>(tx: &Tx<'_>) -> Answer<Vec<Holding>> {
    let mut missing = Vec::new();
    for holding in tx.all::<R>()?.iter().filter_map(Record::holding) {
        if tx.get::<OpenMeter>(&holding.key())?.is_none() {
            missing.push(holding);
        }
    }
    Ok(missing)
}

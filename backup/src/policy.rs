//! Retention: which backups of a volume stay. Those that go are merged, so that chains of incrementals can be kept for ever.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    error::{Result, invalid},
    log::{
        record::{Backup, Change},
        state::Refusal,
    },
    repository::{Repository, client},
};

/// How many backups stay: of each kind, the newest of so many hours, days, … that have one. A backup stays if any rule keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// The newest.
    pub last: u32,
    /// The newest of each hour.
    pub hourly: u32,
    /// The newest of each day (UTC).
    pub daily: u32,
    /// The newest of each ISO week.
    pub weekly: u32,
    /// The newest of each month.
    pub monthly: u32,
    /// The newest of each year.
    pub yearly: u32,
}

/// What becomes of one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// It.
    pub backup: Backup,
    /// The rules that keep it; none: it goes.
    pub kept_by: Vec<String>,
}

/// The number of a period, by the number of the rule.
fn period(rule: usize, moment: OffsetDateTime) -> (i32, u32) {
    let (iso_year, week, _) = moment.to_iso_week_date();
    match rule {
        0 => (moment.to_julian_day(), u32::from(moment.hour())),
        1 => (moment.to_julian_day(), 0),
        2 => (iso_year, week.into()),
        3 => (moment.year(), u8::from(moment.month()).into()),
        _ => (moment.year(), 0),
    }
}

impl Policy {
    /// What becomes of the backups of one volume; newest first.
    #[must_use]
    pub fn judge(&self, backups: &[Backup]) -> Vec<Verdict> {
        let mut sorted: Vec<&Backup> = backups.iter().collect();
        sorted.sort_by_key(|backup| std::cmp::Reverse((backup.data_ms, backup.number)));
        let rules = [
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ];
        let mut seen: [Option<(i32, u32)>; 5] = [None; 5];
        let mut left = rules.map(|(_, count)| count);
        let verdicts = sorted.into_iter().enumerate().map(|(i, backup)| {
            let mut kept_by = Vec::new();
            if i < self.last as usize {
                kept_by.push("last".to_owned());
            }
            let moment = OffsetDateTime::from_unix_timestamp((backup.data_ms / 1000) as i64);
            let moment = moment.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            for (rule, (name, _)) in rules.iter().enumerate() {
                let period = period(rule, moment);
                if left[rule] > 0 && seen[rule] != Some(period) {
                    seen[rule] = Some(period);
                    left[rule] -= 1;
                    kept_by.push((*name).to_owned());
                }
            }
            Verdict { backup: backup.clone(), kept_by }
        });
        verdicts.collect()
    }

    fn keeps_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Repository {
    /// Applies a policy to each volume's backups, or to those of one; with `dry_run` it only says what would become of them.
    ///
    /// # Errors
    /// `Invalid` for a policy that keeps nothing, `Store`.
    pub async fn prune(&self, policy: &Policy, volume: Option<&str>, dry_run: bool) -> Result<Vec<Verdict>> {
        if policy.keeps_nothing() {
            return Err(invalid("the policy keeps nothing: give at least one of --keep-last, --keep-daily, …"));
        }
        let mut volumes: BTreeMap<(String, u64), Vec<Backup>> = BTreeMap::new();
        for backup in self.backups().await? {
            if volume.is_none_or(|name| name == backup.origin.volume) {
                volumes.entry((backup.origin.pool.clone(), backup.origin.volume_id)).or_default().push(backup);
            }
        }
        let verdicts: Vec<Verdict> = volumes.values().flat_map(|backups| policy.judge(backups)).collect();
        if !dry_run {
            for verdict in verdicts.iter().filter(|verdict| verdict.kept_by.is_empty()) {
                match self.try_write(&client(), Change::Merge { backup: verdict.backup.id.clone() }).await? {
                    // Somebody else has deleted it meanwhile.
                    Ok(_) | Err(Refusal::NoBackup(_)) => {}
                    Err(refusal) => return Err(self.explain(&refusal)),
                }
                drop(self.store().delete(&crate::create::manifest(&verdict.backup.id)).await);
            }
        }
        Ok(verdicts)
    }
}
